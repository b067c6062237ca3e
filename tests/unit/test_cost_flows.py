"""Costs through the environment's database: collected once, counted once, compared, exported."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.costs import (
    Span,
    actual_costs,
    compare_costs,
    forecast_costs,
    plan_of,
    write_collection,
    write_focus,
)
from gpufleet.flows.ground import Ground
from gpufleet.flows.verdicts import fresh_prices
from gpufleet.spec.errors import BadInput, PolicyRefused

ARTICLE = PROJECT_ROOT / "fleets/article/production.yaml"
HOUR = timedelta(hours=1)
YESTERDAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - 24 * HOUR
SPAN = Span(YESTERDAY, YESTERDAY + 2 * HOUR)
HEAD = "begin,pool,use_case,requests,prompt_tokens,output_tokens,gpu_hours"


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    opened = Ground.open(Workspace(tmp_path), ARTICLE)
    yield opened
    opened.close()


def usage_file(folder: Path, requests: int, hours: int = 2) -> str:
    file = folder / "usage.csv"
    rows = [
        f"{(YESTERDAY + hour * HOUR).isoformat()},answers,answers,{requests},"
        f"{500 * requests},{100 * requests},7"
        for hour in range(hours)
    ]
    file.write_text("\n".join([HEAD, *rows]))
    return str(file)


def test_a_plan_writes_nothing_and_the_same_file_twice_counts_once(
    ground: Ground, tmp_path: Path
) -> None:
    plan = plan_of(ground, SPAN, usage=usage_file(tmp_path, 100_000))
    assert plan.span == SPAN
    assert ground.usage.between(SPAN.begin, SPAN.end) == []
    assert write_collection(ground, plan) == 2
    once = actual_costs(ground, SPAN)
    assert write_collection(ground, plan) == 0
    assert actual_costs(ground, SPAN) == once
    assert once.periods[0].use_cases[0].requests == 200_000
    events = [record.event for record in ground.journal.records()]
    assert events.count("cost.collected") == 1


def test_a_mended_row_replaces_the_one_before(ground: Ground, tmp_path: Path) -> None:
    write_collection(ground, plan_of(ground, SPAN, usage=usage_file(tmp_path, 100_000)))
    mended = plan_of(ground, SPAN, usage=usage_file(tmp_path, 90_000, hours=1))
    assert write_collection(ground, mended) == 1
    assert actual_costs(ground, SPAN).periods[0].use_cases[0].requests == 190_000


def test_a_row_of_what_is_not_over_yet_is_told_with_its_line(
    ground: Ground, tmp_path: Path
) -> None:
    file = Path(usage_file(tmp_path, 1000, hours=1))
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    file.write_text(file.read_text() + f"\n{now.isoformat()},answers,answers,1,1,1,1\n")
    with pytest.raises(BadInput, match="not over yet") as told:
        plan_of(ground, SPAN, usage=str(file))
    assert told.value.where == f"{file}:3"


def test_the_variance_of_what_was_collected_adds_up(ground: Ground, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no usage was collected"):
        compare_costs(ground, SPAN)
    write_collection(ground, plan_of(ground, SPAN, usage=usage_file(tmp_path, 100_000)))
    found = compare_costs(ground, SPAN)
    assert sum((each.amount for each in found.causes), Decimal(0)) == found.variance
    # 360,000 were forecast for two hours of 50 requests/s, and 200,000 came
    volume = next(each.amount for each in found.causes if each.cause == "volume")
    assert volume < 0


def test_a_day_of_observed_hours_prices_the_forecast(ground: Ground, tmp_path: Path) -> None:
    before = forecast_costs(ground, 1).periods[0].pools[0]
    assert before.utilization == 0.6
    # 7 GPUs of 8 requests/s serve 201,600 requests in an hour, when they are full
    write_collection(ground, plan_of(ground, SPAN, usage=usage_file(tmp_path, 80_640, hours=24)))
    after = forecast_costs(ground, 1).periods[0].pools[0]
    assert after.utilization == pytest.approx(0.4)
    assert after.utilization_source == "25th percentile of 24 observed hours"
    assert before.cost_per_1k is not None
    assert after.cost_per_1k is not None
    assert after.cost_per_1k > before.cost_per_1k


def test_a_forecast_is_exported(ground: Ground, tmp_path: Path) -> None:
    file = tmp_path / "focus.csv"
    write_focus(ground, forecast_costs(ground, 2), str(file))
    assert file.read_text().startswith("BilledCost,")


@pytest.mark.parametrize("months", [0, -1, 61])
def test_a_forecast_of_no_month_or_of_a_lifetime_is_told(ground: Ground, months: int) -> None:
    with pytest.raises(BadInput, match="from 1 to 60"):
        forecast_costs(ground, months)


def test_a_stale_table_is_refused_before_anything_is_planned(tmp_path: Path) -> None:
    fleet = tmp_path / "production.yaml"
    text = ARTICLE.read_text(encoding="utf-8")
    fleet.write_text(f"{text}\ncosts: {{hosted_prices: prices.csv}}\n", encoding="utf-8")
    lines = ["provider,model,size,input_per_1m_tokens,output_per_1m_tokens,context_tokens"]
    (tmp_path / "prices.csv").write_text(
        "\n".join(["# priced: 2020-01-01", *lines, "a,b,small,1,1,9"])
    )
    with pytest.raises(PolicyRefused) as told:
        fresh_prices(Workspace(tmp_path), fleet)
    assert told.value.exit_code == 3
    assert "prices.csv: priced" in told.value.where
