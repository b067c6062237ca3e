"""How fast the links between GPUs have to be, and what a cluster has to show of a node."""

from typing import Any

import pytest

from gpufleet.core.patching.fabric import least_bus_gb_per_s
from gpufleet.core.patching.node_ready import not_ready, too_few_devices
from gpufleet.spec.hardware import GpuAccess, GpuType
from gpufleet.spec.load import built_in_gpus

TYPES = {name: GpuType.model_validate(row) for name, row in built_in_gpus().items()}
BOOT = "0b0e9d4c-6f0d-4a67-9a3f-5f0f5a1f3c55"


@pytest.mark.parametrize("name", TYPES)
def test_every_gpu_type_asks_for_a_share_of_its_own_links(name: str) -> None:
    link = TYPES[name].link_bytes_per_s / 1e9
    assert 0 < least_bus_gb_per_s(TYPES[name], 8) < link
    assert least_bus_gb_per_s(TYPES[name], 1) == 0


def test_nvlink_that_fell_back_to_pcie_is_too_slow() -> None:
    assert least_bus_gb_per_s(TYPES["h100-sxm"], 8) > TYPES["h100-pcie"].link_bytes_per_s / 1e9


def node(**changes: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - any field of the status
    status = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "nodeInfo": {"bootID": BOOT},
        "allocatable": {"nvidia.com/gpu": "8"},
    }
    return [{"metadata": {"name": "gpu-001"}, "status": {**status, **changes}}]


def why(found: list[dict[str, Any]], access: GpuAccess = GpuAccess.DEVICE_PLUGIN) -> str:
    return not_ready(found, gpus=8, access=access, boot_id=BOOT)


def test_a_node_takes_work_when_its_kubelet_is_ready_and_every_gpu_is_offered() -> None:
    assert why(node()) == ""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"conditions": []}, "told nothing"),
        (
            {"conditions": [{"type": "Ready", "status": "False", "message": "runtime is down"}]},
            "runtime is down",
        ),
        ({"conditions": [{"type": "Ready", "status": "Unknown"}]}, "not ready"),
        ({"nodeInfo": {"bootID": "of before"}}, "since the restart"),
        ({"allocatable": {"nvidia.com/gpu": "7"}}, "7 of 8"),
        ({"allocatable": {}}, "0 of 8"),
    ],
)
def test_a_node_that_cannot_take_work_stays_cordoned_and_says_why(
    changes: dict[str, Any], told: str
) -> None:
    assert told in why(node(**changes))


def test_a_node_that_is_gone_takes_no_work() -> None:
    assert "not in its cluster" in why([])


def test_claimed_gpus_are_counted_in_the_slices_of_their_node() -> None:
    assert why(node(allocatable={}), GpuAccess.DRA) == ""
    spec = {
        "driver": "gpu.nvidia.com",
        "nodeName": "gpu-001",
        "pool": {"name": "gpu-001", "generation": 1},
        "devices": [{"name": f"gpu-{index}"} for index in range(8)],
    }
    assert too_few_devices([{"spec": spec}], "gpu-001", 8) == ""
    assert "0 of 8" in too_few_devices([{"spec": spec}], "gpu-002", 8)
    assert "0 of 8" in too_few_devices([], "gpu-001", 8)
