from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.leases import LEASE_FOR, granted
from gpufleet.spec.errors import Retryable
from gpufleet.spec.records import Claim, Lease

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def claim(owner: str) -> Claim:
    return Claim(target="environment", owner=owner, holder=f"{owner} by mara@host")


def test_a_free_target_is_given() -> None:
    lease = granted(None, claim("a"), NOON, is_dead=False)
    assert (lease.owner, lease.token, lease.expires_at) == ("a", 1, NOON + LEASE_FOR)


def test_the_loser_is_told_who_holds_it_and_since_when() -> None:
    held = granted(None, claim("a"), NOON, is_dead=False)
    with pytest.raises(Retryable, match=r"held by a by mara@host since 2026-03-01 12:00:00 UTC"):
        granted(held, claim("b"), NOON + timedelta(seconds=1), is_dead=False)


def test_a_holder_that_has_not_renewed_is_replaced() -> None:
    held = granted(None, claim("a"), NOON, is_dead=False)
    taken = granted(held, claim("b"), held.expires_at, is_dead=False)
    assert (taken.owner, taken.token) == ("b", 2)


def test_a_dead_holder_is_replaced_at_once() -> None:
    held = granted(None, claim("a"), NOON, is_dead=False)
    assert granted(held, claim("b"), NOON, is_dead=True).owner == "b"


def test_an_owner_that_asks_again_keeps_its_time_and_gets_a_new_token() -> None:
    held = granted(None, claim("a"), NOON, is_dead=False)
    again = granted(held, claim("a"), NOON + timedelta(seconds=5), is_dead=False)
    assert (again.token, again.acquired_at) == (2, NOON)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-60, 60), st.booleans()), max_size=40)
)
def test_tokens_only_grow_and_no_two_hold_a_target_at_once(
    asked: list[tuple[str, int, bool]],
) -> None:
    lease: Lease | None = None
    now = NOON
    for owner, seconds, is_dead in asked:
        now += timedelta(seconds=seconds)
        try:
            given_ = granted(lease, claim(owner), now, is_dead=is_dead)
        except Retryable:
            assert lease is not None
            assert lease.owner != owner
            assert lease.expires_at > now
            continue
        assert given_.token == (lease.token if lease else 0) + 1
        if lease and lease.owner != owner:
            assert is_dead or lease.expires_at <= now
        lease = given_
