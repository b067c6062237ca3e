"""What comes up where when a site is lost: within free GPUs and residency, batch yields."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gpufleet.core.inventory import expand_site
from gpufleet.core.observed import gpus_held, has_ended, is_ready
from gpufleet.spec.drills import Placed
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.serving import Placement, Pool, ServingClass

Free = Mapping[str, Sequence[int]]
"""Free GPUs of each node, by node group."""
_NO_TIME: Final = math.inf


@dataclass(frozen=True)
class Failover:
    """What comes back after the loss of a site, and what cannot."""

    placed: tuple[Placed, ...]
    unheld: Mapping[str, str]
    """Why a use case cannot come back, and what would change that."""
    short: Mapping[str, int]
    """Replicas of a pool that find no place; those that do serve what they can."""


@dataclass(frozen=True)
class _Spot:
    """A node group that may take replicas of a pool."""

    group: str
    site: str
    shape: Placement
    yields: str = ""


@dataclass
class _Places:
    """What is left of each node while places are given away."""

    left: dict[str, list[int]]
    yielded: dict[str, list[int]]
    """The same, of GPUs that a batch pool holds now."""
    given: dict[tuple[str, str], int] = field(default_factory=dict)

    def take(self, spot: _Spot) -> bool:
        """Take the places of one replica, all of them or none."""
        nodes = (self.yielded if spot.yields else self.left).get(spot.group, [])
        fitting = [at for at, free in enumerate(nodes) if free >= spot.shape.gpus_per_node]
        # The fullest first: whole nodes stay for replicas that need them.
        fitting.sort(key=lambda at: nodes[at])
        chosen = fitting[: spot.shape.nodes_per_replica]
        if len(chosen) < spot.shape.nodes_per_replica:
            return False
        for at in chosen:
            nodes[at] -= spot.shape.gpus_per_node
        return True


def affected_pools(fleet: Fleet, lost: str) -> dict[str, int]:
    """Interactive pools with steady replicas at a site, with how many; shortest objective first."""
    found = {
        name: count
        for name, pool in fleet.pools.items()
        if pool.class_ is ServingClass.INTERACTIVE
        and _served(fleet, pool, lost)
        and (count := sum(p.replicas for _, p in _at(fleet, pool, [lost])))
    }
    return dict(sorted(found.items(), key=lambda each: _rto_s(fleet, fleet.pools[each[0]])))


def affected_use_cases(fleet: Fleet, site: str, pools: Iterable[str]) -> list[str]:
    """The use cases of some pools that are served at a site, the shortest objective first.

    One whose data may not be processed there loses nothing with it.
    """
    region = fleet.sites[site].region
    found = [
        name
        for pool in pools
        for name in fleet.pools[pool].use_cases
        if region in fleet.use_cases[name].residency
    ]
    return sorted(found, key=lambda name: fleet.use_cases[name].rto_s)


def failover(fleet: Fleet, lost: str, free: Free, *, batch_yields: bool = True) -> Failover:
    """Replicas that come up at the sites that are left.

    One of each pool first, the shortest objective first; then as many as were lost. A pool takes
    free GPUs of its own node groups, then those of groups that no pool stands on and whose GPUs it
    runs on elsewhere, then those that batch work gives back.

    Args:
        fleet: as declared.
        lost: the site.
        free: GPUs that are free now, of the nodes that can be used, at the other sites.
        batch_yields: whether batch pools give their GPUs back.
    """
    places = _Places({group: list(nodes) for group, nodes in free.items()}, _yielded(fleet, free))
    wanted = affected_pools(fleet, lost)
    spots = {name: list(_spots(fleet, name, lost, batch_yields=batch_yields)) for name in wanted}
    taken: dict[tuple[str, _Spot], int] = {}

    def place(name: str) -> bool:
        spot = next((each for each in spots[name] if places.take(each)), None)
        if spot is None:
            return False
        taken[name, spot] = taken.get((name, spot), 0) + 1
        return True

    short = {name: count for name, count in wanted.items() if not place(name)}
    for name, count in wanted.items():
        if name in short:
            continue
        more = sum(1 for _ in range(count - 1) if place(name))
        if more < count - 1:
            short[name] = count - 1 - more
    placed = tuple(
        Placed(
            pool=name,
            site=spot.site,
            node_group=spot.group,
            replicas=count,
            nodes_per_replica=spot.shape.nodes_per_replica,
            gpus_per_node=spot.shape.gpus_per_node,
            yields=spot.yields,
        )
        for (name, spot), count in taken.items()
    )
    return Failover(placed, dict(_unheld(fleet, lost, wanted, spots, placed)), short)


def stand_ins(fleet: Fleet, lost: str, free: Free) -> tuple[Placed, ...]:
    """One replica of each affected pool at the site itself, where GPUs are free: what is to fail.

    Args:
        fleet: as declared.
        lost: the site that a drill loses.
        free: GPUs that are free there now.
    """
    places = _Places({group: list(nodes) for group, nodes in free.items()}, {})
    found = []
    for name in affected_pools(fleet, lost):
        own = [_Spot(g, lost, p) for g, p in _at(fleet, fleet.pools[name], [lost])]
        spots = [*own, *_spare(fleet, fleet.pools[name], [lost])]
        spot = next((each for each in spots if places.take(each)), None)
        if spot:
            shape = spot.shape
            found.append(
                Placed(
                    pool=name,
                    site=lost,
                    node_group=spot.group,
                    replicas=1,
                    nodes_per_replica=shape.nodes_per_replica,
                    gpus_per_node=shape.gpus_per_node,
                )
            )
    return tuple(found)


def free_gpus(  # noqa: PLR0913, PLR0917 - what a node has, and who holds it
    fleet: Fleet,
    site: str,
    nodes: Iterable[Mapping[str, Any]],
    pods: Iterable[Mapping[str, Any]],
    claimed: Mapping[tuple[str, str], int],
    without: Collection[str] = (),
) -> dict[str, list[int]]:
    """Free GPUs of each usable node of a site, by node group.

    Args:
        fleet: as declared.
        site: of it.
        nodes: as the cluster shows them; cordoned ones, and those that are not ready, have none.
        pods: of every namespace.
        claimed: GPUs that claims were given, by namespace and name.
        without: nodes that may not be used.
    """
    used: dict[str, int] = {}
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if node and not has_ended(pod):
            used[node] = used.get(node, 0) + gpus_held(pod, claimed)
    usable = {
        node["metadata"]["name"]
        for node in nodes
        if is_ready(node) and not node["spec"].get("unschedulable")
    }.difference(without)
    found: dict[str, list[int]] = {name: [] for name in fleet.node_groups_at(site)}
    for node in expand_site(fleet, site):
        if node.name in usable:
            found[node.group].append(max(0, node.gpus - used.get(node.name, 0)))
    return found


def _at(fleet: Fleet, pool: Pool, sites: Iterable[str]) -> Iterator[tuple[str, Placement]]:
    at = set(sites)
    for group, placement in pool.placements.items():
        if fleet.node_groups[group].site in at:
            yield group, placement


def _left(fleet: Fleet, lost: str) -> list[str]:
    return [site for site in fleet.sites if site != lost and not fleet.awaits_cluster(site)]


def _yielded(fleet: Fleet, free: Free) -> dict[str, list[int]]:
    """What nodes of batch pools have once the batch is gone: such a group is one pool's alone."""
    batch = _batch_groups(fleet)
    return {
        group: [fleet.node_groups[group].gpus_per_node] * len(nodes)
        for group, nodes in free.items()
        if group in batch
    }


def _batch_groups(fleet: Fleet) -> dict[str, str]:
    """The batch pool of each group that yields: replicas that span nodes do not.

    Such a workload gets smaller from its end, and not where room is needed.
    """
    return {group: name for group, (name, nodes) in _all_batch_groups(fleet).items() if nodes == 1}


def _all_batch_groups(fleet: Fleet) -> dict[str, tuple[str, int]]:
    """The batch pool of each of its groups, and how many nodes a replica takes there."""
    return {
        group: (name, placement.nodes_per_replica)
        for name, pool in fleet.pools.items()
        if pool.class_ is ServingClass.BATCH
        for group, placement in pool.placements.items()
    }


def unyielding(fleet: Fleet, pool: str, sites: Iterable[str]) -> list[str]:
    """Batch pools with GPUs that a pool runs on, which do not yield: their replicas span nodes.

    Args:
        fleet: as declared.
        pool: that would need them.
        sites: where.
    """
    wide = {group: name for group, (name, n) in _all_batch_groups(fleet).items() if n > 1}
    found = _with_gpus_of(fleet, fleet.pools[pool], sites, wide)
    return sorted({spot.yields for spot in found})


def _spare(fleet: Fleet, pool: Pool, sites: Iterable[str]) -> Iterator[_Spot]:
    """Groups that no pool stands on, of GPUs that the pool is known to run on."""
    used = {group for each in fleet.pools.values() for group in each.placements}
    yield from _with_gpus_of(
        fleet, pool, sites, {g: "" for g in fleet.node_groups if g not in used}
    )


def _with_gpus_of(
    fleet: Fleet, pool: Pool, sites: Iterable[str], groups: Mapping[str, str]
) -> Iterator[_Spot]:
    shapes = {fleet.node_groups[g].gpu_type: p for g, p in reversed(pool.placements.items())}
    at = set(sites)
    for name, yields in groups.items():
        group = fleet.node_groups[name]
        shape = shapes.get(group.gpu_type)
        if group.site in at and shape and shape.gpus_per_node <= group.gpus_per_node:
            yield _Spot(name, group.site, shape, yields)


def _spots(fleet: Fleet, name: str, lost: str, *, batch_yields: bool) -> Iterator[_Spot]:
    pool, left = fleet.pools[name], _left(fleet, lost)
    found = [_Spot(g, fleet.node_groups[g].site, p) for g, p in _at(fleet, pool, left)]
    found += _spare(fleet, pool, left)
    if batch_yields:
        found += _with_gpus_of(fleet, pool, left, _batch_groups(fleet))
    allowed = [(spot, _served(fleet, pool, spot.site)) for spot in found]
    # Where more use cases may be served a replica is worth more.
    allowed.sort(key=lambda each: -each[1])
    yield from (spot for spot, count in allowed if count)


def _served(fleet: Fleet, pool: Pool, site: str) -> int:
    """Use cases of a pool whose data may be processed at a site."""
    region = fleet.sites[site].region
    return sum(region in fleet.use_cases[name].residency for name in pool.use_cases)


def _unheld(
    fleet: Fleet,
    lost: str,
    wanted: Mapping[str, int],
    spots: Mapping[str, Sequence[_Spot]],
    placed: Iterable[Placed],
) -> Iterator[tuple[str, str]]:
    regions: dict[str, set[str]] = {}
    for each in placed:
        regions.setdefault(each.pool, set()).add(fleet.sites[each.site].region)
    for pool in wanted:
        for name in affected_use_cases(fleet, lost, [pool]):
            residency = fleet.use_cases[name].residency
            if regions.get(pool, set()).intersection(residency):
                continue
            near = [s for s in _left(fleet, lost) if fleet.sites[s].region in residency]
            if not near:
                yield name, f"no other site is in its residency ({', '.join(residency)}): add one"
                continue
            where = ", ".join(near)
            wide = ", ".join(unyielding(fleet, pool, near))
            kept = f" (replicas of batch pool {wide} span nodes and do not yield)" if wide else ""
            if not any(spot.site in near for spot in spots[pool]):
                why = f"no GPUs that pool {pool} runs on at {where}{kept}"
                yield name, f"{why}: add some there"
            else:
                shape = next(spot.shape for spot in spots[pool] if spot.site in near)
                gpus = f"{shape.gpus_per_replica} GPUs"
                why = f"no {gpus} are free for a replica of pool {pool} at {where}{kept}"
                yield name, f"{why}: keep as many spare there"


def _rto_s(fleet: Fleet, pool: Pool) -> float:
    return min((fleet.use_cases[name].rto_s for name in pool.use_cases), default=_NO_TIME)
