"""One real token from the replicas on a node: the last proof that its GPUs serve."""

from gpufleet.core import vocabulary as names
from gpufleet.core.observed import is_ready
from gpufleet.core.serving import ENGINE_PORT, pools_at
from gpufleet.edges.replica_probe import Replica, ask_each
from gpufleet.flows.environment import cluster_of
from gpufleet.flows.ground import Ground
from gpufleet.spec.hardware import EmbeddedCluster
from gpufleet.spec.prewarming import ReplicaProof


def tokens_of_node(ground: Ground, site: str, node: str, within_s: float) -> list[ReplicaProof]:
    """Ask every ready replica on a node for one token; empty where none is there.

    Args:
        ground: the environment.
        site: of the node.
        node: its name.
        within_s: longest time of one answer, s.

    Raises:
        Retryable: the API server does not answer.
    """
    fleet = ground.fleet
    models = {pool.name: pool.model_name for pool in pools_at(fleet, site)}
    cluster = cluster_of(fleet, ground.state, site)
    try:
        pods = cluster.items("/api/v1/pods", labels=names.POOL)
        replicas = [
            Replica(
                pod=pod["metadata"]["name"],
                namespace=pod["metadata"]["namespace"],
                address=pod.get("status", {}).get("podIP", ""),
                port=ENGINE_PORT,
                model=models[pod["metadata"]["labels"][names.POOL]],
            )
            for pod in pods
            if pod["spec"].get("nodeName") == node
            and is_ready(pod)
            and pod["metadata"]["labels"][names.POOL] in models
            # Of a replica over several nodes the first pod answers.
            and pod["metadata"]["labels"].get(names.WORKER_INDEX, "0") == "0"
        ]
        is_near = isinstance(fleet.sites[site].cluster, EmbeddedCluster)
        return ask_each(replicas, within_s, None if is_near else cluster)
    finally:
        cluster.close()
