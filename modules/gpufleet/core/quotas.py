"""Quotas that follow from pools: a cap for interactive work, Kueue flavors for batch."""

from dataclasses import dataclass
from typing import Self

from gpufleet.core.serving import pools_at
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.serving import ServingClass


@dataclass(frozen=True)
class BatchQuota:
    """What batch work may take of one node group."""

    node_group: str
    gpus: int
    cpus: int
    memory_bytes: int


@dataclass(frozen=True)
class SitePlan:
    """The derived numbers of one site's platform."""

    site: str
    fleet: str
    interactive_gpus: int
    """Most GPUs that interactive pools take: every ceiling, and a rollout's surge."""
    batch: tuple[BatchQuota, ...]
    """The node groups of batch pools, whole: no interactive pool stands on them."""
    batch_pools: tuple[str, ...]

    @classmethod
    def of(cls, fleet: Fleet, site: str) -> Self:
        """The plan of one site."""
        pools = pools_at(fleet, site)
        batch = [pool for pool in pools if pool.class_ is ServingClass.BATCH]
        return cls(
            site=site,
            fleet=fleet.slug,
            interactive_gpus=sum(
                (pool.max_replicas + pool.surge.max_surge) * pool.gpus_per_replica
                for pool in pools
                if pool.class_ is ServingClass.INTERACTIVE
            ),
            batch=tuple(_batch_quota(fleet, pool.group_name) for pool in batch),
            batch_pools=tuple(pool.name for pool in batch),
        )


def _batch_quota(fleet: Fleet, node_group: str) -> BatchQuota:
    group = fleet.node_groups[node_group]
    return BatchQuota(
        node_group=node_group,
        gpus=group.gpus,
        cpus=group.cpus_per_node * group.nodes,
        memory_bytes=group.memory_bytes_per_node * group.nodes,
    )
