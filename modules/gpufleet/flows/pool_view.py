"""The pools of a site as its cluster shows them."""

from gpufleet.core.claims import CLAIMS_PATH
from gpufleet.core.observed import pool_rows
from gpufleet.core.quotas import claims_gpus
from gpufleet.core.vocabulary import POOL
from gpufleet.edges.kube import Cluster
from gpufleet.spec import Fleet
from gpufleet.spec.reports import PoolRow


def observed_pools(fleet: Fleet, site: str, cluster: Cluster) -> list[PoolRow]:
    """A row for each pool of a site.

    Raises:
        FleetError: the cluster does not answer.
    """
    claims = cluster.items(CLAIMS_PATH) if claims_gpus(fleet, site) else []
    return pool_rows(fleet, site, cluster.items("/api/v1/pods", labels=POOL), claims)
