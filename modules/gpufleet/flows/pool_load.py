"""What the pools of an environment have now, by what its clusters show."""

from collections.abc import Collection, Mapping
from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.core.claims import CLAIMS_PATH
from gpufleet.core.patching.capacity import PoolCapacity, PoolKey, observed_capacity
from gpufleet.core.quotas import claims_gpus
from gpufleet.edges.kube_paths import collection_path
from gpufleet.flows.environment import cluster_of
from gpufleet.flows.ground import Ground

_WORKLOADS: Final = (
    collection_path("apps/v1", "Deployment", None),
    collection_path("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", None),
)
Load = Mapping[PoolKey, PoolCapacity]


def load_of(ground: Ground, sites: Collection[str]) -> Load:
    """What the pools of some sites have now.

    Raises:
        Retryable: a cluster does not answer.
    """
    found: dict[PoolKey, PoolCapacity] = {}
    for site in sorted(sites):
        cluster = cluster_of(ground.fleet, ground.state, site)
        try:
            found |= observed_capacity(
                ground.fleet,
                site,
                nodes=cluster.items("/api/v1/nodes"),
                pods=cluster.items("/api/v1/pods"),
                claims=cluster.items(CLAIMS_PATH) if claims_gpus(ground.fleet, site) else (),
                workloads=[
                    workload
                    for path in _WORKLOADS
                    for workload in cluster.items(path, labels=names.POOL)
                ],
            )
        finally:
            cluster.close()
    return found
