"""Stages of drills: what stands in for an environment's pools."""

from collections.abc import Iterable

from gpufleet.core.serving import PoolAtSite
from gpufleet.spec.drills import Placed


def placed_once(pools: Iterable[PoolAtSite]) -> list[Placed]:
    """One replica of each pool, where it is."""
    return [
        Placed(
            pool=pool.name,
            site=pool.site,
            node_group=pool.group_name,
            replicas=1,
            nodes_per_replica=pool.nodes_per_replica,
            gpus_per_node=pool.gpus_per_node,
        )
        for pool in pools
    ]
