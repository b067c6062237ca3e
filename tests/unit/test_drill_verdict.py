"""Whether service was back in time, how drills go over time, and what is expected of the next."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.drills.verdict import HISTORY, predicted, tally, trends
from gpufleet.core.snapshots.prediction import Rates, Work
from gpufleet.reports.drill_page import drill_page, timeline
from gpufleet.spec.drills import (
    DrillReport,
    DrillState,
    Outlook,
    Phase,
    PhaseTime,
    UseCaseRecovery,
)

NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)
MODEL = {
    Phase.DETECT: 5.0,
    Phase.DECIDE: 1.0,
    Phase.PROVISION: 5.0,
    Phase.ARTIFACTS: 300.0,
    Phase.LOAD: 60.0,
    Phase.FIRST_TOKEN: 1.0,
}
times_s = st.floats(0, 1e6, allow_nan=False)


@st.composite
def recoveries(draw: st.DrawFn) -> UseCaseRecovery:
    return UseCaseRecovery(
        use_case=draw(st.sampled_from(["a", "b", "c"])),
        pool="pool",
        rto_s=draw(st.floats(1, 1e6)),
        rpo_s=draw(st.floats(1, 1e6)),
        recovered_s=draw(st.none() | times_s),
        lost_s=draw(st.none() | times_s),
    )


def report(
    day: int, seconds: float | None, *, rto_s: float = 100, whole: bool = True, workers: int = 1
) -> DrillReport:
    """A drill of that day; its phases are equally long."""
    met = seconds is not None and seconds <= rto_s
    each = (seconds or 0) / len(Phase)
    phases = [PhaseTime(phase=phase, seconds=each) for phase in Phase] if whole else []
    return DrillReport(
        flow=f"drill-{day}",
        scenario="site-lost",
        target="east",
        actor="mara",
        state=DrillState.MET if met else DrillState.MISSED,
        begun_at=NOW + timedelta(days=day),
        ended_at=NOW + timedelta(days=day, hours=1),
        outlook=Outlook(phases=[], recovered_s=0, rto_s=rto_s, source="", remedies=[]),
        phases=phases,
        recovered_s=seconds,
        rto_s=rto_s,
        rpo_s=60,
        lost_s=0,
        met=met,
        workers=workers,
        cleaned=True,
    )


@given(st.lists(recoveries(), min_size=1, max_size=8))
def test_a_drill_is_met_only_if_every_use_case_met_its_own(found: list[UseCaseRecovery]) -> None:
    told = tally(found)
    assert told.met == all(each.met for each in found)
    in_time = told.recovered_s is not None and told.recovered_s <= told.rto_s
    kept = told.lost_s is None or told.lost_s <= told.rpo_s
    # The few numbers say the same as the verdict: nobody reads 20 s of 60 s, and `missed`.
    assert told.met == (in_time and kept)


def test_a_use_case_that_did_not_come_back_is_what_is_told() -> None:
    late = UseCaseRecovery(use_case="late", pool="p", rto_s=10, rpo_s=1, recovered_s=500)
    gone = UseCaseRecovery(use_case="gone", pool="p", rto_s=10, rpo_s=1, recovered_s=None)
    assert tally([late, gone]).use_case == "gone"
    assert tally([late, gone]).recovered_s is None


def test_lost_records_miss_a_drill_whose_service_was_back_in_time() -> None:
    row = UseCaseRecovery(use_case="a", pool="p", rto_s=60, rpo_s=10, recovered_s=5, lost_s=11)
    assert not tally([row]).met
    assert tally([row.model_copy(update={"lost_s": 10})]).met


def test_service_that_was_back_before_the_failure_meets_nothing() -> None:
    row = UseCaseRecovery(use_case="a", pool="p", rto_s=60, rpo_s=10, recovered_s=-5, lost_s=0)
    assert not tally([row]).met
    assert tally([row.model_copy(update={"recovered_s": 0})]).met


def test_the_trend_compares_the_last_drill_with_those_before() -> None:
    (trend,) = trends([report(3, 80), report(1, 20), report(2, 30)])
    assert (trend.last_s, trend.best_s, trend.worst_s) == (80, 20, 80)
    assert trend.change_s == 80 - 25
    assert trend.proven_at == NOW + timedelta(days=3)


def test_a_missed_drill_proves_nothing_and_an_unfinished_one_counts_nowhere() -> None:
    running = report(5, 1).model_copy(update={"state": DrillState.RUNNING})
    (trend,) = trends([report(1, 20), report(2, None), running])
    assert (trend.drills, trend.met) == (2, 1)
    assert trend.last_s is None
    assert trend.change_s is None
    assert trend.proven_at == NOW + timedelta(days=1)
    assert trends([running]) == []


def test_the_next_drill_is_expected_to_take_what_the_last_ones_took() -> None:
    first = predicted([], MODEL, rto_s=1000)
    assert first.recovered_s == sum(MODEL.values())
    told = predicted([report(day, 60) for day in range(3)], MODEL, rto_s=1000)
    assert told.recovered_s == pytest.approx(60)
    assert "3 drills" in told.source


def test_drills_that_were_interrupted_or_cut_short_tell_nothing_of_the_next() -> None:
    odd = [report(1, 6000, workers=2), report(2, 6000, whole=False)]
    assert predicted(odd, MODEL, rto_s=1000).recovered_s == sum(MODEL.values())


def test_only_the_newest_drills_count() -> None:
    drills = [*(report(day, 600) for day in range(5)), *(report(9 + d, 60) for d in range(HISTORY))]
    assert predicted(drills, MODEL, rto_s=1000).recovered_s == pytest.approx(60)


@given(st.floats(1, 1e4), st.dictionaries(st.sampled_from(Phase), st.floats(0, 1e4)))
def test_what_would_hold_the_objective_is_told_only_where_it_is_not_held(
    rto_s: float, model: dict[Phase, float]
) -> None:
    told = predicted([], model, rto_s=rto_s)
    assert told.holds == (not told.remedies) or told.recovered_s == pytest.approx(rto_s, abs=0.01)
    if told.remedies:
        assert told.remedies[-1] == f"an objective of {-int(-sum(model.values()) // 1)} s"


def test_a_restore_that_takes_too_long_is_told_the_rate_that_it_needs() -> None:
    work, rates = Work(300 * 2**30), Rates(2**30, 2**31)
    told = predicted([], MODEL, rto_s=100, restore=(work, rates))
    assert "GiB/s to each node" in told.remedies[0]


@given(st.lists(st.floats(0.001, 1e5), min_size=1, max_size=6), st.floats(1, 1e6))
def test_the_timeline_follows_the_phases_and_stays_within_its_width(
    took: list[float], rto_s: float
) -> None:
    phases = [PhaseTime(phase=p, seconds=s) for p, s in zip(Phase, took, strict=False)]
    bars, objective = timeline(report(1, 1).model_copy(update={"phases": phases, "rto_s": rto_s}))
    assert [bar.time.phase for bar in bars] == [each.phase for each in phases]
    for bar in bars:
        assert 0 <= bar.left_percent <= bar.left_percent + bar.width_percent <= 100.02
    if objective is not None:
        past = [bar for bar in bars if bar.from_s > rto_s]
        assert all(bar.left_percent >= objective - 0.02 for bar in past)


def test_the_page_tells_each_phase_each_use_case_and_what_is_not_shown() -> None:
    row = UseCaseRecovery(
        use_case="answers", pool="chat", rto_s=60, rpo_s=60, recovered_s=61, why_not=""
    )
    told = report(1, 120).model_copy(update={"use_cases": [row], "notes": ["<b>not</b> shown"]})
    page = drill_page(told, [told], trends([told])[0], NOW)
    for phase in Phase:
        assert f"<td>{phase.value}</td>" in page
    assert '<td class="missed">61.0 s</td>' in page
    assert "&lt;b&gt;not&lt;/b&gt; shown" in page
    assert "0 of 1 met their objectives; last proven never" in page
