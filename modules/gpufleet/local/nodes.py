"""The declared nodes of an embedded site, as kwok nodes that carry GPUs."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.core.inventory import Node
from gpufleet.edges.kube import Cluster, Object

FAKE: Final = {"kwok.x-k8s.io/node": "fake"}
_ACCESS_LABELS: Final = frozenset(
    {names.GPU_ACCESS, names.DEVICE_PLUGIN_SWITCH, names.DRA_DRIVER_SWITCH}
)
_THREADS: Final = 8
_PATH: Final = "/api/v1/nodes"
_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_HELD_FOR_S: Final = 30 * 86_400


def apply_nodes(cluster: Cluster, declared: Iterable[Node]) -> int:
    """Make the cluster's nodes those that are declared; returns how many were changed."""
    wanted = {node.name: node for node in declared}
    found = {node["metadata"]["name"]: node for node in cluster.items(_PATH)}
    undeclared = [
        name for name, node in found.items() if name not in wanted and _is_ours(node["metadata"])
    ]
    differing = [node for name, node in wanted.items() if not _matches(found.get(name), node)]
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(lambda name: cluster.delete(f"{_PATH}/{name}"), undeclared))
        list(threads.map(lambda node: _make(cluster, node, found.get(node.name)), differing))
    return len(undeclared) + len(differing)


def create_node(cluster: Cluster, node: Node) -> None:
    """Make a node, which is heard of from then on; one of this name that is there stays as it is.

    Raises:
        FleetError: the API server does not answer, or refuses.
    """
    cluster.create(_PATH, {**_manifest(node), "status": _status(dict(node.capacity))})


def stop_heartbeat(cluster: Cluster, name: str, holder: str) -> None:
    """Let nobody hear of a node any more; its object stays. The same again changes nothing.

    kwok leaves a node, and its pods, to whoever holds the node's lease until that has ended: here
    nobody renews it.

    Args:
        cluster: of the node.
        name: of the node.
        holder: who holds its lease from now on.

    Raises:
        FleetError: the API server does not answer, or the node was never heard of.
    """
    spec = {"holderIdentity": holder, "leaseDurationSeconds": _HELD_FOR_S}
    cluster.merge(f"{_LEASES}/{name}", {"spec": spec})


def _is_ours(about: Object) -> bool:
    """Whether `up` has made a node: not one of a drill, which goes with its stage."""
    is_fake = FAKE.items() <= about.get("annotations", {}).items()
    return is_fake and names.DRILL not in about.get("labels", {})


def _make(cluster: Cluster, node: Node, found: Object | None) -> None:
    if found is None:
        create_node(cluster, node)
        return
    manifest = _manifest(node)
    manifest["metadata"]["labels"] |= dict.fromkeys(_unwanted_labels(found, node))
    manifest["spec"]["taints"] += _taints_of_others(found, node)
    cluster.merge(f"{_PATH}/{node.name}", manifest)
    gone = dict.fromkeys(_unwanted_capacity(found, node))
    cluster.merge(f"{_PATH}/{node.name}/status", {"status": _status({**node.capacity, **gone})})


def _status(capacity: dict[str, str | None]) -> Object:
    return {"capacity": capacity, "allocatable": capacity}


def _unwanted_labels(found: Object, node: Node) -> set[str]:
    """Labels that say how GPUs are given, left from when it was another way."""
    labels: Object = found["metadata"].get("labels", {})
    return (labels.keys() & _ACCESS_LABELS) - node.labels.keys()


def _taints_of_others(found: Object, node: Node) -> list[Object]:
    """Such as those of a quarantine, or of a cordon."""
    ours = {(taint.key, taint.effect) for taint in node.taints}
    taints: list[Object] = found["spec"].get("taints", [])
    return [taint for taint in taints if (taint["key"], taint["effect"]) not in ours]


def _unwanted_capacity(found: Object, node: Node) -> set[str]:
    """GPUs that were counted before they were claimed."""
    capacity: Object = found.get("status", {}).get("capacity", {})
    return (capacity.keys() & {names.GPU_RESOURCE}) - node.capacity.keys()


def _manifest(node: Node) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": dict(node.labels),
            "annotations": {**node.annotations, **FAKE},
        },
        "spec": {
            "taints": [
                {"key": taint.key, "value": taint.value, "effect": taint.effect}
                for taint in node.taints
            ]
        },
    }


def _matches(found: Object | None, node: Node) -> bool:
    """Whether a node is as declared; what others put beside it (conditions' taints) is theirs."""
    if found is None:
        return False
    wanted = _manifest(node)
    about, spec = found["metadata"], found["spec"]
    return (
        wanted["metadata"]["labels"].items() <= about.get("labels", {}).items()
        and wanted["metadata"]["annotations"].items() <= about.get("annotations", {}).items()
        and all(taint in spec.get("taints", []) for taint in wanted["spec"]["taints"])
        and node.capacity.items() <= found.get("status", {}).get("capacity", {}).items()
        and not _unwanted_labels(found, node)
        and not _unwanted_capacity(found, node)
    )
