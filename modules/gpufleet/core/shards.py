"""Which stack of a site holds which pool: the pools of a large site are spread over several.

Pulumi writes a stack's whole state after each step, so that the time of a first update grows with
the square of the stack; and one stack keeps one core busy. A pool never moves: where it stands, it
stays, however many pools and stacks come and go, since moving it would mean to make it again.
"""

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from gpufleet.spec.errors import Failed

POOLS_OF_A_STACK: Final = 25
"""Fewer make more stacks, each with its own program and provider to start; more make larger
states to write. Measured by `benchmarks/provision`."""


def shard_count(pools: int) -> int:
    """How many stacks a site with so many pools is given."""
    return max(1, math.ceil(pools / POOLS_OF_A_STACK))


def shards_of(
    pools: Iterable[str], standing: Mapping[int, Collection[str]]
) -> dict[int, tuple[str, ...]]:
    """The pools of each of a site's stacks, by its number from 1; a stack may have none.

    A new pool is given a stack by its name alone (rendezvous hashing): stacks that are updated
    side by side, or one by one by hand, come to the same answer at any time.

    Args:
        pools: the declared pools of the site.
        standing: the pools that are in the state of each stack.

    Raises:
        Failed: a pool is in the states of two stacks.
    """
    declared = tuple(pools)
    homes: dict[str, int] = {}
    for shard, held in sorted(standing.items()):
        for pool in held:
            if homes.setdefault(pool, shard) != shard:
                raise Failed(
                    f"is in the states of two stacks, {homes[pool]} and {shard}",
                    where=f"pool {pool}",
                    mend="take it out of one of them: `pulumi state delete` in stacks/pools",
                )
    count = shard_count(len(declared))
    numbers = {*range(1, count + 1), *(shard for shard, held in standing.items() if held)}
    found: dict[int, list[str]] = {number: [] for number in sorted(numbers)}
    for pool in declared:
        found[homes.get(pool) or _rendezvous(pool, count)].append(pool)
    return {number: tuple(held) for number, held in found.items()}


def _rendezvous(pool: str, count: int) -> int:
    """The stack with the highest weight for a name: one more takes from each its share, no more."""
    return max(range(1, count + 1), key=lambda shard: _weight(pool, shard))


def _weight(pool: str, shard: int) -> bytes:
    return hashlib.sha256(f"{pool}\0{shard}".encode()).digest()
