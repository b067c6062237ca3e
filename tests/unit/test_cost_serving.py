"""Costs of pools, use cases and teams, by hand and as properties."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpufleet.core.cost.actual import actual, observed_utilization
from gpufleet.core.cost.forecast import forecast, planned_use
from gpufleet.core.cost.serving import (
    ObservedHour,
    capacity_of,
    conservative_utilization,
    month_of,
    work_of,
)
from gpufleet.core.cost.variance import compare
from gpufleet.core.cost.volume import burst_share, peak_share, requests_between
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.checks import problems
from gpufleet.spec.cost_reports import PeriodCost
from gpufleet.spec.serving import Traffic
from gpufleet.spec.usage import NOBODY, SHARED, Usage

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
JANUARY = datetime(2027, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def article() -> Fleet:
    return load_fleet(PROJECT_ROOT / Path("fleets/article/production.yaml"))


@pytest.fixture(scope="module")
def sample() -> Fleet:
    return load_fleet(PROJECT_ROOT / Path("fleets/sample/production.yaml"))


def row(begin: datetime, pool: str, use_case: str, requests: int, **more: object) -> Usage:
    fields = {
        "begin": begin,
        "pool": pool,
        "use_case": use_case,
        "requests": requests,
        "prompt_tokens": 500 * requests,
        "output_tokens": 100 * requests,
        "gpu_hours": 7.0,
    }
    return Usage.model_validate(fields | more)


def adds_up(period: PeriodCost) -> None:
    pools = sum((pool.total for pool in period.pools), Decimal(0))
    assert pools + period.unassigned + period.unobserved == period.total
    for pool in period.pools:
        assert pool.parts.total == pool.total
        if pool.use_cases:
            assert sum(each.served for each in pool.use_cases) == pool.served
            assert sum(each.idle for each in pool.use_cases) == pool.idle
    assert sum(team.total for team in period.teams) == period.total
    assert all(amount >= 0 for amount in (period.unassigned, period.unobserved, period.idle))


def test_the_article_s_price_is_what_a_person_computes(article: Fleet) -> None:
    (month,) = forecast(article, date(2026, 12, 24), 1).periods
    (answers,) = month.use_cases
    # 50 requests/s for 31 days
    assert answers.requests == 133_920_000
    # 1.319660 an hour / (8 requests/s x 3,600 x 60 %), and 15 % on top
    assert answers.cost_per_1k == Decimal("0.087825")
    assert answers.cost_per_task == Decimal("0.000087825")
    # 16 GPUs are owned, 10 kept: at 60 % the requests take 10.4 of them, so none of them is idle
    (pool,) = month.pools
    assert pool.gpus == 10
    assert pool.gpu_hours == pool.served_gpu_hours == Decimal(7440)
    assert pool.idle == 0
    assert pool.served == Decimal("9818.27")
    # six further GPUs at 1.227932 an hour
    assert month.unassigned == Decimal("5481.49")
    assert month.total == Decimal("15299.76")
    adds_up(month)


def test_a_task_costs_what_the_requests_for_it_cost(sample: Fleet) -> None:
    (month,) = forecast(sample, date(2026, 11, 1), 1).periods
    for row in month.use_cases:
        assert row.cost_per_1k is not None
        assert row.cost_per_task is not None
        rate = sample.use_cases[row.use_case].success_rate
        assert float(row.cost_per_task) == pytest.approx(
            float(row.cost_per_1k) / 1000 / rate, rel=0.01
        )
        assert row.successful == pytest.approx(row.requests * rate, abs=1)


def test_a_team_s_price_is_the_mean_of_its_use_cases_by_requests(sample: Fleet) -> None:
    (month,) = forecast(sample, date(2026, 11, 1), 1).periods
    support = next(team for team in month.teams if team.team == "support")
    mine = [row for row in month.use_cases if row.team == "support"]
    assert len(mine) == 2
    assert support.served == sum(row.served for row in mine)
    low, high = sorted(row.cost_per_1k or Decimal(0) for row in mine)
    assert support.cost_per_1k is not None
    assert low < support.cost_per_1k < high
    assert support.cost_per_task is not None
    spent = support.cost_per_1k * support.requests / 1000
    assert float(support.cost_per_task * support.successful) == pytest.approx(float(spent), 1e-3)


def test_every_forecast_month_of_the_sample_adds_up(sample: Fleet) -> None:
    report = forecast(sample, date(2026, 12, 1), 4)
    assert [period.begin.month for period in report.periods] == [12, 1, 2, 3]
    for period in report.periods:
        adds_up(period)
        assert {team.team for team in period.teams} >= set(sample.teams)


@given(
    rates=st.lists(st.floats(1e-3, 1e4), min_size=8, max_size=8),
    price=st.decimals(0, 10**6, places=2),
)
@settings(max_examples=25, deadline=None)
def test_costs_add_up_whatever_the_traffic_and_prices(
    sample: Fleet, rates: list[float], price: Decimal
) -> None:
    use_cases = {
        name: each.model_copy(update={"traffic": Traffic(rate_rps=rate, time_zone="Europe/Berlin")})
        for (name, each), rate in zip(sample.use_cases.items(), rates, strict=True)
    }
    groups = {
        name: group.model_copy(update={"price_per_node": price})
        for name, group in sample.node_groups.items()
    }
    fleet = sample.model_copy(update={"use_cases": use_cases, "node_groups": groups})
    adds_up(forecast(fleet, date(2026, 12, 1), 1).periods[0])


@given(more=st.floats(1, 20))
@settings(max_examples=20, deadline=None)
def test_more_traffic_never_serves_for_less(sample: Fleet, more: float) -> None:
    grown = sample.model_copy(
        update={
            "use_cases": {
                name: each.model_copy(
                    update={
                        "traffic": each.traffic.model_copy(
                            update={"rate_rps": each.traffic.rate_rps * more}
                        )
                    }
                )
                for name, each in sample.use_cases.items()
            }
        }
    )
    for name in sample.pools:
        capacity = capacity_of(sample, name)
        before, after = (
            planned_use(fleet, name, capacity, begin=DECEMBER, end=JANUARY)
            for fleet in (sample, grown)
        )
        assert after.served_share >= before.served_share


def test_a_pool_is_split_by_the_work_of_its_use_cases(sample: Fleet) -> None:
    (month,) = forecast(sample, date(2026, 11, 1), 1).periods
    chat = next(pool for pool in month.pools if pool.pool == "chat")
    support, agents = chat.use_cases
    work = support.work / (support.work + agents.work)
    assert float(support.served / chat.served) == pytest.approx(work, abs=1e-6)
    assert work_of(1155, 211) * support.requests == pytest.approx(support.work, rel=1e-6)


def test_declared_peaks_are_in_the_month_that_they_fall_in(sample: Fleet) -> None:
    november, december = forecast(sample, date(2026, 11, 1), 2).periods
    agents = [
        next(row for row in month.use_cases if row.use_case == "agent-assist")
        for month in (november, december)
    ]
    assert agents[1].requests > agents[0].requests
    traffic = sample.use_cases["document-extraction"].traffic
    # flat 6 requests/s; three of December's 31 days bring three times as much
    assert requests_between(traffic, DECEMBER, JANUARY) == pytest.approx(
        6 * 3600 * 24 * (31 + 2 * 3)
    )
    assert peak_share(traffic, DECEMBER, JANUARY) == pytest.approx(6 / 37)


def test_only_bursts_over_a_usual_day_s_room_count_as_bursts(sample: Fleet) -> None:
    flat = Traffic(rate_rps=1000, index_of_dispersion=1)
    # 1,000 requests/s: 10,000 in 10 s, deviation 100, and 0.3989 of it above the mean
    assert burst_share(flat, DECEMBER, DECEMBER + 24 * HOUR) == pytest.approx(0.003989, rel=1e-3)
    quiet = Traffic(rate_rps=1000, index_of_dispersion=1, hourly=[0.01] * 23 + [1])
    assert burst_share(quiet, DECEMBER, DECEMBER + 24 * HOUR) < 0.004
    agents = sample.use_cases["agent-assist"].traffic
    assert burst_share(agents, DECEMBER, JANUARY) > peak_share(agents, DECEMBER, JANUARY) / 3


def test_the_conservative_utilization_is_what_three_quarters_of_the_work_saw() -> None:
    assert conservative_utilization([ObservedHour(0.9, 1)] * 23, 0.6)[0] == 0.6
    seen = [ObservedHour(share, 1) for share in (0.1, 0.2, 0.3, 0.4)] * 6
    assert conservative_utilization(seen, 0.6) == (0.1, "25th percentile of 24 observed hours")
    nights = [ObservedHour(0.01, 1)] * 100 + [ObservedHour(0.5, 100)] * 24
    assert conservative_utilization(nights, 0.6)[0] == 0.5
    still = [ObservedHour(0.0, 0)] * 100 + [ObservedHour(0.5, 1)] * 24
    assert conservative_utilization(still, 0.6) == (0.5, "25th percentile of 24 observed hours")


def test_hours_without_requests_do_not_make_what_was_served_dearer(article: Fleet) -> None:
    busy = 8 * 3600 * 7 * 6 // 10
    rows = [
        row(DECEMBER + hour * HOUR, "answers", "answers", busy if 8 <= hour % 24 < 16 else 0)
        for hour in range(72)
    ]
    seen = forecast(article, date(2027, 1, 1), 1, observed=observed_utilization(article, rows))
    assert seen.periods[0].pools[0].utilization == pytest.approx(0.6)


def test_declared_traffic_that_comes_leaves_the_forecast_as_it_was(sample: Fleet) -> None:
    rows = []
    for name, pool in sample.pools.items():
        steady = sum(each.replicas * each.gpus_per_replica for each in pool.placements.values())
        for hour in range(14 * 24):
            begin = DECEMBER + hour * HOUR
            for each in pool.use_cases:
                use_case = sample.use_cases[each]
                count = round(requests_between(use_case.traffic, begin, begin + HOUR))
                tokens = {
                    "prompt_tokens": round(count * use_case.tokens.prompt_mean),
                    "output_tokens": round(count * use_case.tokens.output_mean),
                    "gpu_hours": steady / len(pool.use_cases),
                }
                rows.append(row(begin, name, each, count, **tokens))
    day = date(2027, 1, 1)
    before = forecast(sample, day, 1).periods[0]
    after = forecast(sample, day, 1, observed=observed_utilization(sample, rows)).periods[0]
    assert after.total == before.total
    for old, new in zip(before.pools, after.pools, strict=True):
        assert new.utilization_source.startswith("25th percentile")
        assert (new.served, new.idle, new.gpu_hours) == (old.served, old.idle, old.gpu_hours)
        assert old.cost_per_1k is not None
        assert new.cost_per_1k is not None
        assert new.cost_per_1k < 2 * old.cost_per_1k


def test_an_observed_hour_costs_what_a_person_computes(article: Fleet) -> None:
    full = row(DECEMBER, "answers", "answers", 8 * 3600 * 7)
    report = actual(article, [full], DECEMBER, DECEMBER + HOUR)
    (period,) = report.periods
    (pool,) = period.pools
    assert pool.gpu_hours == Decimal(10)
    assert pool.served_gpu_hours == Decimal(7)
    assert pool.utilization == pytest.approx(1)
    # 7 x (1.189712 + 0.1911), and 3 that draw 140 W
    assert pool.served == Decimal("9.67")
    assert pool.idle == Decimal("3.68")
    (answers,) = pool.use_cases
    assert answers.cost_per_1k == Decimal("9.67") / Decimal("201.6") // Decimal("1e-6") / 10**6
    assert report.notes == []
    adds_up(period)


def test_what_ran_beyond_what_is_kept_is_charged_too(article: Fleet) -> None:
    full = row(DECEMBER, "answers", "answers", 8 * 3600 * 14, gpu_hours=14.0)
    (period,) = actual(article, [full], DECEMBER, DECEMBER + HOUR).periods
    (pool,) = period.pools
    assert pool.gpu_hours == pool.served_gpu_hours == 14
    # 14 x (1.189712 + 0.1911), and 2 of the 16 of no pool at 1.227932
    assert pool.served == Decimal("19.33")
    assert pool.idle == 0
    assert period.unassigned == Decimal("2.46")
    adds_up(period)


def test_a_pool_that_keeps_too_few_gpus_is_noted(article: Fleet, sample: Fleet) -> None:
    notes = forecast(article, date(2026, 12, 24), 2).notes
    short = "pool answers: needs 11 GPUs at 60% in 2026-12, keeps 10"
    assert [note for note in notes if "needs" in note] == [
        f"{short}: what is missing is in no amount"
    ]
    assert not [note for note in forecast(sample, date(2026, 11, 1), 1).notes if "needs" in note]


def test_measured_watts_replace_rated_ones(article: Fleet) -> None:
    cool = row(DECEMBER, "answers", "answers", 8 * 3600 * 7, mean_watts=300)
    (period,) = actual(article, [cool], DECEMBER, DECEMBER + HOUR).periods
    # 7 x (1.189712 + 0.3 x 1.3 x 0.21)
    assert period.pools[0].served == Decimal("8.90")


def test_a_gap_is_said_and_not_guessed(article: Fleet) -> None:
    rows = [row(DECEMBER, "answers", "answers", 1000)]
    report = actual(article, rows, DECEMBER, DECEMBER + 4 * HOUR)
    (period,) = report.periods
    assert report.notes == [
        "pool answers: nothing is known about 3 of 4 hours, from 2026-12-01 01:00 UTC"
    ]
    assert period.pools[0].gpu_hours == 10
    # 3 hours of 10 GPUs, without power: 30 x 1.189712
    assert period.unobserved == Decimal("35.69")
    adds_up(period)


def test_a_day_over_a_month_s_end_is_shared_by_its_hours(article: Fleet) -> None:
    berlin = row(
        datetime.fromisoformat("2026-12-01T00:00+02:00"),
        "answers",
        "answers",
        1_000_001,
        hours=24,
        gpu_hours=168.0,
    )
    november, december = actual(
        article, [berlin], DECEMBER - 24 * HOUR, DECEMBER + 24 * HOUR
    ).periods
    assert november.use_cases[0].requests == 83_333
    assert december.use_cases[0].requests == 916_668
    assert november.pools[0].served_gpu_hours == 14
    assert december.pools[0].served_gpu_hours == 154
    (rest,) = actual(article, [berlin], DECEMBER, DECEMBER + 24 * HOUR).periods
    assert rest.use_cases[0].requests == 916_668


def test_rows_of_all_use_cases_are_split_by_what_is_declared(sample: Fleet) -> None:
    both = row(DECEMBER, "chat", SHARED, 100_000, gpu_hours=64.0)
    (period,) = actual(sample, [both], DECEMBER, DECEMBER + HOUR).periods
    support, agents = next(pool for pool in period.pools if pool.pool == "chat").use_cases
    assert support.requests + agents.requests == 100_000
    assert support.requests > agents.requests
    adds_up(period)


def test_a_use_case_of_less_than_a_hundredth_has_its_exact_share(sample: Fleet) -> None:
    agents = sample.use_cases["agent-assist"]
    rare = agents.model_copy(
        update={"traffic": agents.traffic.model_copy(update={"rate_rps": 0.01})}
    )
    fleet = sample.model_copy(update={"use_cases": {**sample.use_cases, "agent-assist": rare}})
    support = fleet.use_cases["support-chat"]
    works = [
        each.traffic.rate_rps * work_of(each.tokens.prompt_mean, each.tokens.output_mean)
        for each in (support, rare)
    ]
    assert works[1] / sum(works) < 0.005
    both = row(DECEMBER, "chat", SHARED, 10**7, gpu_hours=64.0)
    (period,) = actual(fleet, [both], DECEMBER, DECEMBER + HOUR).periods
    counts = {each.use_case: each.requests for each in period.use_cases}
    assert counts["agent-assist"] == round(10**7 * works[1] / sum(works))
    assert sum(counts.values()) == 10**7


@pytest.mark.parametrize(("section", "name"), [("use_cases", SHARED), ("teams", NOBODY)])
def test_a_name_that_costs_have_a_meaning_for_is_refused(
    sample: Fleet, section: str, name: str
) -> None:
    declared = getattr(sample, section)
    taken = sample.model_copy(update={section: {**declared, name: next(iter(declared.values()))}})
    told = [each.path for each in problems(taken) if "is reserved" in each.what]
    assert told == [(section, name)]
    assert not list(problems(sample))


def test_work_without_tokens_or_requests_stands_idle(article: Fleet) -> None:
    (period,) = actual(
        article, [row(DECEMBER, "answers", "answers", 0)], DECEMBER, DECEMBER + HOUR
    ).periods
    assert period.pools[0].served == 0
    assert period.pools[0].idle > 0
    adds_up(period)


def test_utilization_is_work_over_what_the_running_gpus_could_do(article: Fleet) -> None:
    half = [row(DECEMBER + hour * HOUR, "answers", "answers", 4 * 3600 * 7) for hour in range(3)]
    assert observed_utilization(article, half) == {"answers": [(0.5, 4 * 3600 * 7 * 225)] * 3}
    day = row(DECEMBER, "answers", "answers", 4 * 3600 * 7 * 24, hours=24, gpu_hours=7 * 24)
    assert observed_utilization(article, [day]) == {"answers": [(0.5, 4 * 3600 * 7 * 225)] * 24}


@given(
    planned=st.lists(st.integers(0, 10**6), min_size=8, max_size=8),
    seen=st.lists(st.integers(0, 10**6), min_size=8, max_size=8),
    gpu_hours=st.floats(0, 100),
)
@settings(max_examples=30, deadline=None)
def test_the_causes_of_a_variance_add_up_to_it(
    sample: Fleet, planned: list[int], seen: list[int], gpu_hours: float
) -> None:
    def hour(counts: list[int], hours: float) -> list[Usage]:
        pools = [(name, each) for name, pool in sample.pools.items() for each in pool.use_cases]
        return [
            row(DECEMBER, pool, use_case, count, gpu_hours=hours)
            for (pool, use_case), count in zip(pools, counts, strict=True)
        ]

    end = DECEMBER + HOUR
    before = actual(sample, hour(planned, 5.0), DECEMBER, end)
    after = actual(sample, hour(seen, gpu_hours), DECEMBER, end)
    found = compare(before, after)
    assert sum(cause.amount for cause in found.causes) == found.variance
    assert sum(found.by_pool.values()) == found.variance
    assert found.variance == after.periods[0].total - before.periods[0].total


def test_twice_the_requests_alone_is_volume_alone(article: Fleet) -> None:
    end = DECEMBER + HOUR
    once = actual(
        article, [row(DECEMBER, "answers", "answers", 50_000, gpu_hours=2)], DECEMBER, end
    )
    twice = actual(
        article, [row(DECEMBER, "answers", "answers", 100_000, gpu_hours=4)], DECEMBER, end
    )
    causes = {cause.cause: cause.amount for cause in compare(once, twice).causes}
    assert causes["mix"] == causes["utilization"] == 0
    assert causes["volume"] > 0
    assert abs(causes["price"]) <= Decimal("0.01")


def test_months_follow_one_another_over_a_year_s_end() -> None:
    assert month_of(date(2026, 12, 31)) == (date(2026, 12, 1), date(2027, 1, 1))
    assert month_of(date(2026, 12, 31), 2) == (date(2027, 2, 1), date(2027, 3, 1))
