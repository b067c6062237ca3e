"""What of production a drill for real would take at a site, as it stands now; changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.claims import CLAIMS_PATH, allocated
from gpufleet.core.drills.failover import free_gpus
from gpufleet.core.drills.production import BatchPod, scaled_of, yielding
from gpufleet.core.drills.stage import FOR_REAL, NAMESPACE
from gpufleet.core.inventory import expand_site
from gpufleet.core.observed import gpus_held, has_ended, is_ready
from gpufleet.core.quotas import claims_gpus
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.edges.gateway_files import read_published
from gpufleet.edges.kube import Cluster
from gpufleet.edges.kube_paths import collection_path
from gpufleet.flows.drills.stage import entered
from gpufleet.flows.ground import Ground
from gpufleet.spec.drills import Cordoned, Placed, Reason, Scaled
from gpufleet.spec.errors import BadInput
from gpufleet.spec.gateway import REPLICAS_FILE, Replica, Replicas
from gpufleet.spec.serving import ServingClass

VERSIONS: Final[Mapping[str, str]] = {
    "Deployment": "apps/v1",
    "LeaderWorkerSet": "leaderworkerset.x-k8s.io/v1",
}
"""API version of each kind that runs replicas."""
SCALER: Final = ("keda.sh/v1alpha1", "ScaledObject")
_NAMESPACE_PATH: Final = f"/api/v1/namespaces/{NAMESPACE}"
_GROUP_INDEX: Final = "leaderworkerset.sigs.k8s.io/group-index"


@dataclass(frozen=True)
class Hits:
    """Production at one site.

    Args:
        ground: the environment.
        site: of the fleet.
    """

    ground: Ground
    site: str

    def losing(self) -> list[Scaled]:
        """Every interactive pool at the site, as it stands.

        Raises:
            Retryable: the site does not answer.
        """
        with entered(self.ground, self.site) as cluster:
            found = [
                self._observed(cluster, pool, Reason.LOST)
                for pool in pools_at(self.ground.fleet, self.site)
                if pool.class_ is ServingClass.INTERACTIVE
            ]
        return [each for each in found if each and (each.before or each.autoscaled)]

    def yielding(
        self, placed: Sequence[Placed], most: Mapping[str, int] | None = None
    ) -> list[Scaled]:
        """The batch pools that make room at the site for what comes up, as they stand.

        Args:
            placed: what comes up, at any site.
            most: replicas that each batch pool may lose at most; any number where it is not given.

        Raises:
            Retryable: the site does not answer.
        """
        here = [each for each in placed if each.site == self.site and each.yields]
        found = []
        with entered(self.ground, self.site) as cluster:
            for pool in pools_at(self.ground.fleet, self.site):
                wanted = [each for each in here if each.yields == pool.name]
                if not wanted:
                    continue
                free, pods = self._held(cluster, pool)
                going = yielding(wanted, free, pods)
                if most is not None:
                    going = going[: most.get(pool.name, 0)]
                row = self._observed(cluster, pool, Reason.YIELDS, going)
                if row and going:
                    found.append(row)
        return found

    def replica_to_lose(self, pool: str) -> tuple[Cordoned, bool]:
        """A replica of a pool on a node that nobody has cordoned; whether it fits elsewhere.

        Raises:
            BadInput: there is none; or its replicas span nodes.
            Retryable: the site does not answer.
        """
        (at,) = (each for each in pools_at(self.ground.fleet, self.site) if each.name == pool)
        if at.spans_nodes:
            raise BadInput(
                f"a replica of pool {pool} spans nodes: made again it has the lost one's name",
                where="--target",
                mend="choose a pool whose replicas stand on one node each",
            )
        with entered(self.ground, self.site) as cluster:
            nodes = cluster.items("/api/v1/nodes")
            pods = cluster.items("/api/v1/pods")
            held = cluster.items(CLAIMS_PATH) if claims_gpus(self.ground.fleet, self.site) else []
        open_nodes = {
            node["metadata"]["name"] for node in nodes if not node["spec"].get("unschedulable")
        }
        ready = [pod for pod in pods if _leads(pod, at) and is_ready(pod)]
        chosen = [pod for pod in ready if pod["spec"].get("nodeName") in open_nodes]
        if not chosen:
            what = "no replica of it is ready on a node that nobody has cordoned"
            raise BadInput(what, where=f"{pool}@{self.site}", mend="./fleet status")
        pod = min(chosen, key=lambda each: str(each["metadata"]["name"]))
        gone = {each["metadata"]["name"] for each in pods if _same_replica(each, pod)}
        others = [each for each in pods if each["metadata"]["name"] not in gone]
        node = str(pod["spec"]["nodeName"])
        free = free_gpus(
            self.ground.fleet, self.site, nodes, others, allocated(held), without=[node]
        )
        fitting = [gpus for gpus in free[at.group_name] if gpus >= at.gpus_per_node]
        lost = Cordoned(
            site=self.site,
            node=node,
            pool=pool,
            namespace=at.namespace,
            pod=str(pod["metadata"]["name"]),
            uid=str(pod["metadata"]["uid"]),
            before=len(ready),
        )
        return lost, len(fitting) >= at.nodes_per_replica

    def ready_of(self, lost: Cordoned) -> list[str]:
        """Uids of the ready replicas of the pool of one that is lost, it too while it is ready.

        Raises:
            Retryable: the site does not answer.
        """
        pools = pools_at(self.ground.fleet, self.site)
        (pool,) = (each for each in pools if each.name == lost.pool)
        path = collection_path("v1", "Pod", lost.namespace)
        with entered(self.ground, self.site) as cluster:
            pods = cluster.items(path, labels=f"{names.POOL}={lost.pool}")
        return [str(pod["metadata"]["uid"]) for pod in pods if _leads(pod, pool) and is_ready(pod)]

    def wanted_of(self, lost: Cordoned) -> int:
        """Replicas that the workload of a lost one is told to have; none where it is gone.

        Raises:
            Retryable: the site does not answer.
        """
        (at,) = (each for each in pools_at(self.ground.fleet, self.site) if each.name == lost.pool)
        with entered(self.ground, self.site) as cluster:
            found = self._observed(cluster, at, Reason.LOST)
        return found.before if found else 0

    def _observed(
        self, cluster: Cluster, pool: PoolAtSite, reason: Reason, pods: Sequence[str] = ()
    ) -> Scaled | None:
        kind = "LeaderWorkerSet" if pool.spans_nodes else "Deployment"
        path = collection_path(VERSIONS[kind], kind, pool.namespace)
        workload = cluster.get(f"{path}/{pool.name}")
        if workload is None:
            return None
        scaler = None
        if pool.autoscaled:
            scaler = cluster.get(f"{collection_path(*SCALER, pool.namespace)}/{pool.name}")
        return scaled_of(pool, {**workload, "kind": kind}, scaler, reason, pods=pods)

    def _held(self, cluster: Cluster, pool: PoolAtSite) -> tuple[dict[str, int], list[BatchPod]]:
        """GPUs of a batch pool's nodes that none of its replicas holds, and those replicas.

        Pods of batches there make way by themselves: their priority is below every replica's.
        """
        fleet = self.ground.fleet
        held = allocated(cluster.items(CLAIMS_PATH)) if claims_gpus(fleet, self.site) else {}
        pods = [
            BatchPod(
                str(pod["metadata"]["name"]), str(pod["spec"]["nodeName"]), gpus_held(pod, held)
            )
            for pod in cluster.items("/api/v1/pods", labels=f"{names.POOL}={pool.name}")
            if pod["spec"].get("nodeName") and not has_ended(pod)
        ]
        usable = {
            node["metadata"]["name"]
            for node in cluster.items("/api/v1/nodes")
            if is_ready(node) and not node["spec"].get("unschedulable")
        }
        free = {
            node.name: node.gpus - sum(pod.gpus for pod in pods if pod.node == node.name)
            for node in expand_site(fleet, self.site)
            if node.group == pool.group_name and node.name in usable
        }
        return free, pods


def hits_production(cluster: Cluster) -> bool:
    """Whether the drill whose stage stands in a cluster is one for real.

    Raises:
        FleetError: the cluster does not answer.
    """
    standing = cluster.get(_NAMESPACE_PATH)
    about = standing["metadata"] if standing else {}
    return FOR_REAL in (about.get("annotations") or {})


def serving(ground: Ground, pool: str) -> list[Replica]:
    """The replicas of a pool that the gateway asks now."""
    found = read_published(ground.state.gateway / REPLICAS_FILE, Replicas)
    known = found.pools.get(pool, []) if found else []
    return [each for each in known if each.ready and each.answering]


def _leads(pod: Mapping[str, Any], pool: PoolAtSite) -> bool:
    """Whether a pod is the one of a pool's replica that answers."""
    about = pod["metadata"]
    labels = about.get("labels") or {}
    return (
        about["namespace"] == pool.namespace
        and labels.get(names.POOL) == pool.name
        and labels.get(names.WORKER_INDEX, "0") == "0"
    )


def _same_replica(pod: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    one, two = pod["metadata"], other["metadata"]
    if one["name"] == two["name"]:
        return bool(one["namespace"] == two["namespace"])
    labels, wanted = one.get("labels") or {}, two.get("labels") or {}
    return _GROUP_INDEX in wanted and all(
        labels.get(key) == wanted[key] for key in (names.POOL, _GROUP_INDEX)
    )
