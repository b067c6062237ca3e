"""Rows of usage: bad ones are told with their line, and no hour counts twice."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.cost.usage import demand_declared, demand_no_contradiction, rows_of
from gpufleet.edges.usage_file import read_usage
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.flows.costs import Span, demand_effect, months_of
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.usage import SHARED, Usage

NOW = datetime(2026, 11, 25, 22, 25, 3, tzinfo=UTC)
BEGIN = datetime(2026, 11, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
HEAD = "begin,pool,use_case,requests,successful,prompt_tokens,output_tokens,gpu_hours,mean_watts"
LINE = "2026-11-05T00:00:00Z,chat,support-chat,10,9,100,20,1.5,"


@pytest.fixture(scope="module")
def sample() -> Fleet:
    return load_fleet(PROJECT_ROOT / Path("fleets/sample/production.yaml"))


def usage(begin: datetime, use_case: str = "support-chat", hours: int = 1) -> Usage:
    return Usage(
        begin=begin,
        hours=hours,
        pool="chat",
        use_case=use_case,
        requests=1,
        prompt_tokens=1,
        output_tokens=1,
        gpu_hours=1,
    )


def test_a_file_of_usage_is_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    file.write_text(f"# from the billing system\n{HEAD}\n{LINE}\n")
    ((place, row),) = read_usage(file)
    assert place == f"{file}:3"
    assert (row.begin, row.hours, row.requests, row.successful) == (BEGIN, 1, 10, 9)
    assert row.mean_watts is None


def test_a_spreadsheet_s_byte_order_mark_is_no_part_of_a_column(tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    file.write_text(f"{HEAD}\n{LINE}\n", encoding="utf-8-sig")
    assert len(read_usage(file)) == 1


@pytest.mark.parametrize(
    ("lines", "where", "says"),
    [
        ("", "usage.csv", "no rows"),
        (LINE.replace("00:00:00Z", "00:00:00"), ":2: begin", "timezone"),
        (LINE.replace("00:00:00Z", "00:30:00Z"), ":2: begin", "not a whole hour"),
        (LINE.replace("00:00:00Z", "00:00:00+05:30"), ":2: begin", "18:30:00+00:00, which is not"),
        (LINE.replace("2026-11-05", "0001-01-01"), ":2: begin", "outside the years"),
        (LINE.replace("2026-11-05", "9999-12-31"), ":2: begin", "outside the years"),
        (LINE.replace(",10,9,", ",10,11,"), ":2", "more successful tasks (11) than requests"),
        (LINE.replace(",10,9,", ",-1,,"), ":2: requests", "-1"),
        (LINE.replace(",1.5,", ",nan,"), ":2: gpu_hours", "nan"),
        (LINE.replace(",1.5,", ",,"), ":2: gpu_hours", "missing"),
        (f"{LINE}\n{LINE}", ":3", "same hours, pool and use case"),
        (f"{LINE},7", ":2", "more values"),
    ],
)
def test_a_slip_in_a_file_of_usage_is_told_with_its_line(
    tmp_path: Path, lines: str, where: str, says: str
) -> None:
    file = tmp_path / "usage.csv"
    file.write_text(f"{HEAD}\n{lines}\n")
    with pytest.raises(BadInput) as told:
        read_usage(file)
    assert told.value.where.endswith(where)
    assert says in told.value.what


def test_a_row_of_any_offset_is_one_of_utc(tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    file.write_text(f"{HEAD}\n{LINE.replace('00:00:00Z', '05:30:00+05:30')}\n")
    ((_, row),) = read_usage(file)
    assert row.begin.isoformat() == "2026-11-05T00:00:00+00:00"


def test_an_unknown_pool_is_told_with_the_nearest_name(sample: Fleet) -> None:
    row = usage(BEGIN).model_copy(update={"pool": "chatt"})
    with pytest.raises(BadInput) as told:
        demand_declared(sample, "usage.csv:7", row)
    assert told.value.where == "usage.csv:7: pool"
    assert told.value.mend == "did you mean `chat`?"
    demand_declared(sample, "usage.csv:7", usage(BEGIN, SHARED))


def test_no_hour_counts_twice() -> None:
    hour = usage(BEGIN + 3 * HOUR)
    demand_no_contradiction([hour], [hour, usage(BEGIN + 4 * HOUR)])
    with pytest.raises(BadInput, match="03:00 UTC would count twice"):
        demand_no_contradiction([hour], [usage(BEGIN, hours=24)])
    with pytest.raises(BadInput, match="whole pool and of one use case"):
        demand_no_contradiction([hour], [usage(hour.begin, SHARED)])


def test_days_that_overlap_are_refused_in_a_file_and_beside_what_is_kept() -> None:
    day, later = usage(BEGIN, hours=24), usage(BEGIN + 12 * HOUR, hours=24)
    for kept, new in (([], [day, later]), ([later], [day])):
        with pytest.raises(BadInput, match="12:00 UTC would count twice: two rows of 24 hours"):
            demand_no_contradiction(kept, new)
    other = usage(BEGIN + 12 * HOUR, "agent-assist", hours=24)
    demand_no_contradiction([day], [day, other, usage(BEGIN + 24 * HOUR, hours=24)])


def test_an_hour_in_which_a_site_was_not_seen_has_no_row(sample: Fleet) -> None:
    end = BEGIN + HOUR
    cells = {("fra1", "chat", SHARED): 60.0}
    observed = {
        name: {end: cells}
        for name in ("requests", "prompt_tokens", "output_tokens", "replicas", "minutes")
    } | {"watts": {}}
    found = rows_of(sample, observed, BEGIN, end)
    assert not found.rows
    assert len(found.gaps) == len(sample.pools)
    both = {end: {**cells, ("dub1", "chat", SHARED): 60.0}}
    seen = {name: both for name in observed if name != "watts"} | {"watts": {}}
    (row,) = rows_of(sample, seen, BEGIN, end).rows
    assert row.requests == 120
    # 60 replicas of 4 GPUs at each site
    assert row.gpu_hours == 480
    assert row.mean_watts is None


@pytest.mark.parametrize(("minutes", "rows"), [(57.0, 1), (56.0, 0)])
def test_an_hour_that_was_seen_in_part_is_a_gap(sample: Fleet, minutes: float, rows: int) -> None:
    end = BEGIN + HOUR
    cells = {("fra1", "chat", SHARED): 60.0, ("dub1", "chat", SHARED): 60.0}
    observed = {
        name: {end: cells} for name in ("requests", "prompt_tokens", "output_tokens", "replicas")
    }
    seen = {end: {**cells, ("dub1", "chat", SHARED): minutes}}
    found = rows_of(sample, observed | {"minutes": seen, "watts": {}}, BEGIN, end)
    assert len(found.rows) == rows


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["requests", "output_tokens", "replicas", "minutes", "watts"])
def test_what_is_no_number_is_not_known(sample: Fleet, name: str, value: float) -> None:
    end = BEGIN + HOUR
    cells = {("fra1", "chat", SHARED): 60.0, ("dub1", "chat", SHARED): 60.0}
    names = ("requests", "prompt_tokens", "output_tokens", "replicas", "minutes", "watts")
    observed = {each: {end: dict(cells)} for each in names}
    observed[name][end]["dub1", "chat", SHARED] = value
    found = rows_of(sample, observed, BEGIN, end)
    if name == "watts":
        assert found.rows[0].mean_watts is None
    else:
        assert not found.rows


def test_measured_boards_get_their_share_of_the_node(sample: Fleet) -> None:
    end = BEGIN + HOUR
    cells = {("fra1", "chat", SHARED): 60.0, ("dub1", "chat", SHARED): 60.0}
    names = ("requests", "prompt_tokens", "output_tokens", "replicas", "minutes")
    observed = {name: {end: cells} for name in names} | {
        "watts": {end: dict.fromkeys(cells, 400.0)}
    }
    (row,) = rows_of(sample, observed, BEGIN, end).rows
    assert row.mean_watts == 400 + 1400 / 8


def test_a_period_ends_with_the_last_whole_hour() -> None:
    assert Span.of(NOW) == Span(datetime(2026, 11, 1, tzinfo=UTC), NOW.replace(minute=0, second=0))
    october = Span.of(NOW, month="2026-10")
    assert october.end == datetime(2026, 11, 1, tzinfo=UTC)
    assert Span.of(NOW, begin="2026-11-05") == Span(BEGIN, BEGIN + 24 * HOUR)
    assert Span.of(NOW, begin="2026-11-05", end="2026-11-06").end == BEGIN + 48 * HOUR


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"month": "2026-13"}, "not a date"),
        ({"month": "november"}, "not a date"),
        ({"month": "2026-12"}, "over yet"),
        ({"begin": "2026-11-32"}, "not a date"),
        ({"month": "9999-12"}, "outside the years"),
        ({"begin": "0001-01-01"}, "outside the years"),
        ({"begin": "2026-11-01", "end": "9999-12-31"}, "outside the years"),
        ({"begin": "2000-01-01", "end": "2026-11-01"}, "longer than 60 months"),
        ({"begin": "2026-11-05", "end": "2026-11-01"}, "ends before it begins"),
        ({"begin": "2027-01-01"}, "over yet"),
        ({"end": "2026-11-05"}, "either a month"),
        ({"month": "2026-11", "begin": "2026-11-05"}, "either a month"),
    ],
)
def test_a_period_that_is_none_is_told(given: dict[str, str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Span.of(NOW, **given)


@pytest.mark.parametrize("months", ["abc", "", "0", "61", "-1", "1.5", "²", "00121", "9" * 5000])
def test_a_number_of_months_that_is_none_is_told(months: str) -> None:
    with pytest.raises(BadInput, match="whole number from 1 to 60"):
        months_of(months)
    assert months_of("12") == 12


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"prometheus": "http://127.0.0.1:1"}, "--prometheus"),
        ({"prometheus": "http://127.0.0.1:1", "usage": "u.csv"}, "--prometheus"),
        ({"apply": True}, "--apply"),
        ({"focus": "f.csv", "usage": "u.csv"}, "--focus"),
        ({"focus": "f.csv", "collect": True}, "--focus"),
        ({"usage": "u.csv", "collect": True}, "--usage"),
        ({"usage": "u.csv", "period": "2026-11"}, "--usage"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(given: dict[str, Any], option: str) -> None:
    none: dict[str, Any] = {
        "collect": False,
        "prometheus": "",
        "usage": "",
        "apply": False,
        "focus": "",
        "period": "",
    }
    demand_effect(**none)
    demand_effect(**none | {"usage": "u.csv", "apply": True, "focus": "f.csv"})
    with pytest.raises(BadInput) as told:
        demand_effect(**none | given)
    assert told.value.where == option


@given(text=st.text(max_size=200))
def test_no_text_makes_a_file_of_usage_fail_in_any_other_way(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.mktemp("usage") / "usage.csv"
    file.write_bytes(f"{HEAD}\n{text}".encode("utf-8", "surrogatepass"))
    with pytest.raises(BadInput):
        read_usage(file)
