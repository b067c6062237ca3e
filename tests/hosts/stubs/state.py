"""What a host's programs know of the host: packages, modules, units, settings, faults.

Copied into every host with the programs beside it; Debian's Python runs it, with no other module.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

STATE: Final = Path("/var/lib/gpu-stub")
"""Outlives a boot: settings, faults, enabled units, built modules, the kernel's log."""
RUN: Final = Path("/run/gpu-stub")
"""Ends with a boot: what runs."""
INSTALLED: Final = Path("/usr/lib/gpu-stub/installed")
"""A file for each installed stub package; the packages bring them."""
PCI: Final = Path("/sys/bus/pci/devices")
MODULES: Final = Path("/sys/module")
"""The host's own /sys is a tmpfs: what stands in here is what is loaded."""
DEVICES: Final = Path("/dev")
PROC_MODULES: Final = RUN / "modules"
"""Bound over /proc/modules."""
KERNEL_LOG: Final = STATE / "kernel.log"
DEPENDS: Final = {
    "nvidia": (),
    "nvidia_uvm": ("nvidia",),
    "nvidia_modeset": ("nvidia",),
    "nvidia_drm": ("nvidia_modeset",),
    "nvidia_peermem": ("nvidia",),
}
"""NVIDIA's kernel modules, with those that each one needs."""
LOADED_AT_BOOT: Final = ("nvidia", "nvidia_uvm", "nvidia_modeset", "nvidia_drm")
_SETTINGS: Final[dict[str, str]] = {
    "gpus": "8",
    "gpu_name": "NVIDIA H100 80GB HBM3",
    "vbios": "96.00.89.00.01",
    "secure_boot": "0",
    "key_enrolled": "1",
    "kernel": "6.1.0-40-amd64",
    "nvswitches": "4",
    "fabric_starts_s": "3",
}


class CannotLoad(Exception):
    """A module that the kernel does not take; its text is modprobe's."""


@dataclass(frozen=True)
class Installed:
    """A stub package as it is unpacked."""

    version: str
    """Without the epoch and Debian's revision."""
    breaks_at_boot: bool = False


def installed(package: str) -> Installed | None:
    """What of a package is unpacked; None where nothing is."""
    try:
        told = json.loads((INSTALLED / package).read_text(encoding="utf-8"))
    except OSError:
        return None
    return Installed(told["version"], bool(told.get("breaks_at_boot")))


def setting(name: str) -> str:
    """A fact of the hardware; a file of this name in the state changes it."""
    try:
        return (STATE / name).read_text(encoding="utf-8").strip()
    except OSError:
        return _SETTINGS[name]


def fault(name: str) -> str | None:
    """The text of a fault that the test asked for; None where it did not."""
    try:
        return (STATE / "faults" / name).read_text(encoding="utf-8").strip()
    except OSError:
        return None


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One program at a time changes what runs."""
    RUN.mkdir(parents=True, exist_ok=True)
    with (RUN / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def log(line: str) -> None:
    """The kernel says something, with its seconds since this boot."""
    try:
        began = float((RUN / "booted").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        began = uptime()
    # A full disk loses lines; nothing fails of it.
    with contextlib.suppress(OSError), KERNEL_LOG.open("a", encoding="utf-8") as file:
        file.write(f"[{max(0.0, uptime() - began):12.6f}] {line}\n")


def began() -> None:
    """This boot starts now."""
    RUN.mkdir(parents=True, exist_ok=True)
    (RUN / "booted").write_text(str(uptime()), encoding="utf-8")


def show_switches() -> None:
    """NVSwitches on the PCI bus, beside a bridge that is not one."""
    kinds = ["0x10de 0x068000"] * int(setting("nvswitches"))
    for index, kind in enumerate(["0x8086 0x060400", *kinds]):
        device = PCI / f"0000:{0x80 + index:02x}:00.0"
        device.mkdir(parents=True, exist_ok=True)
        for name, value in zip(("vendor", "class"), kind.split(), strict=True):
            (device / name).write_text(f"{value}\n", encoding="utf-8")


def loaded(module: str) -> str | None:
    """The version of a loaded module; None where it is not loaded."""
    try:
        return (MODULES / module / "version").read_text(encoding="utf-8").strip()
    except OSError:
        return None


def users(module: str) -> list[str]:
    """The loaded modules that need this one."""
    return [name for name, needs in DEPENDS.items() if module in needs and loaded(name)]


def on_disk(kernel: str) -> tuple[Installed, bool] | None:
    """What there is to load for a kernel, and whether its vendor signed it; None: nothing."""
    image = installed(f"linux-image-{kernel}")
    if image is not None and image.breaks_at_boot:
        return None
    if (precompiled := installed("linux-modules-nvidia")) is not None:
        return precompiled, True
    package = installed("nvidia-kernel-dkms")
    is_built = package is not None and (STATE / "built" / package.version).exists()
    return (package, False) if package is not None and is_built else None


def load(module: str, *, at_boot: bool = False) -> None:
    """Load a module and what it needs; nothing happens where it is loaded.

    Raises:
        CannotLoad: it is not built, its key is not enrolled, or it finds no device.
    """
    for needed in DEPENDS[module]:
        load(needed, at_boot=at_boot)
    if loaded(module):
        return
    kernel = setting("kernel")
    found = on_disk(kernel)
    if found is None:
        raise CannotLoad(f"FATAL: Module {module} not found in directory /lib/modules/{kernel}")
    package, signed = found
    if not signed and setting("secure_boot") == "1" and setting("key_enrolled") == "0":
        log(f"Loading of module with unavailable key is rejected: {module}")
        raise CannotLoad(f"could not insert '{module}': Key was rejected by service")
    if package.breaks_at_boot and at_boot:
        log("NVRM: RmInitAdapter failed! (0x62:0xffff:2477)")
        log("NVRM: GPU 0000:1b:00.0: rm_init_adapter failed, device minor number 0")
        raise CannotLoad(f"could not insert '{module}': No such device")
    (MODULES / module).mkdir(parents=True, exist_ok=True)
    (MODULES / module / "version").write_text(package.version + "\n", encoding="utf-8")
    if module == "nvidia":
        for name in ("ctl", *(str(index) for index in range(int(setting("gpus"))))):
            (DEVICES / f"nvidia{name}").touch()
        log(f"NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  {package.version}")
    list_modules()


def unload(module: str) -> None:
    """Forget a loaded module."""
    if module == "nvidia":
        for device in DEVICES.glob("nvidia*"):
            device.unlink()
    (MODULES / module / "version").unlink()
    (MODULES / module).rmdir()
    list_modules()


def list_modules() -> None:
    """Write /proc/modules anew; in place, since it is bound."""
    lines = []
    for name in DEPENDS:
        if loaded(name):
            by = users(name)
            names = ",".join(by) + "," if by else "-"
            lines.append(f"{name} 16384 {len(by)} {names} Live 0x0000000000000000\n")
    PROC_MODULES.write_text("".join(lines), encoding="utf-8")


def require_root(program: str) -> None:
    """End the program unless root runs it."""
    if os.geteuid() != 0:
        raise SystemExit(f"{program}: Operation not permitted (you must be root)")


def uptime() -> float:
    """Of the machine, s."""
    return float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
