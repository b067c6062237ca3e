"""Whether a node is able to take work again, by what its cluster shows of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpufleet.core import vocabulary as names
from gpufleet.core.claims import devices_by_node
from gpufleet.spec.hardware import GpuAccess

Object = Mapping[str, Any]


def not_ready(found: Sequence[Object], *, gpus: int, access: GpuAccess, boot_id: str) -> str:
    """Why a node cannot take work yet; empty where it can.

    Args:
        found: the Node as the API server gives it, or nothing.
        gpus: that it has to offer.
        access: how pods get them; what is claimed the Node does not tell, see `too_few_devices`.
        boot_id: of the boot that its host is in; a kubelet that has not told of it yet left what
            it said before the restart. Empty where nobody knows.
    """
    if not found:
        return "it is not in its cluster"
    status = found[0].get("status") or {}
    conditions = [each for each in status.get("conditions") or [] if each["type"] == "Ready"]
    if not conditions:
        return "its kubelet has told nothing"
    if conditions[0]["status"] != "True":
        why = conditions[0].get("message") or conditions[0].get("reason") or "no reason is given"
        return f"its kubelet is not ready: {why}"
    told = (status.get("nodeInfo") or {}).get("bootID", "")
    if boot_id and told and told != boot_id:
        return "its kubelet has not answered since the restart"
    if access is GpuAccess.DRA:
        return ""
    return _too_few(int((status.get("allocatable") or {}).get(names.GPU_RESOURCE, 0)), gpus)


def too_few_devices(slices: Iterable[Object], node: str, gpus: int) -> str:
    """Why claims would not find every GPU of a node; empty where they would.

    Args:
        slices: ResourceSlices.
        node: its name.
        gpus: that it has to offer.
    """
    return _too_few(devices_by_node(slices).get(node, 0), gpus)


def _too_few(offered: int, gpus: int) -> str:
    return "" if offered == gpus else f"it offers {offered} of {gpus} GPUs"
