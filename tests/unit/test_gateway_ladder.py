"""Where a request goes under every load and fault."""

import math

from hypothesis import given
from hypothesis import strategies as st
from tests.gateway_situations import any_route, hosted, route, waits

from gpufleet.core.gateway.ladder import (
    LEAVE_AFTER_S,
    LEAVE_BELOW,
    MAY_LEAVE,
    Overflow,
    Situation,
    Way,
    decide,
)
from gpufleet.spec.gateway import Route
from gpufleet.spec.serving import DataClass

situations = st.builds(
    Situation,
    wait_s=st.dictionaries(st.sampled_from(["chat", "small"]), waits),
    refused=st.dictionaries(st.sampled_from(["chat", "small"]), st.just("fair share")),
    hosted_room=st.booleans(),
    overflow=st.builds(Overflow, on=st.booleans()),
)


def _situation(
    chat_s: float, small_s: float = math.inf, *, room: bool = True, on: bool = False
) -> Situation:
    waiting = {"chat": chat_s, "small": small_s}
    return Situation(wait_s=waiting, refused={}, hosted_room=room, overflow=Overflow(on=on))


@given(declared=any_route, situation=situations)
def test_confidential_and_restricted_data_never_goes_to_a_hosted_api(
    declared: Route, situation: Situation
) -> None:
    decision = decide(declared, situation)
    if declared.data_class not in MAY_LEAVE:
        assert decision.way is not Way.HOSTED
    if decision.way is Way.HOSTED:
        assert declared.hosted is not None
        assert situation.hosted_room


@given(declared=any_route, situation=situations)
def test_every_request_ends_in_a_route_or_in_a_refusal_that_says_why_and_when_to_come_again(
    declared: Route, situation: Situation
) -> None:
    decision = decide(declared, situation)
    assert decision.reason
    if decision.way is Way.NONE:
        assert decision.pool is None
        assert decision.retry_after_s is not None
        assert 1 <= decision.retry_after_s <= 60
    elif decision.way is not Way.HOSTED:
        assert decision.pool in {declared.pool, declared.fallback}
        assert decision.pool not in situation.refused
        assert not math.isinf(situation.wait_s[str(decision.pool)])


@given(declared=any_route, situation=situations, more_s=st.floats(0, 50))
def test_a_longer_queue_never_leads_higher_up_the_ladder(
    declared: Route, situation: Situation, more_s: float
) -> None:
    order = [Way.PRIMARY, Way.FALLBACK, Way.HOSTED, Way.SUMMARY, Way.NONE]
    calm = decide(declared, situation)
    longer = Situation(
        wait_s={name: wait + more_s for name, wait in situation.wait_s.items()},
        refused=situation.refused,
        hosted_room=situation.hosted_room,
        overflow=situation.overflow,
    )
    busy = decide(declared, longer)
    if situation.overflow.on:
        # Below the limit an overflow that lasts may still give whole answers or short ones.
        return
    assert order.index(busy.way) >= order.index(calm.way)


def test_the_order_is_own_pool_smaller_model_hosted_api_summary_refusal() -> None:
    declared = route(fallback="small", hosted=hosted(), summary_tokens=50)
    assert decide(declared, _situation(0.5)).way is Way.PRIMARY
    assert decide(declared, _situation(1.5, 0.5)).way is Way.FALLBACK
    assert decide(declared, _situation(1.5, 1.5)).way is Way.HOSTED
    assert decide(declared, _situation(1.5, 1.7, room=False)).way is Way.SUMMARY
    assert decide(declared, _situation(1.7, 1.5, room=False)).pool == "small"
    refused = decide(declared, _situation(4.2, 6, room=False))
    assert (refused.way, refused.retry_after_s) == (Way.NONE, 4)


def test_an_overflow_ends_only_after_the_queue_was_short_for_a_while() -> None:
    state = Overflow().seen(0.9, 1.0, 0)
    assert not state.on
    state = state.seen(1.1, 1.0, 1)
    assert state.on
    for second in range(2, 6):
        state = state.seen(LEAVE_BELOW + 0.1, 1.0, second)
        assert state.on
    state = state.seen(0.1, 1.0, 10)
    assert state.seen(0.1, 1.0, 10 + LEAVE_AFTER_S - 0.1).on
    assert state.seen(LEAVE_BELOW + 0.1, 1.0, 11).calm_since_s is None
    assert not state.seen(0.1, 1.0, 10 + LEAVE_AFTER_S).on


@given(measured=st.lists(st.tuples(waits, st.floats(0.01, 3)), max_size=60))
def test_it_never_changes_twice_within_the_dwell(measured: list[tuple[float, float]]) -> None:
    state, now_s, turned_on_s = Overflow(), 0.0, -math.inf
    for wait_s, step_s in measured:
        now_s += step_s
        before, state = state, state.seen(wait_s, 1.0, now_s)
        if state.on and not before.on:
            turned_on_s = now_s
        if before.on and not state.on:
            assert now_s - turned_on_s >= LEAVE_AFTER_S


def test_while_it_overflows_its_own_pool_is_kept_busy_below_the_limit_and_nobody_is_refused() -> (
    None
):
    declared = route(fallback="small", hosted=hosted())
    assert decide(declared, _situation(0.4, 0.0, on=True)).way is Way.PRIMARY
    assert decide(declared, _situation(0.8, 0.0, on=True)).way is Way.FALLBACK
    # No money is spent, and nobody is refused, while the queue is within the limit.
    assert decide(declared, _situation(0.8, 5.0, on=True)).way is Way.PRIMARY


def test_public_data_overflows_to_the_hosted_api_when_nobody_serves() -> None:
    declared = route(data_class=DataClass.PUBLIC, hosted=hosted())
    assert decide(declared, _situation(math.inf)).way is Way.HOSTED
