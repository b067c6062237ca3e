"""Which stack holds which pool: every pool in exactly one, and none ever moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.shards import POOLS_OF_A_STACK, shard_count, shards_of
from gpufleet.spec.errors import Failed

POOLS = st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), unique=True, max_size=120)


def home(pools: dict[int, tuple[str, ...]]) -> dict[str, int]:
    return {pool: shard for shard, held in pools.items() for pool in held}


@given(POOLS)
def test_every_pool_is_in_exactly_one_stack(pools: list[str]) -> None:
    found = shards_of(pools, {})
    assert sorted(pool for held in found.values() for pool in held) == sorted(pools)
    assert list(found) == list(range(1, shard_count(len(pools)) + 1))


@given(POOLS, POOLS)
def test_a_pool_that_stands_stays_where_it_is(before: list[str], after: list[str]) -> None:
    standing = shards_of(before, {})
    found = home(shards_of(after, standing))
    for pool, shard in home(standing).items():
        assert found.get(pool, shard) == shard


@given(POOLS, POOLS)
def test_a_stack_is_there_as_long_as_it_holds_a_pool(before: list[str], after: list[str]) -> None:
    standing = shards_of(before, {})
    assert {shard for shard, held in standing.items() if held} <= shards_of(after, standing).keys()


@given(POOLS, st.randoms())
def test_an_update_half_done_changes_no_answer(pools: list[str], random: object) -> None:
    planned = shards_of(pools, {})
    some = {
        shard: [pool for pool in held if random.random() < 0.5]  # type: ignore[attr-defined]
        for shard, held in planned.items()
    }
    assert shards_of(pools, some) == planned


@given(st.integers(0, 10 * POOLS_OF_A_STACK))
def test_the_pools_of_a_large_site_are_spread_evenly(offset: int) -> None:
    pools = [f"p{number}" for number in range(offset, offset + 8 * POOLS_OF_A_STACK)]
    sizes = [len(held) for held in shards_of(pools, {}).values()]
    assert len(sizes) == 8
    # Five standard deviations of a fair share of 1/8.
    assert all(
        abs(size - POOLS_OF_A_STACK) < 5 * (POOLS_OF_A_STACK * 7 / 8) ** 0.5 for size in sizes
    )


def test_a_small_site_has_one_stack_whatever_comes_and_goes() -> None:
    pools = [f"p{number}" for number in range(POOLS_OF_A_STACK)]
    assert shards_of(pools, {}) == {1: tuple(pools)}
    assert shards_of([], {1: pools}) == {1: ()}


def test_a_site_that_grew_leaves_its_old_pools_in_the_first_stack() -> None:
    old = [f"old{number}" for number in range(POOLS_OF_A_STACK)]
    new = [f"new{number}" for number in range(POOLS_OF_A_STACK)]
    found = shards_of([*old, *new], {1: old})
    assert set(old) <= set(found[1])
    assert found[2]


def test_a_pool_in_two_states_is_refused_by_name() -> None:
    with pytest.raises(Failed, match="two stacks, 1 and 2") as refused:
        shards_of(["chat"], {1: ["chat"], 2: ["chat"]})
    assert "pool chat" in str(refused.value)
