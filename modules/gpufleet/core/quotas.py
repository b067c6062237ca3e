"""Quotas that follow from pools: a cap for interactive work, Kueue flavors for batch."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from gpufleet.core import vocabulary as names
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.core.weights import store_ports
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import GpuAccess
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
    """Most GPUs that interactive pools request: every ceiling, and a rollout's surge."""
    claimed_gpus: int | None
    """The same of those that claim them as devices; None where no node group declares DRA."""
    batch: tuple[BatchQuota, ...]
    """The node groups of batch pools, whole: no interactive pool stands on them."""
    batch_pools: tuple[str, ...]
    store_ports: tuple[int, ...]
    """Ports of the site's object store, and of where weights come from."""

    @classmethod
    def of(cls, fleet: Fleet, site: str) -> Self:
        """The plan of one site."""
        pools = pools_at(fleet, site)
        batch = [pool for pool in pools if pool.class_ is ServingClass.BATCH]
        return cls(
            site=site,
            fleet=fleet.slug,
            interactive_gpus=_most_gpus(pools, GpuAccess.DEVICE_PLUGIN),
            claimed_gpus=_most_gpus(pools, GpuAccess.DRA) if claims_gpus(fleet, site) else None,
            batch=tuple(_batch_quota(fleet, pool.group_name) for pool in batch),
            batch_pools=tuple(pool.name for pool in batch),
            store_ports=store_ports(fleet.sites[site].object_store),
        )

    @property
    def interactive_quota(self) -> dict[str, str]:
        """The hard limits of the interactive namespace, by Kubernetes' names of what is counted.

        From 1.36 on, claims of a class that names an extended resource count as requests of it too.
        """
        requests = f"requests.{names.GPU_RESOURCE}"
        if self.claimed_gpus is None:
            return {requests: str(self.interactive_gpus)}
        return {
            requests: str(self.interactive_gpus + self.claimed_gpus),
            names.CLAIMED_DEVICES: str(self.claimed_gpus),
        }


def claims_gpus(fleet: Fleet, site: str) -> bool:
    """Whether a node group of a site gives its GPUs by ResourceClaims."""
    groups = fleet.node_groups_at(site).values()
    return any(group.gpu_access is GpuAccess.DRA for group in groups)


def _most_gpus(pools: Iterable[PoolAtSite], access: GpuAccess) -> int:
    return sum(
        (pool.max_replicas + pool.surge.max_surge) * pool.gpus_per_replica
        for pool in pools
        if pool.class_ is ServingClass.INTERACTIVE and pool.gpu_access is access
    )


def _batch_quota(fleet: Fleet, node_group: str) -> BatchQuota:
    group = fleet.node_groups[node_group]
    return BatchQuota(
        node_group=node_group,
        gpus=group.gpus,
        cpus=group.cpus_per_node * group.nodes,
        memory_bytes=group.memory_bytes_per_node * group.nodes,
    )
