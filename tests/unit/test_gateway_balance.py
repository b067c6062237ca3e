"""Predicted time in queue, and which replica of a pool gets a request."""

import math

from hypothesis import given
from hypothesis import strategies as st
from tests.gateway_situations import REGIONS, any_replica, pool_route, replica

from gpufleet.core.gateway.balance import allowed, choose, serving
from gpufleet.core.gateway.queueing import load_of, loads_of, pool_wait_s
from gpufleet.spec.gateway import Replica

NOW_S = 1000.0


def test_a_queue_is_served_at_the_planned_rate_until_a_busy_replica_was_seen() -> None:
    pool = pool_route()
    planned = load_of(replica(), pool, 10, NOW_S)
    assert planned.wait_s == (2 + 1) / (8 / 2.0)
    seen = replica(answering=True, running=8, waiting=2, finished_rps=1.5, seen_at=NOW_S - 1)
    assert load_of(seen, pool, 10, NOW_S).wait_s == (2 + 1) / 1.5
    old = seen.model_copy(update={"seen_at": NOW_S - 60})
    assert load_of(old, pool, 10, NOW_S).wait_s == planned.wait_s


def test_a_replica_whose_kv_cache_is_full_has_fewer_places() -> None:
    full = replica(answering=True, running=3, waiting=4, finished_rps=1, seen_at=NOW_S)
    assert load_of(full, pool_route(), 7, NOW_S).wait_s == (4 + 1) / 1


def test_what_would_make_all_answers_late_counts_as_waiting_and_is_no_full_queue() -> None:
    pool = pool_route(promised_at=4, queue_limit=2)
    assert load_of(replica(), pool, 3, NOW_S).wait_s == 0
    seen = load_of(replica(), pool, 5, NOW_S)
    assert seen.wait_s == (1 + 1) / (8 / 2.0)
    assert not seen.full
    assert load_of(replica(), pool, 10, NOW_S).full


@given(seen=any_replica, in_flight=st.integers(0, 100), more=st.integers(0, 100))
def test_more_in_flight_never_means_a_shorter_wait(
    seen: Replica, in_flight: int, more: int
) -> None:
    pool = pool_route(queue_limit=20)
    few = load_of(seen, pool, in_flight, NOW_S)
    many = load_of(seen, pool, in_flight + more, NOW_S)
    assert many.wait_s >= few.wait_s >= 0
    assert many.full >= few.full


@given(
    known=st.lists(any_replica, max_size=8, unique_by=lambda each: each.uid),
    residency=st.lists(st.sampled_from(["eu-central", "us-east"]), max_size=2),
    ejected=st.sets(st.text("abcdef", min_size=1, max_size=4)),
    in_flight=st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(0, 60)),
)
def test_only_replicas_in_the_residency_that_are_ready_and_not_ejected_are_chosen(
    known: list[Replica], residency: list[str], ejected: set[str], in_flight: dict[str, int]
) -> None:
    pool = pool_route(queue_limit=20)
    able = serving(allowed(known, REGIONS, residency), ejected)
    loads = loads_of(able, pool, in_flight, NOW_S)
    chosen = choose(loads, 8, tried={"a"})
    if chosen is None:
        assert all(load.full or load.replica.uid == "a" for load in loads)
        return
    assert REGIONS[chosen.site] in residency
    assert chosen.ready
    assert chosen.uid not in ejected | {"a"}
    of_chosen = next(load for load in loads if load.replica is chosen)
    assert not of_chosen.full
    assert all(
        of_chosen.wait_s <= load.wait_s
        for load in loads
        if not load.full and load.replica.uid != "a"
    )


def test_a_pool_waits_as_long_as_its_best_replica_and_for_ever_without_any() -> None:
    pool = pool_route(queue_limit=2)
    loads = loads_of([replica("a"), replica("b")], pool, {"a": 10, "b": 9}, NOW_S)
    assert [load.full for load in loads] == [True, False]
    assert pool_wait_s(loads) == loads[1].wait_s
    assert math.isinf(pool_wait_s([]))


def test_equals_are_decided_by_whoever_asks() -> None:
    loads = loads_of([replica("a"), replica("b")], pool_route(), {}, NOW_S)
    chosen = choose(loads, 8, pick=lambda equal: equal[-1])
    assert chosen is not None
    assert chosen.uid == "b"
