"""When weights are pulled ahead of declared peaks, to which nodes, and that it is done once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.watched_fleets import on_clusters

from gpufleet.core.prewarm_weights import (
    LEAST,
    MARGIN,
    MOST,
    RATE_UNKNOWN,
    SETTLES,
    Pull,
    is_to_begin,
    jobs_for,
    nodes_missing,
    pull_of,
    pulls,
    time_needed,
)
from gpufleet.core.prewarming import windows
from gpufleet.core.snapshots.fan_out import AT_ONCE_UNKNOWN, Links, predicted_s
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.flows.prewarm import demand_warm
from gpufleet.flows.prewarm_schedule import schedule
from gpufleet.flows.prewarm_weights import Outlook
from gpufleet.spec import load_fleet
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.prewarming import NodesFilled, PrewarmVerification, WindowProof
from gpufleet.spec.serving import Prewarm
from gpufleet.tasks.console import facts
from gpufleet.tasks.prewarm_view import show_verification

SAMPLE = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
POOL, GROUP, SITE = "chat", "fra1-chat", "fra1"
STEADY = SAMPLE.pools[POOL].placements[GROUP].replicas
CEILING = SAMPLE.pools[POOL].placements[GROUP].ceiling
REVISION = SAMPLE.pools[POOL].model
SNAPSHOT, NEWER = "20261126T101500Z-3fa9c1d2", "20261130T060000Z-00000001"
BEGIN = datetime(2026, 11, 26, tzinfo=UTC)
MONTH = timedelta(days=30)
RATES = st.none() | st.floats(1e3, 1e12)
SIZES = st.integers(1, 4 * 10**12)
RULES = st.sampled_from(
    ["FREQ=DAILY;BYHOUR=8", "FREQ=WEEKLY;BYDAY=MO,TH;BYHOUR=9", "FREQ=MONTHLY;BYMONTHDAY=-3"]
)


def with_peak(recurrence: str, *, replicas: int = CEILING, lead_s: float = 521.0) -> Fleet:
    peak = Prewarm(
        name="peak",
        recurrence=recurrence,
        time_zone="Europe/Berlin",
        lead_s=lead_s,
        duration_s=3600,
        replicas={GROUP: replicas},
    )
    pool = SAMPLE.pools[POOL].model_copy(update={"prewarm": [peak]})
    return SAMPLE.model_copy(update={"pools": {**SAMPLE.pools, POOL: pool}})


MONDAYS = with_peak("FREQ=WEEKLY;BYDAY=MO;BYHOUR=8")


def first(fleet: Fleet = MONDAYS, rate: float | None = None) -> Pull:
    window = windows(fleet, BEGIN, BEGIN + MONTH)[0]
    found = pull_of(fleet, window, rate)
    assert found is not None
    return found


@given(size=SIZES, nodes=st.integers(1, 10_000), rate=RATES)
def test_the_fan_out_has_its_predicted_time_and_a_margin_between_minutes_and_a_day(
    size: int, nodes: int, rate: float | None
) -> None:
    needed = time_needed(size, nodes, rate)
    assert LEAST <= needed <= MOST
    _, all_s = predicted_s(size, nodes, Links(rate or RATE_UNKNOWN))
    if needed < MOST:
        assert needed.total_seconds() >= all_s * MARGIN * (1 - 1e-9)


@given(size=SIZES, nodes=st.integers(1, 9_999), rate=st.floats(1e3, 1e12))
def test_more_weights_more_nodes_and_a_slower_rate_never_begin_later(
    size: int, nodes: int, rate: float
) -> None:
    needed = time_needed(size, nodes, rate)
    assert time_needed(2 * size, nodes, rate) >= needed
    assert time_needed(size, nodes + 1, rate) >= needed
    assert time_needed(size, nodes, rate / 2) >= needed


def test_a_rate_that_nobody_has_measured_is_one_gigabyte_per_second() -> None:
    hundred, waves = 100 * 10**9, 10
    needed = time_needed(hundred, waves * AT_ONCE_UNKNOWN, None)
    assert needed == timedelta(seconds=100 * waves * MARGIN)


@given(
    rule=RULES,
    rate=RATES,
    lead_s=st.floats(60, 20_000),
    after_s=st.integers(0, 400 * 86_400),
)
def test_what_is_seen_to_at_a_time_is_what_may_have_begun_and_was_not_over_long_ago(
    rule: str, rate: float | None, lead_s: float, after_s: int
) -> None:
    """Found over a far longer time: none is missed since it begins long before its window."""
    fleet = with_peak(rule, lead_s=lead_s)
    moment = BEGIN + timedelta(seconds=after_s)
    around = windows(fleet, moment - MONTH, moment + MONTH)
    all_ = [pull for each in around if (pull := pull_of(fleet, each, rate))]
    expected = [
        each for each in all_ if each.wanted_at - MOST <= moment < each.window.closes_at + SETTLES
    ]
    assert pulls(fleet, moment, rate) == expected
    for each in all_:
        assert each.begins_at + LEAST <= each.wanted_at <= each.window.opens_at
        assert each.wanted_at == each.window.starts_at
        assert each.is_seen_to(each.begins_at)
        assert not each.may_begin(each.window.opens_at)
        assert each.is_over(moment) == (each.window.closes_at <= moment)


def test_nothing_is_pulled_where_no_more_replicas_start() -> None:
    def found(fleet: Fleet) -> list[Pull | None]:
        return [pull_of(fleet, each, None) for each in windows(fleet, BEGIN, BEGIN + MONTH)]

    assert all(found(MONDAYS))
    assert not any(found(with_peak("FREQ=WEEKLY;BYDAY=MO;BYHOUR=8", replicas=STEADY)))
    # cron has no words for it, so that nothing starts them.
    assert not any(found(with_peak("FREQ=MONTHLY;BYDAY=1MO")))
    placement = MONDAYS.pools[POOL].placements[GROUP].model_copy(update={"max_replicas": None})
    fixed = MONDAYS.pools[POOL].model_copy(update={"placements": {GROUP: placement}})
    fleet = MONDAYS.model_copy(update={"pools": {**MONDAYS.pools, POOL: fixed}})
    assert found(fleet)
    assert not any(found(fleet))
    assert pulls(SAMPLE, BEGIN, None) == []


def job(
    pull: Pull, snapshot: str = SNAPSHOT, *, ended: bool = False, done: str = "", failed: str = ""
) -> dict[str, Any]:
    conditions = [{"type": "Failed", "status": "True"}] if ended else []
    status = {"conditions": conditions, "completedIndexes": done, "failedIndexes": failed}
    return {"metadata": {"name": "j", "annotations": {pull.mark: snapshot}}, "status": status}


def test_a_job_is_made_once_for_a_window_and_a_snapshot() -> None:
    pull = first()
    now = pull.begins_at
    assert is_to_begin(pull, SNAPSHOT, [], [], now)
    assert not is_to_begin(pull, SNAPSHOT, [], [], now - timedelta(seconds=1))
    assert not is_to_begin(pull, SNAPSHOT, [], [], pull.wanted_at), "too late to help"
    for ended in (False, True):
        assert not is_to_begin(pull, SNAPSHOT, [job(pull, ended=ended)], [], now)
    # The Job was removed after its end, as Kubernetes does a day later.
    assert not is_to_begin(pull, SNAPSHOT, [], [pull.fact(SNAPSHOT)], now)
    # Another snapshot waits until nothing writes to the folder any more.
    assert not is_to_begin(pull, NEWER, [job(pull)], [], now)
    assert is_to_begin(pull, NEWER, [job(pull, ended=True)], [pull.fact(SNAPSHOT)], now)


def test_windows_take_no_jobs_of_each_other() -> None:
    all_ = [
        pull
        for each in windows(MONDAYS, BEGIN, BEGIN + MONTH)
        if (pull := pull_of(MONDAYS, each, None))
    ]
    assert len({each.mark for each in all_}) == len(all_) > 1
    one, other, *_ = all_
    bare = {"metadata": {"name": "by hand"}}
    assert jobs_for(one, [job(other), bare, made := job(one)]) == [made]
    # Kubernetes' longest name of an annotation, and the journal's longest id.
    assert len(one.mark.split("/")[1]) <= 63
    assert len(one.fact(SNAPSHOT)) <= 200


def test_a_node_is_missing_once_it_has_failed_and_each_that_is_not_done_at_the_start() -> None:
    pull, hosts = first(), ["a", "b", "c", "d"]
    runs = job(pull, done="0,2", failed="3")
    assert nodes_missing(pull, runs, hosts, pull.begins_at) == ["d"]
    assert nodes_missing(pull, runs, hosts, pull.wanted_at) == ["b", "d"]
    over = job(pull, done="0,2", failed="3", ended=True)
    assert nodes_missing(pull, over, hosts, pull.begins_at) == ["b", "d"]
    assert nodes_missing(pull, job(pull, done="0-3", ended=True), hosts, pull.wanted_at) == []


def known(snapshot: str, rate: float | None = None) -> Outlook:
    return Outlook(rate=rate, snapshots={(SITE, REVISION): snapshot})


def test_the_schedule_tells_from_when_weights_are_pulled_and_to_how_many_nodes() -> None:
    found = schedule(MONDAYS, BEGIN, known(SNAPSHOT), days="14").windows
    for each in found:
        assert each.weights is not None
        assert each.starts_at is not None
        assert each.weights.begins_at < each.starts_at < each.opens_at
        assert (each.weights.nodes, each.weights.revision, each.weights.snapshot) == (
            SAMPLE.node_groups[GROUP].nodes,
            REVISION,
            SNAPSHOT,
        )
    slow = schedule(MONDAYS, BEGIN, known(SNAPSHOT, 1e7), days="14").windows
    assert slow[0].weights is not None
    assert found[0].weights is not None
    assert slow[0].weights.begins_at < found[0].weights.begins_at


@pytest.mark.parametrize("real", [True, False])
def test_a_site_without_a_snapshot_is_told_where_its_pods_really_need_one(*, real: bool) -> None:
    fleet = on_clusters(MONDAYS) if real else MONDAYS
    found = schedule(fleet, BEGIN, known(""), days="14")
    assert all(each.weights is None for each in found.windows)
    told = [each for each in found.warnings if f"no snapshot of {REVISION}" in each]
    assert len(told) == (1 if real else 0)
    assert schedule(fleet, BEGIN, known(SNAPSHOT), days="14").warnings == []


def test_weights_that_take_longer_than_a_day_are_told() -> None:
    assert first(rate=1e3).is_cut
    found = schedule(MONDAYS, BEGIN, known(SNAPSHOT, 1e3), days="14")
    (told,) = found.warnings
    assert "24 h ahead at most" in told


def test_a_verification_names_nodes_without_weights_and_takes_them_for_no_failure() -> None:
    weights = NodesFilled(
        job="restore-x-1", snapshot=SNAPSHOT, done=["a"], missing=["b"], waiting=1
    )
    proof = WindowProof(
        window=first().window.row(),
        ready=1,
        warm=1,
        missing=0,
        replicas=[],
        problem="",
        weights=weights,
    )
    found = PrewarmVerification(
        fleet="sample", environment="production", at="", proofs=[proof], next=None
    )
    with facts.capture() as shown:
        show_verification(found)
    assert "on 1 of 3 nodes of fra1-chat, by Job restore-x-1" in shown.get()
    assert "b: weights not pulled ahead" in shown.get()
    assert found.missing == 0
    demand_warm(found)
