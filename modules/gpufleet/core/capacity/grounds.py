"""Which node groups a pool may stand on: its own, and what is free where all its data may be."""

from collections.abc import Sequence

from gpufleet.core.capacity.choice import Ground
from gpufleet.core.cost.hardware import gpu_hour
from gpufleet.spec.fleet import Fleet


def grounds(fleet: Fleet) -> dict[str, Ground]:
    """Every node group, with what one of its GPUs costs at the declared default utilization."""
    return {
        name: Ground(
            site=group.site,
            gpu_type=group.gpu_type,
            nodes=group.nodes,
            gpus_per_node=group.gpus_per_node,
            hourly_cost=float(gpu_hour(fleet, name).total(fleet.costs.default_utilization)),
        )
        for name, group in fleet.node_groups.items()
    }


def allowed(fleet: Fleet, pool_name: str) -> tuple[str, ...]:
    """The node groups that a pool may stand on, its own first.

    Those that it is declared on and those that no pool is declared on, without what a site keeps
    for failures, at sites where the data of every one of its use cases may be processed. Empty
    where its use cases share no region.
    """
    pool = fleet.pools[pool_name]
    claimed = {group for other in fleet.pools.values() for group in other.placements}
    beyond = {site: _beyond_spares(fleet, site, claimed) for site in fleet.sites}
    free = [
        name
        for name, group in fleet.node_groups.items()
        if name not in claimed and group.nodes <= beyond[group.site]
    ]
    regions = [set(fleet.use_cases[name].residency) for name in pool.use_cases]
    shared = set.intersection(*regions) if regions else None
    return tuple(
        name
        for name in (*pool.placements, *free)
        if shared is None or fleet.sites[fleet.node_groups[name].site].region in shared
    )


def _beyond_spares(fleet: Fleet, site: str, claimed: set[str]) -> int:
    """Nodes of a site that belong to no pool, and that it need not keep for failures."""
    groups = fleet.node_groups_at(site)
    free = sum(group.nodes for name, group in groups.items() if name not in claimed)
    return free - fleet.sites[site].spare_nodes


def declared_sites(fleet: Fleet, pool_name: str, stands: Sequence[str]) -> list[str]:
    """Sites that a pool is declared at, of those that it may stand at."""
    found = [
        fleet.node_groups[group].site
        for group in fleet.pools[pool_name].placements
        if group in stands
    ]
    return list(dict.fromkeys(found))


def spare_places(fleet: Fleet, groups: tuple[str, ...], gpu_type: str, tp: int, pp: int) -> int:
    """Replicas that fit on nodes which sites keep empty for failures.

    Nodes of a type that no pool is declared on, at the sites of `groups`, up to the sites' own
    `spare_nodes`. All pools of a site count on them: that several need them at once is rarer than
    what each is prepared for.
    """
    claimed = {group for pool in fleet.pools.values() for group in pool.placements}
    places = 0
    for site in dict.fromkeys(fleet.node_groups[name].site for name in groups):
        left = fleet.sites[site].spare_nodes
        for name, group in fleet.node_groups_at(site).items():
            if name in claimed or group.gpu_type != gpu_type:
                continue
            nodes = min(left, group.nodes)
            left -= nodes
            places += nodes * (group.gpus_per_node // tp) // pp
    return places
