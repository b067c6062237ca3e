from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import small_fleet

from gpufleet.core.changes import FIRST_ESTIMATE_S, expected_s, pool_changes
from gpufleet.spec import Fleet


def with_replicas(fleet: Fleet, replicas: int) -> Fleet:
    pool = fleet.pools["answers"]
    placements = {
        name: placement.model_copy(update={"replicas": replicas})
        for name, placement in pool.placements.items()
    }
    return fleet.model_copy(
        update={"pools": {"answers": pool.model_copy(update={"placements": placements})}}
    )


def east() -> Fleet:
    fleet = small_fleet("east")
    pool = fleet.pools["answers"]
    placement = next(iter(pool.placements.values()))
    moved = pool.model_copy(update={"placements": {"east-h100": placement}})
    return fleet.model_copy(update={"pools": {"answers": moved}})


def test_the_same_fleet_has_no_change() -> None:
    assert pool_changes(east(), east()) == []


def test_more_replicas_are_told_with_their_gpus() -> None:
    [change] = pool_changes(with_replicas(east(), 2), with_replicas(east(), 5))
    assert (change.replicas_before, change.replicas_after) == (2, 5)
    assert (change.gpus_before, change.gpus_after) == (2, 5)


def test_a_first_provisioning_adds_every_pool() -> None:
    [change] = pool_changes(None, with_replicas(east(), 4))
    assert (change.gpus_before, change.gpus_after, change.revision_before) == (0, 4, "")


def test_without_a_history_the_first_estimate_holds() -> None:
    assert expected_s([10, 20]) == FIRST_ESTIMATE_S


@given(st.lists(st.floats(0, 1e5), min_size=3, max_size=60))
def test_the_estimate_is_a_time_that_was_seen_and_few_were_longer(durations: list[float]) -> None:
    estimate = expected_s(durations)
    assert estimate in durations
    assert sum(duration > estimate for duration in durations) <= 0.05 * len(durations)
