"""From node groups to the single nodes that a cluster should show, with their labels and taints."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import GpuAccess, GpuType, NodeGroup

_MIB: Final = 2**20


@dataclass(frozen=True)
class Taint:
    """A Kubernetes taint."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True)
class Node:
    """One declared node.

    `labels` are written as GPU feature discovery writes them (`nvidia.com/gpu.*`), with ours and
    the topology beside; `capacity` is what the kubelet and the device plugin report. GPUs that are
    claimed (DRA) are devices of a ResourceSlice instead, each with `gpu_memory_bytes`.
    """

    name: str
    site: str
    rack: str
    group: str
    gpu_type: str
    gpus: int
    gpu_memory_bytes: int
    gpu_access: GpuAccess
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    taints: tuple[Taint, ...]
    capacity: Mapping[str, str]

    @property
    def claimed(self) -> bool:
        """Whether its GPUs are claimed as devices, and not counted by a device plugin."""
        return self.gpu_access is GpuAccess.DRA


GPU_TAINT: Final = Taint(names.GPU_RESOURCE, "present", "NoSchedule")
"""Keeps everything that does not ask for GPUs off the nodes that have them."""


def expand(fleet: Fleet) -> tuple[Node, ...]:
    """Every declared node of every site, in the order of the fleet file.

    Nodes of a group are dealt to its racks in turn, so that racks differ by one node at most.
    """
    return tuple(
        _node(name, group, fleet.gpus[group.gpu_type], index)
        for name, group in fleet.node_groups.items()
        for index in range(group.nodes)
    )


def expand_site(fleet: Fleet, site: str) -> tuple[Node, ...]:
    """The declared nodes of one site."""
    return tuple(node for node in expand(fleet) if node.site == site)


def _node(name: str, group: NodeGroup, gpu: GpuType, index: int) -> Node:
    rack = group.racks[index % len(group.racks)]
    node_name = f"{name}-{index + 1:03d}"
    return Node(
        name=node_name,
        site=group.site,
        rack=rack,
        group=name,
        gpu_type=group.gpu_type,
        gpus=group.gpus_per_node,
        gpu_memory_bytes=gpu.memory_bytes,
        gpu_access=group.gpu_access,
        labels=MappingProxyType(_labels(node_name, name, group, gpu, rack)),
        annotations=MappingProxyType(
            {
                names.DRIVER_PIN: group.pins.driver,
                **({names.FIRMWARE_PIN: group.pins.bmc} if group.pins.bmc else {}),
            }
        ),
        taints=(GPU_TAINT,),
        capacity=MappingProxyType(
            {
                "cpu": str(group.cpus_per_node),
                "memory": binary_quantity(group.memory_bytes_per_node),
                "ephemeral-storage": binary_quantity(group.local_storage_bytes_per_node),
                "pods": "110",
                **_counted_gpus(group),
            }
        ),
    )


def _counted_gpus(group: NodeGroup) -> dict[str, str]:
    if group.gpu_access is GpuAccess.DRA:
        return {}
    return {names.GPU_RESOURCE: str(group.gpus_per_node)}


def binary_quantity(size_bytes: int) -> str:
    """A size as Kubernetes writes it: whole mebibytes, with the largest suffix that stays whole."""
    amount, suffixes = size_bytes // _MIB, ["Mi", "Gi", "Ti", "Pi"]
    while amount and amount % 1024 == 0 and len(suffixes) > 1:
        amount //= 1024
        suffixes.pop(0)
    return f"{amount}{suffixes[0]}"


def _labels(node: str, name: str, group: NodeGroup, gpu: GpuType, rack: str) -> dict[str, str]:
    driver_parts = (*group.pins.driver.split("."), "0", "0")
    cuda_parts = (*group.pins.cuda.split("."), "0")
    return {
        "kubernetes.io/hostname": node,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/region": group.site,
        "topology.kubernetes.io/zone": group.site,
        names.SITE: group.site,
        names.RACK: rack,
        names.NODE_GROUP: name,
        **access_labels(group),
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": gpu.product,
        "nvidia.com/gpu.count": str(group.gpus_per_node),
        "nvidia.com/gpu.memory": str(gpu.memory_bytes // _MIB),
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/mig.capable": "false",
        "nvidia.com/cuda.driver.major": driver_parts[0],
        "nvidia.com/cuda.driver.minor": driver_parts[1],
        "nvidia.com/cuda.driver.rev": driver_parts[2],
        "nvidia.com/cuda.driver-version.full": group.pins.driver,
        "nvidia.com/cuda.runtime.major": cuda_parts[0],
        "nvidia.com/cuda.runtime.minor": cuda_parts[1],
    }


def access_labels(group: NodeGroup) -> dict[str, str]:
    """Only where it is not the ordinary way: labels of other nodes stay as they are."""
    if group.gpu_access is not GpuAccess.DRA:
        return {}
    return {
        names.GPU_ACCESS: group.gpu_access.value,
        names.DEVICE_PLUGIN_SWITCH: "false",
        names.DRA_DRIVER_SWITCH: "true",
    }
