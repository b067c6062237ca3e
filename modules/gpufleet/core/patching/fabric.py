"""The links between the GPUs of a host: who has to run their switches, and how fast they are."""

import re
from typing import Final

from gpufleet.spec.hardware import GpuFabric, GpuType

_SWITCHED_GPUS: Final = 8
"""Boards with fewer GPUs connect them directly (HGX H100 4-GPU), and have no fabric manager."""
_LEAST_SHARE: Final = {True: 0.6, False: 0.2}
"""Of a GPU's link that an all-reduce's bus bandwidth has to reach, with NVSwitches and without.

Bus bandwidth compares with the link's speed in one direction (nccl-tests, doc/PERFORMANCE.md).
Sound hosts are well above: NCCL leaves protocol and copies their part, and over PCIe traffic goes
through host bridges. Half of the links, or a fall back from NVLink to PCIe, are below.
"""
_FABRIC: Final = re.compile(r"^\s*Fabric\s*$\n\s*State\s*:\s*(.+?)\s*$", re.MULTILINE)


def runs_fabric_manager(declared: GpuFabric, gpus: int, switches: int | None) -> bool:
    """Whether a host has to have, and run, a fabric manager.

    Args:
        declared: of its GPU type.
        gpus: of the host.
        switches: NVSwitches on its PCI bus (vendor 0x10de, class 0x0680); none where the bus
            cannot be read.
    """
    if switches:
        return True
    if declared is GpuFabric.NVSWITCH:
        return switches is None and gpus >= _SWITCHED_GPUS
    return declared is GpuFabric.NVLINK5 and gpus >= _SWITCHED_GPUS


def fabric_states(told: str) -> list[str]:
    """The state of each GPU's fabric, of the output of `nvidia-smi -q`.

    `Completed` once the fabric manager has registered it; `N/A` where there is no fabric.
    """
    return _FABRIC.findall(told)


def least_bus_gb_per_s(gpu_type: GpuType, gpus: int) -> float:
    """Least bus bandwidth of an all-reduce over a host's GPUs, GB/s; 0 where there is one GPU."""
    if gpus == 1:
        return 0.0
    share = _LEAST_SHARE[gpu_type.fabric is not GpuFabric.NONE]
    return round(share * gpu_type.link_bytes_per_s / 1e9, 1)
