"""The GPUs of an embedded site that are claimed: ResourceSlices, as a DRA driver publishes them."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.core.claims import SLICES_PATH, resource_slice
from gpufleet.core.inventory import Node
from gpufleet.edges.kube import Cluster, Object

_THREADS: Final = 8


def apply_devices(cluster: Cluster, declared: Iterable[Node]) -> int:
    """Offer the GPUs of the nodes that declare it, and of no other; returns the changes.

    The nodes have to stand. Slices of a node that goes are removed with it: it owns them.
    """
    claimed = [node for node in declared if node.claimed]
    found = {
        offered["metadata"]["name"]: offered
        for offered in cluster.items(SLICES_PATH)
        if offered["spec"]["driver"] == names.GPU_DEVICE_CLASS
    }
    if not claimed and not found:
        return 0
    uids = {
        node["metadata"]["name"]: node["metadata"]["uid"] for node in cluster.items("/api/v1/nodes")
    }
    wanted = {
        offered["metadata"]["name"]: offered
        for offered in (resource_slice(node, uids[node.name]) for node in claimed)
    }
    undeclared = found.keys() - wanted.keys()
    differing = [name for name in wanted if not _matches(found.get(name), wanted[name])]
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(lambda name: cluster.delete(f"{SLICES_PATH}/{name}"), undeclared))
        list(
            threads.map(
                lambda name: cluster.apply(f"{SLICES_PATH}/{name}", wanted[name]), differing
            )
        )
    return len(undeclared) + len(differing)


def _matches(found: Object | None, wanted: Object) -> bool:
    return (
        found is not None
        and found["spec"]["devices"] == wanted["spec"]["devices"]
        and found["metadata"].get("ownerReferences") == wanted["metadata"]["ownerReferences"]
    )
