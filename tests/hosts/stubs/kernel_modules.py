"""lsmod, modprobe, rmmod, modinfo, dkms, mokutil, uname: of the host's own NVIDIA modules."""

import subprocess
import sys

from tests.hosts.stubs import state, units
from tests.hosts.stubs.output import say, warn


def lsmod(_arguments: list[str]) -> int:
    """As kmod prints it."""
    say("Module                  Size  Used by")
    for line in state.PROC_MODULES.read_text(encoding="utf-8").splitlines():
        name, size, count, by, *_ = line.split()
        say(f"{name:<23} {size:>5}  {count} {by.strip('-,')}".rstrip())
    return 0


def modprobe(arguments: list[str]) -> int:
    """Load, or unload with -r."""
    names = [name.replace("-", "_") for name in arguments if not name.startswith("-")]
    flags = {flag for flag in arguments if flag.startswith("-")}
    if "-n" in flags or "--dry-run" in flags:
        return 0
    state.require_root("modprobe")
    if unknown := [name for name in names if name not in state.DEPENDS]:
        kernel = state.setting("kernel")
        warn(f"modprobe: FATAL: Module {unknown[0]} not found in directory /lib/modules/{kernel}")
        return 1
    with state.locked():
        if "-r" in flags or "--remove" in flags:
            return next((1 for name in names if _remove("modprobe: FATAL", name, quiet=True)), 0)
        try:
            for name in names:
                state.load(name)
        except state.CannotLoad as error:
            warn(f"modprobe: {'' if str(error).startswith('FATAL') else 'ERROR: '}{error}")
            return 1
    return 0


def rmmod(arguments: list[str]) -> int:
    """Unload; each has to be unused by then."""
    state.require_root("rmmod")
    failed = 0
    with state.locked():
        for name in arguments:
            if not name.startswith("-"):
                failed |= _remove("rmmod: ERROR", name.replace("-", "_"))
    return failed


def _remove(prefix: str, name: str, *, quiet: bool = False) -> int:
    if state.loaded(name) is None:
        if not quiet:
            warn(f"{prefix}: Module {name} is not currently loaded")
        return 0 if quiet else 1
    if by := state.users(name):
        warn(f"{prefix}: Module {name} is in use by: {' '.join(by)}")
        return 1
    if name == "nvidia" and (state.fault("modules-in-use") is not None or units.gpu_clients()):
        warn(f"{prefix}: Module {name} is in use")
        return 1
    state.unload(name)
    return 0


def modinfo(arguments: list[str]) -> int:
    """Of the module on disk, which is not the loaded one before a reboot."""
    field = ""
    if "-F" in arguments:
        field = arguments.pop(arguments.index("-F") + 1)
    names = [name.replace("-", "_") for name in arguments if not name.startswith("-")]
    package, kernel = state.installed("nvidia-kernel-dkms"), state.setting("kernel")
    for name in names:
        built = package is not None and (state.STATE / "built" / package.version).exists()
        if name not in state.DEPENDS or package is None or not built:
            warn(f"modinfo: ERROR: Module {name} not found.")
            return 1
        facts = {
            "filename": f"/lib/modules/{kernel}/updates/dkms/{name.replace('_', '-')}.ko",
            "version": package.version,
            "license": "Dual MIT/GPL",
            "depends": ",".join(state.DEPENDS[name]),
            "vermagic": f"{kernel} SMP preempt mod_unload modversions",
            "signer": "DKMS module signing key",
        }
        for key, value in facts.items():
            if field in {"", key}:
                say(value if field else f"{key + ':':<15} {value}")
    return 0


def dkms(arguments: list[str]) -> int:
    """Its `status`: what is built for the running kernel."""
    if arguments[:1] != ["status"]:
        warn("Error! Only `dkms status` is known here.")
        return 1
    kernel = state.setting("kernel")
    package = state.installed("nvidia-kernel-dkms")
    built = state.STATE / "built"
    names = {file.name for file in built.iterdir()} if built.is_dir() else set()
    for name in sorted(names):
        say(f"nvidia/{name}, {kernel}, x86_64: installed")
    if package and package.version not in names:
        say(f"nvidia/{package.version}: added")
    return 0


def mokutil(arguments: list[str]) -> int:
    """`--sb-state` and `--test-key`."""
    if "--sb-state" in arguments:
        say("SecureBoot enabled" if state.setting("secure_boot") == "1" else "SecureBoot disabled")
        return 0
    if "--test-key" in arguments or "-t" in arguments:
        enrolled = state.setting("key_enrolled") == "1"
        say(f"{arguments[-1]} is {'already' if enrolled else 'not'} enrolled")
        return 1 if enrolled else 0
    if "--list-enrolled" in arguments:
        if state.setting("key_enrolled") == "1":
            say("[key 1]\n        Subject: CN=DKMS module signing key")
        return 0
    warn("Usage: mokutil --sb-state | --test-key FILE | --list-enrolled")
    return 1


def uname(arguments: list[str]) -> int:
    """The kernel's release is the host's own; the rest is the machine's."""
    if arguments in (["-r"], ["--kernel-release"]):
        say(state.setting("kernel"))
        return 0
    real = subprocess.run(
        ["/usr/bin/uname.real", *arguments], capture_output=True, text=True, check=False
    )
    ours = subprocess.run(
        ["/usr/bin/uname.real", "-r"], capture_output=True, text=True, check=True
    ).stdout.strip()
    sys.stdout.write(real.stdout.replace(ours, state.setting("kernel")))
    sys.stderr.write(real.stderr)
    return real.returncode
