"""Whether a host and its node are fit, as Jinja filters: before, after a restart, and to serve."""

from collections.abc import Callable, Mapping
from typing import Any

from gpufleet.core.patching import node_ready, settling, validation, xids
from gpufleet.spec.hardware import GpuAccess, GpuFabric

Object = Mapping[str, Any]


class FilterModule:
    """Each is a function of `gpufleet.core.patching`."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """By the name that templates use."""
        return {
            "gpufleet_gpu_fields": _gpu_fields,
            "gpufleet_gpu_validation": _gpu_validation,
            "gpufleet_has_fabric_manager": _has_fabric_manager,
            "gpufleet_known_faults": _known_faults,
            "gpufleet_node_not_ready": _node_not_ready,
            "gpufleet_too_few_devices": _too_few_devices,
            "gpufleet_unfit": _unfit,
            "gpufleet_unsettled": _unsettled,
        }


def _gpu_fields(kind: str) -> list[str]:
    """What nvidia-smi is asked for: `query` or `rows`."""
    return list({"query": validation.QUERY, "rows": validation.ROWS}[str(kind)])


def _gpu_validation(said: Object, expected: Object) -> dict[str, Any]:
    """Every check of a host, by what its commands said."""
    return validation.judge(_answers(said), _expected(expected)).as_facts()


def _has_fabric_manager(said: Object, expected: Object) -> bool:
    """Whether a host has to run a fabric manager."""
    return validation.has_fabric_manager(_answers(said), _expected(expected))


def _known_faults(said: Object) -> list[str]:
    """What the kernel log says of the hardware already."""
    return xids.xid_lines(str(said["kernel_log"]["out"]))


def _node_not_ready(found: list[Object], gpus: int, access: str, boot_id: str) -> str:
    """Why a node cannot take work yet; empty where it can."""
    return node_ready.not_ready(
        found, gpus=int(gpus), access=GpuAccess(access), boot_id=str(boot_id)
    )


def _too_few_devices(slices: list[Object], node: str, gpus: int) -> str:
    """Why claims would not find every GPU of a node; empty where they would."""
    return node_ready.too_few_devices(slices, str(node), int(gpus))


def _unfit(said: Object, expected: Object) -> str:
    """Why a host's hardware was not fit before anything was done on it; empty where it was."""
    return validation.unfit(_answers(said), _expected(expected))


def _unsettled(said: Object, expected: Object) -> str:
    """What a host that has restarted is still about; empty where it can be judged."""
    return settling.unsettled(_answers(said), _expected(expected))


def _answers(said: Object) -> dict[str, validation.Answer]:
    return {
        str(name): validation.Answer(
            int(answer["code"]), str(answer.get("out", "")), str(answer.get("error", ""))
        )
        for name, answer in said.items()
    }


def _expected(expected: Object) -> validation.Expected:
    return validation.Expected(
        gpus=int(expected["gpus"]),
        driver=str(expected.get("driver") or ""),
        vbios=str(expected.get("vbios") or ""),
        bus_gb_per_s=float(expected.get("bus_gb_per_s") or 0),
        ignored_xids=frozenset(int(xid) for xid in expected.get("ignored_xids") or []),
        fabric=GpuFabric(str(expected.get("fabric") or GpuFabric.NONE)),
        known_faults=tuple(str(line) for line in expected.get("known_faults") or []),
    )
