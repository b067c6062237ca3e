"""The volumes of nodes' caches when their claim was lost."""

from gpufleet.components import node_cache
from gpufleet.core import vocabulary as names
from gpufleet.edges.kube import Cluster
from gpufleet.edges.kube_paths import object_path


def free_volumes(cluster: Cluster) -> None:
    """Let a volume take a new claim where the one that it had is gone.

    Kubernetes keeps it for the data of the old one; here it holds none of its own.

    Raises:
        FleetError: the cluster does not answer, or refuses.
    """
    for namespace in names.POOL_NAMESPACES:
        path = object_path(node_cache.volume(namespace, {}))
        found = cluster.get(path)
        if found is not None and found.get("status", {}).get("phase") == "Released":
            forgotten = {"uid": None, "resourceVersion": None}
            cluster.merge_existing(path, {"spec": {"claimRef": forgotten}})
