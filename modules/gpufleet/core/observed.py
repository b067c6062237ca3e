"""From what a cluster shows to pool rows and drift; objects are plain Kubernetes data."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.claims import allocated, claims_of, devices_by_node
from gpufleet.core.inventory import Node, expand_site
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.reports import DriftRow, PoolRow

Object = Mapping[str, Any]
_GROUP_INDEX: Final = "leaderworkerset.sigs.k8s.io/group-index"


def pool_rows(
    fleet: Fleet, site: str, pods: Sequence[Object], claims: Iterable[Object] = ()
) -> list[PoolRow]:
    """A row for each pool of a site.

    Args:
        fleet: the fleet.
        site: one of its sites.
        pods: those that carry a pool's label.
        claims: the ResourceClaims of the site, where pods get their GPUs by them.
    """
    claimed = allocated(claims)
    racks = {node.name: node.rack for node in expand_site(fleet, site)}
    by_pool: defaultdict[str, list[Object]] = defaultdict(list)
    for pod in pods:
        by_pool[pod["metadata"]["labels"][names.POOL]].append(pod)
    return [_row(fleet, pool, by_pool[pool.name], racks, claimed) for pool in pools_at(fleet, site)]


def _row(
    fleet: Fleet,
    pool: PoolAtSite,
    pods: Sequence[Object],
    racks: Mapping[str, str],
    claimed: Mapping[tuple[str, str], int],
) -> PoolRow:
    placed = [pod for pod in pods if pod["spec"].get("nodeName") and not has_ended(pod)]
    used = sum(gpus_held(pod, claimed) for pod in placed)
    nodes = {pod["spec"]["nodeName"] for pod in placed}
    return PoolRow(
        site=pool.site,
        pool=pool.name,
        class_=pool.class_.value,
        revision=pool.model_name,
        replicas_ready=_replicas_ready(pool, pods),
        replicas_wanted=pool.replicas,
        gpus_used=used,
        gpus_free=fleet.node_groups[pool.group_name].gpus - used,
        nodes=len(nodes),
        racks=len({racks[node] for node in nodes if node in racks}),
    )


def _replicas_ready(pool: PoolAtSite, pods: Sequence[Object]) -> int:
    """Replicas of which every pod is ready and carries the declared revision."""
    ready = [pod for pod in pods if is_ready(pod) and _digest(pod) == pool.model.digest]
    if not pool.spans_nodes:
        return len(ready)
    members: defaultdict[str, int] = defaultdict(int)
    for pod in ready:
        members[pod["metadata"]["labels"].get(_GROUP_INDEX, "")] += 1
    return sum(count >= pool.nodes_per_replica for count in members.values())


def is_ready(pod: Object) -> bool:
    """Whether a pod serves and is not on its way out."""
    conditions = pod.get("status", {}).get("conditions") or []
    return not pod["metadata"].get("deletionTimestamp") and any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )


def rolling(deployments: Iterable[Object]) -> list[str]:
    """The names of Deployments that are not through with their last change: old pods serve."""
    return [
        deployment["metadata"]["name"]
        for deployment in deployments
        if not _is_rolled_out(deployment)
    ]


def _is_rolled_out(deployment: Object) -> bool:
    status = deployment.get("status", {})
    updated = status.get("updatedReplicas", 0)
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and updated >= deployment["spec"].get("replicas", 1)
        and status.get("replicas", 0) == updated
    )


def has_ended(pod: Object) -> bool:
    """Whether a pod has run to its end, and holds nothing any more."""
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def _digest(pod: Object) -> str | None:
    return (pod["metadata"].get("annotations") or {}).get(names.REVISION_DIGEST)


def gpus_held(pod: Object, claimed: Mapping[tuple[str, str], int]) -> int:
    """GPUs that a pod holds: those that it requests, and those that its claims were given."""
    requested = sum(
        int(container.get("resources", {}).get("requests", {}).get(names.GPU_RESOURCE, 0))
        for container in pod["spec"]["containers"]
    )
    return requested + sum(claimed.get(claim, 0) for claim in claims_of(pod))


class _Differences:
    """Collects where fleet and cluster differ."""

    def __init__(self, site: str) -> None:
        self._site = site
        self.rows: list[DriftRow] = []

    def __call__(self, what: str, declared: str, actual: str) -> None:
        between = "fleet and cluster"
        row = DriftRow(
            site=self._site, between=between, what=what, declared=declared, actual=actual
        )
        self.rows.append(row)


def node_drift(
    declared: Iterable[Node],
    found: Iterable[Object],
    site: str,
    slices: Iterable[Object] = (),
) -> list[DriftRow]:
    """Declared nodes that are missing, not ready, or short of GPUs; nodes that nobody declared.

    Args:
        declared: the site's nodes.
        found: those that the cluster shows.
        site: the site.
        slices: its ResourceSlices, where GPUs are claimed.
    """
    devices = devices_by_node(slices)
    shown = {node["metadata"]["name"]: node for node in found}
    differ = _Differences(site)
    for node in declared:
        what = f"node {node.name}"
        actual = shown.pop(node.name, None)
        if actual is None:
            differ(what, "present", "missing")
        elif not is_ready(actual):
            differ(what, "ready", "not ready")
        elif (gpus := _offered(node, actual, devices)) != node.gpus:
            differ(what, f"{node.gpus} GPUs", f"{gpus} GPUs")
    for name, actual in shown.items():
        labels = actual["metadata"].get("labels") or {}
        # A drill's own goes with its stage.
        if names.NODE_GROUP in labels and names.DRILL not in labels:
            differ(f"node {name}", "not declared", "present")
    return differ.rows


def _offered(node: Node, actual: Object, devices: Mapping[str, int]) -> int:
    """GPUs that a node offers in the way that its group declares."""
    if node.claimed:
        return devices.get(node.name, 0)
    return int(actual["status"]["allocatable"].get(names.GPU_RESOURCE, 0))


def workload_drift(fleet: Fleet, site: str, workloads: Sequence[Object]) -> list[DriftRow]:
    """Pools whose Deployment or LeaderWorkerSet is missing or serves something else."""
    found = {
        workload["metadata"]["name"]: workload
        for workload in workloads
        # The worker is ours too, and no pool.
        if workload["metadata"].get("namespace") != names.SYSTEM_NAMESPACE
    }
    differ = _Differences(site)
    for pool in pools_at(fleet, site):
        workload = found.pop(pool.name, None)
        what = f"pool {pool.name}"
        if workload is None:
            differ(what, "present", "missing")
            continue
        spec = workload["spec"]
        replicas = spec.get("replicas", 1)
        if not pool.replicas <= replicas <= max(pool.max_replicas, pool.replicas):
            differ(f"{what} replicas", str(pool.replicas), str(replicas))
        digest = (_template(spec)["metadata"].get("annotations") or {}).get(names.REVISION_DIGEST)
        if digest != pool.model.digest:
            differ(f"{what} revision", pool.model.digest, str(digest))
    for name in found:
        differ(f"pool {name}", "not declared", "present")
    return differ.rows


def _template(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The pod template of a Deployment, or the leader's of a LeaderWorkerSet."""
    template: Mapping[str, Any] = (
        spec.get("template") or spec["leaderWorkerTemplate"]["leaderTemplate"]
    )
    return template


def state_drift(
    site: str, recorded: Iterable[tuple[str, str]], found: Mapping[str, str]
) -> list[DriftRow]:
    """Objects that a stack's state holds and the cluster lacks, or has as another object.

    Args:
        site: the site.
        recorded: API path and UID of each object in the states.
        found: UID by API path, of what the cluster has.
    """
    return [
        DriftRow(
            site=site,
            between="state and cluster",
            what=path,
            declared=uid,
            actual=found.get(path, "missing"),
        )
        for path, uid in recorded
        if found.get(path) != uid
    ]
