"""GPUs by Dynamic Resource Allocation: what pods claim, and what nodes offer, as plain data.

Drivers offer devices in ResourceSlices, a DeviceClass names a kind of them, a pod claims some by a
ResourceClaim, and the scheduler allocates (resource.k8s.io/v1, Kubernetes 1.34 and later).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.inventory import Node, binary_quantity
from gpufleet.core.serving import PoolAtSite

API: Final = "resource.k8s.io/v1"
CLAIMS_PATH: Final = f"/apis/{API}/resourceclaims"
SLICES_PATH: Final = f"/apis/{API}/resourceslices"

Object = Mapping[str, Any]


def claim_template(pool: PoolAtSite) -> dict[str, Any]:
    """The spec of a pool's ResourceClaimTemplate: so many whole GPUs for each pod."""
    exactly = {
        "deviceClassName": names.GPU_DEVICE_CLASS,
        "allocationMode": "ExactCount",
        "count": pool.gpus_per_node,
    }
    labels = {**pool.labels, names.MANAGED: "true"}
    devices = {"requests": [{"name": "gpu", "exactly": exactly}]}
    return {"metadata": {"labels": labels}, "spec": {"devices": devices}}


def device_class() -> dict[str, Any]:
    """The spec of the DeviceClass of whole GPUs, as NVIDIA's own chart brings it elsewhere."""
    whole = f"device.attributes['{names.GPU_DEVICE_CLASS}'].type == 'gpu'"
    expression = f"device.driver == '{names.GPU_DEVICE_CLASS}' && {whole}"
    return {
        "selectors": [{"cel": {"expression": expression}}],
        "extendedResourceName": names.GPU_RESOURCE,
    }


def resource_slice(node: Node, uid: str) -> dict[str, Any]:
    """The ResourceSlice that NVIDIA's driver would publish for a node, with what we know of it.

    Args:
        node: the node.
        uid: of its Node object, which owns the slice.
    """
    owner = {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": uid}
    return {
        "apiVersion": API,
        "kind": "ResourceSlice",
        "metadata": {"name": slice_name(node.name), "ownerReferences": [owner]},
        "spec": {
            "driver": names.GPU_DEVICE_CLASS,
            "nodeName": node.name,
            "pool": {"name": node.name, "generation": 1, "resourceSliceCount": 1},
            "devices": [_device(node, index) for index in range(node.gpus)],
        },
    }


def _device(node: Node, index: int) -> dict[str, Any]:
    return {
        "name": f"gpu-{index}",
        "attributes": {
            "type": {"string": "gpu"},
            "productName": {"string": node.labels["nvidia.com/gpu.product"]},
        },
        "capacity": {"memory": {"value": binary_quantity(node.gpu_memory_bytes)}},
    }


def slice_name(node: str) -> str:
    """Name of a node's ResourceSlice."""
    return f"{node}-{names.GPU_DEVICE_CLASS}"


def devices_by_node(slices: Iterable[Object]) -> dict[str, int]:
    """GPUs that each node offers to claims; of a pool that changes, its newest generation only."""
    newest: dict[tuple[str, str], int] = {}
    offered: Counter[tuple[str, str, int]] = Counter()
    for found in slices:
        spec = found["spec"]
        if spec["driver"] != names.GPU_DEVICE_CLASS or not (node := spec.get("nodeName")):
            continue
        pool, generation = spec["pool"]["name"], spec["pool"]["generation"]
        newest[node, pool] = max(generation, newest.get((node, pool), 0))
        offered[node, pool, generation] += len(spec.get("devices") or [])
    counted: Counter[str] = Counter()
    for (node, pool), generation in newest.items():
        counted[node] += offered[node, pool, generation]
    return dict(counted)


def allocated(claims: Iterable[Object]) -> dict[tuple[str, str], int]:
    """GPUs that each claim was given, by its namespace and name."""
    return {
        (claim["metadata"]["namespace"], claim["metadata"]["name"]): sum(
            result["driver"] == names.GPU_DEVICE_CLASS for result in _results(claim)
        )
        for claim in claims
    }


def _results(claim: Object) -> list[Object]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results: list[Object] = (allocation.get("devices") or {}).get("results") or []
    return results


def claims_of(pod: Object) -> list[tuple[str, str]]:
    """Namespace and name of the claims that were made for a pod or that it names itself."""
    namespace = pod["metadata"].get("namespace", "")
    made = {
        status["name"]: status.get("resourceClaimName")
        for status in pod.get("status", {}).get("resourceClaimStatuses") or []
    }
    named = [
        claim.get("resourceClaimName") or made.get(claim["name"])
        for claim in pod["spec"].get("resourceClaims") or []
    ]
    return [(namespace, name) for name in named if name]
