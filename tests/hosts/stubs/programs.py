"""The programs of a host by name."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.hosts.stubs import boot_loader, containers, dcgm, gpus, kernel_log, kernel_modules, units

PROGRAMS: Final[dict[str, Callable[[list[str]], int]]] = {
    "all_reduce_perf": gpus.all_reduce_perf,
    "crictl": containers.crictl,
    "dcgmi": dcgm.dcgmi,
    "dkms": kernel_modules.dkms,
    "dmesg": kernel_log.dmesg,
    "journalctl": kernel_log.journalctl,
    "lsmod": kernel_modules.lsmod,
    "modinfo": kernel_modules.modinfo,
    "modprobe": kernel_modules.modprobe,
    "mokutil": kernel_modules.mokutil,
    "nvidia-container-cli": containers.nvidia_container_cli,
    "nvidia-smi": gpus.nvidia_smi,
    "poweroff": units.poweroff,
    "reboot": units.reboot,
    "rmmod": kernel_modules.rmmod,
    "shutdown": units.shutdown,
    "systemctl": units.systemctl,
    "uname": kernel_modules.uname,
    "update-grub": boot_loader.update_grub,
}


def main() -> None:
    """Run the program that this process was started as."""
    raise SystemExit(PROGRAMS[Path(sys.argv[0]).name](sys.argv[1:]))
