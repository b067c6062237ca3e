"""Limits, fair shares of teams, interactive before batch."""

from hypothesis import assume, given
from hypothesis import strategies as st
from tests.gateway_situations import pool_route, replica, route

from gpufleet.core.gateway.admission import fair_share, refusal, share_of_pod
from gpufleet.core.gateway.queueing import loads_of, pool_wait_s

teams = st.dictionaries(st.sampled_from(["support", "sales", "legal"]), st.integers(0, 200))


@given(limit=st.integers(1, 10_000), pods=st.integers(1, 100))
def test_the_pods_together_never_let_in_more_than_a_limit_that_they_can_share(
    limit: int, pods: int
) -> None:
    share = share_of_pod(limit, pods)
    assert share is not None
    assert share >= 1
    if limit >= pods:
        assert share * pods <= limit
    assert share_of_pod(None, 1) is None


@given(places=st.integers(1, 500), in_flight=teams)
def test_fair_shares_are_positive_and_use_no_more_than_there_is(
    places: int, in_flight: dict[str, int]
) -> None:
    share = fair_share(places, in_flight, "support")
    others = [count for team, count in in_flight.items() if team != "support" and count]
    assert share >= 1
    assert share <= max(1, places)
    assert share >= places // (len(others) + 1)


@given(replicas=st.integers(1, 20), in_flight=teams)
def test_a_team_below_its_equal_part_is_never_kept_out_for_the_sake_of_others(
    replicas: int, in_flight: dict[str, int]
) -> None:
    pool = pool_route()
    assume(in_flight.get("support", 0) < replicas * pool.concurrency_limit // 3)
    assert refusal(route(), pool, replicas, in_flight) is None


@given(replicas=st.integers(1, 20), extra=st.integers(0, 50))
def test_one_team_may_have_a_whole_pool_until_another_one_comes(replicas: int, extra: int) -> None:
    pool = pool_route()
    places = replicas * pool.concurrency_limit
    assert refusal(route(), pool, replicas, {"support": places + extra}) is None
    crowded = {"support": places + extra, "sales": 1}
    if places > 1:
        assert refusal(route(), pool, replicas, crowded) is not None
        assert refusal(route(team="sales"), pool, replicas, crowded) is None


@given(
    count=st.integers(1, 12),
    limit=st.integers(2, 16),
    promised_at=st.integers(1, 16),
    asked=st.integers(1, 400),
)
def test_a_team_that_floods_a_pool_leaves_a_place_without_a_wait_to_one_that_comes_rarely(
    count: int, limit: int, promised_at: int, asked: int
) -> None:
    assume(count * min(limit, promised_at) > 1)
    pool = pool_route(concurrency_limit=limit, promised_at=promised_at, queue_limit=100)
    replicas = [replica(f"u{number}") for number in range(count)]
    at = dict.fromkeys((each.uid for each in replicas), 0)
    in_flight = {"support": 0, "sales": 0}
    for _ in range(asked):
        if refusal(route(), pool, count, in_flight) is not None:
            break
        in_flight["support"] += 1
        # As `choose` has it: the least loaded one.
        at[min(at, key=lambda uid: at[uid])] += 1
    assert refusal(route(team="sales"), pool, count, in_flight) is None
    assert pool_wait_s(loads_of(replicas, pool, at, 0.0)) == 0
    # It is no ban: most of the pool is to be had.
    assert in_flight["support"] >= min(asked, count * min(limit, promised_at) // 2)


def test_batch_work_never_enters_an_interactive_pool_and_makes_room_in_its_own() -> None:
    batch = route(**{"class": "batch"})
    assert refusal(batch, pool_route(), 4, {}) is not None
    own = pool_route(**{"class": "batch"})
    assert refusal(batch, own, 4, {"support": 31}) is None
    assert refusal(batch, own, 4, {"support": 31}, interactive=1) is not None
    assert refusal(route(), own, 4, {"support": 31}, interactive=1) is None
