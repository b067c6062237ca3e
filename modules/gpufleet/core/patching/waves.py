"""Which hosts are patched in which wave, and which of them at the same time.

One host, then a small share, then a larger one, then the rest. Within a wave batches follow each
other: a batch is out of service at once, stands in one rack, and leaves every pool its promise.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Final, Protocol

from gpufleet.core.patching.capacity import PoolCapacity, PoolKey
from gpufleet.spec.patching import PatchOrder, Wave

LARGEST_BATCH: Final = 32
"""Hosts that are out of service at once at most: all of a batch wait for the slowest of them."""


class Placed(Protocol):
    """What the planner asks of a host; `HostChange` is one."""

    @property
    def host(self) -> str:
        """Its name, unique in the fleet."""

    @property
    def site(self) -> str:
        """Where it stands."""

    @property
    def rack(self) -> str:
        """Its failure domain."""

    @property
    def node_group(self) -> str:
        """Hosts of one group are equal."""

    @property
    def pools(self) -> list[str]:
        """Pools whose replicas it may hold."""


@dataclass(frozen=True)
class WavePlan:
    """The waves, and the hosts that are in none of them with the reason."""

    waves: list[Wave]
    left_out: dict[str, str]


def plan_waves(
    hosts: Sequence[Placed], load: Mapping[PoolKey, PoolCapacity], order: PatchOrder
) -> WavePlan:
    """Deal hosts to waves, and the hosts of each wave to batches.

    The first wave takes the host that hosts least; later ones take from every node group in turn,
    so that early waves see every kind of host. The same hosts and load give the same plan.

    Args:
        hosts: each once, in any order.
        load: what each pool has at each site, by `(site, pool)`; of a pool that is not in it
            nothing is known, and its hosts are left out.
        order: its shares of the waves.
    """
    left_out = {}
    planned = []
    for host in sorted(hosts, key=lambda host: host.host):
        if why := batch_refusal([host], load):
            left_out[host.host] = why
        else:
            planned.append(host)
    queue = _in_turn(planned, load)
    waves: list[Wave] = []
    for size in _sizes(len(queue), order):
        taken, queue = queue[:size], queue[size:]
        if taken:
            waves.append(Wave(number=len(waves) + 1, batches=_batches(taken, load)))
    return WavePlan(waves, left_out)


def batch_refusal(batch: Sequence[Placed], load: Mapping[PoolKey, PoolCapacity]) -> str:
    """Why these hosts may not be out of service together; empty where they may.

    Ask again just before a batch, by the load of then: replicas fail and autoscalers scale.
    """
    if len({(host.site, host.rack) for host in batch}) > 1:
        return "they stand in more than one rack"
    for key, names in _by_pool(batch).items():
        site, pool = key
        capacity = load.get(key)
        if capacity is None:
            return f"nobody knows how many replicas pool {pool} has at {site}"
        if why := capacity.refusal(names):
            mend = f"; {capacity.mend(names[0])}" if len(batch) == 1 else ""
            return f"pool {pool} at {site}: {why}{mend}"
    return ""


def _sizes(hosts: int, order: PatchOrder) -> Iterator[int]:
    """One host, the canary share, the early share, the rest."""
    yield 1
    # 0.05 * 20 is 1.0000000000000002 in floating point.
    yield math.ceil(hosts * order.canary_share - 1e-9)
    yield math.ceil(hosts * order.early_share - 1e-9)
    yield hosts


def _in_turn(hosts: Sequence[Placed], load: Mapping[PoolKey, PoolCapacity]) -> list[Placed]:
    """Hosts from every node group in turn: first the groups whose loss would hurt least."""
    groups: dict[str, list[Placed]] = {}
    for host in hosts:
        groups.setdefault(host.node_group, []).append(host)
    for members in groups.values():
        members.sort(key=lambda host: (not _is_idle(host, load), host.host))
    ordered = sorted(groups.values(), key=lambda group: _harm(group[0], load))
    return [host for host in chain.from_iterable(zip_longest(*ordered)) if host is not None]


def _harm(host: Placed, load: Mapping[PoolKey, PoolCapacity]) -> tuple[bool, float, str]:
    """Sorts a host that holds nothing first, then those whose pool has most to spare."""
    found = [load[host.site, pool] for pool in host.pools]
    spare = min(
        (
            (capacity.without([host.host]) - capacity.floor) / max(1, capacity.wanted)
            for capacity in found
        ),
        default=0.0,
    )
    return not _is_idle(host, load), -spare, host.host


def _is_idle(host: Placed, load: Mapping[PoolKey, PoolCapacity]) -> bool:
    return all(host.host in load[host.site, pool].idle for pool in host.pools)


def _batches(hosts: Sequence[Placed], load: Mapping[PoolKey, PoolCapacity]) -> list[list[str]]:
    """The hosts of one wave, rack by rack; of each rack as many at once as its pools allow."""
    racks: dict[tuple[str, str], list[Placed]] = {}
    for host in hosts:
        racks.setdefault((host.site, host.rack), []).append(host)
    batches = []
    for members in racks.values():
        left = members
        while left:
            batch, left = _next_batch(left, load)
            batches.append([host.host for host in batch])
    return batches


def _next_batch(
    hosts: Sequence[Placed], load: Mapping[PoolKey, PoolCapacity]
) -> tuple[list[Placed], list[Placed]]:
    """As many hosts of a rack as may go at once, and those that are left for later batches."""
    batch: list[Placed] = []
    later: list[Placed] = []
    out: dict[PoolKey, list[str]] = {}
    full: set[PoolKey] = set()
    for host in hosts:
        keys = [(host.site, pool) for pool in host.pools]
        full.update(
            key
            for key in keys
            if key not in full and load[key].refusal([*out.get(key, []), host.host])
        )
        if len(batch) >= LARGEST_BATCH or not full.isdisjoint(keys):
            later.append(host)
            continue
        batch.append(host)
        for key in keys:
            out.setdefault(key, []).append(host.host)
    return batch, later


def _by_pool(hosts: Sequence[Placed]) -> dict[PoolKey, list[str]]:
    found: dict[PoolKey, list[str]] = {}
    for host in hosts:
        for pool in host.pools:
            found.setdefault((host.site, pool), []).append(host.host)
    return found
