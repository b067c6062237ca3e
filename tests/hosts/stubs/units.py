"""systemctl, shutdown, reboot, poweroff: of the units that the stub packages bring."""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

from tests.hosts.stubs import state
from tests.hosts.stubs.output import say, warn

_BROUGHT_BY: Final = {
    "nvidia-fabricmanager": "nvidia-fabricmanager",
    "nvidia-persistenced": "nvidia-driver",
    "nvidia-dcgm": "datacenter-gpu-manager-4-core",
    "containerd": "containerd",
    "kubelet": "",
    "ssh": "",
}
"""Units, with the package that each comes with; an empty name where it is always there."""
_BROUGHT_DISABLED: Final = frozenset({"nvidia-fabricmanager", "nvidia-dcgm"})
"""Their packages bring them as they are; who installs them lets them start with the host."""
_ALIASES: Final = {"dcgm": "nvidia-dcgm", "sshd": "ssh"}
_HOLD_GPUS: Final = ("nvidia-persistenced", "nvidia-fabricmanager", "nvidia-dcgm")
_ENABLED: Final = state.STATE / "units"
_ACTIVE: Final = state.RUN / "units"
_PAUSE_S: Final = 0.2
"""A reboot begins when its command has answered."""
_NOT_RUNNING: Final = 3
_NOT_FOUND: Final = 4
_RESTART, _POWER_OFF = signal.SIGINT, signal.SIGTERM
"""What the host's first process takes as its orders."""


def known(unit: str) -> bool:
    """Whether there is such a unit."""
    if unit not in _BROUGHT_BY:
        return False
    package = _BROUGHT_BY[unit]
    return not package or state.installed(package) is not None


def active(unit: str) -> str:
    """`active`, `activating`, `inactive` or `failed`."""
    try:
        told, *until = (_ACTIVE / unit).read_text(encoding="utf-8").split()
    except OSError:
        return "inactive"
    return "active" if until and state.uptime() >= float(until[0]) else told


def enabled(unit: str) -> str:
    """`enabled`, `disabled` or `masked`."""
    try:
        return (_ENABLED / unit).read_text(encoding="utf-8")
    except OSError:
        return "disabled" if unit in _BROUGHT_DISABLED else "enabled"


def gpu_clients() -> list[str]:
    """The running units that hold the GPUs open."""
    return [unit for unit in _HOLD_GPUS if active(unit) in {"active", "activating"}]


def start(unit: str, *, at_boot: bool = False) -> bool:
    """Start a unit; whether it runs now, or will soon: nobody waits for a unit of the boot."""
    why = _why_not(unit)
    _set(unit, "failed" if why else "active")
    if unit == "nvidia-fabricmanager" and at_boot and not why:
        registered = state.uptime() + float(state.setting("fabric_starts_s"))
        _set(unit, f"activating {registered}")
    if why:
        state.log(f"systemd[1]: {unit}.service: Failed: {why}")
    return not why


def start_enabled() -> None:
    """What systemd does at a boot."""
    for unit in _BROUGHT_BY:
        if known(unit) and enabled(unit) == "enabled":
            start(unit, at_boot=True)


def _why_not(unit: str) -> str:
    if enabled(unit) == "masked":
        return "it is masked"
    if (told := state.fault(f"unit-{unit}")) is not None:
        return told or "a fault"
    driver = state.loaded("nvidia")
    if unit in {"nvidia-fabricmanager", "nvidia-persistenced"} and driver is None:
        return "no NVIDIA driver is loaded"
    if unit == "nvidia-fabricmanager":
        manager = state.installed("nvidia-fabricmanager")
        if manager is None or manager.version != driver:
            own = manager.version if manager else "none"
            return f"fabric manager {own} does not match the driver {driver}"
    return ""


def _set(unit: str, value: str) -> None:
    _ACTIVE.mkdir(parents=True, exist_ok=True)
    (_ACTIVE / unit).write_text(value, encoding="utf-8")


def _enable(unit: str, value: str) -> None:
    _ENABLED.mkdir(parents=True, exist_ok=True)
    (_ENABLED / unit).write_text(value, encoding="utf-8")


def systemctl(arguments: list[str]) -> int:
    """As far as Ansible's modules and the roles use it."""
    if "--version" in arguments:
        say("systemd 252 (252.39-1~deb12u1)")
        return 0
    verb, *names = _words(arguments) or ["list-units"]
    names = [_plain(name) for name in names]
    if verb in _ABOUT_ALL:
        return _ABOUT_ALL[verb](names)
    if verb in _ABOUT_ONE:
        return max((_ABOUT_ONE[verb](name, arguments) for name in names), default=1)
    state.require_root("systemctl")
    with state.locked():
        now = "--now" in arguments
        return max((_change(verb, name, now=now) for name in names), default=1)


def _words(arguments: list[str]) -> list[str]:
    words, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in {"-p", "--property", "-t", "--type", "-n", "--state"}:
            skip = True
        elif not argument.startswith("-"):
            words.append(argument)
    return words


def _plain(name: str) -> str:
    name = name.removesuffix(".service")
    return _ALIASES.get(name, name)


def _list_units(names: list[str]) -> int:
    for unit in _chosen(names):
        say(f"{unit}.service loaded {active(unit)} {_sub_state(unit)} {unit}")
    return 0


def _list_files(names: list[str]) -> int:
    found = _chosen(names)
    for unit in found:
        say(f"{unit}.service {enabled(unit)} enabled")
    return 0 if found or not names else 1


def _chosen(names: list[str]) -> list[str]:
    return [unit for unit in _BROUGHT_BY if known(unit) and (not names or unit in names)]


def _sub_state(unit: str) -> str:
    known_as = {"active": "running", "activating": "start", "inactive": "dead"}
    return known_as.get(active(unit), "failed")


def _is_running(_names: list[str]) -> int:
    states = {active(unit) for unit in _BROUGHT_BY}
    told = "starting" if "activating" in states else "degraded" if "failed" in states else "running"
    say(told)
    return 0 if told == "running" else 1


def _is_active(unit: str, _arguments: list[str]) -> int:
    told = active(unit) if known(unit) else "inactive"
    say(told)
    return 0 if told == "active" else _NOT_RUNNING


def _is_failed(unit: str, _arguments: list[str]) -> int:
    told = active(unit) if known(unit) else "inactive"
    say(told)
    return 0 if told == "failed" else 1


def _is_enabled(unit: str, _arguments: list[str]) -> int:
    if not known(unit):
        warn(f"Failed to get unit file state for {unit}.service: No such file or directory")
        return 1
    say(enabled(unit))
    return 0 if enabled(unit) == "enabled" else 1


def _status(unit: str, _arguments: list[str]) -> int:
    if not known(unit):
        warn(f"Unit {unit}.service could not be found.")
        return _NOT_FOUND
    say(f"* {unit}.service\n     Active: {active(unit)} ({_sub_state(unit)})")
    return 0 if active(unit) == "active" else _NOT_RUNNING


def _show(unit: str, arguments: list[str]) -> int:
    state_of = active(unit)
    facts = {
        "Id": f"{unit}.service",
        "LoadState": "not-found" if not known(unit) else "loaded",
        "ActiveState": state_of,
        "SubState": _sub_state(unit),
        "UnitFileState": enabled(unit) if known(unit) else "",
        "Result": "exit-code" if state_of == "failed" else "success",
        "MainPID": "0",
    }
    if known(unit) and enabled(unit) == "masked":
        facts["LoadState"] = "masked"
    text = " ".join(arguments).replace("--property=", "-p ").replace("--property ", "-p ")
    asked = [word.split()[0] for word in text.split("-p ")[1:] if word.split()]
    wanted = [name for group in asked for name in group.split(",")]
    for name, value in facts.items():
        if not wanted or name in wanted:
            say(value if "--value" in arguments else f"{name}={value}")
    return 0


def _change(verb: str, unit: str, *, now: bool) -> int:
    if not known(unit) and verb not in {"mask", "unmask"}:
        warn(f"Failed to {verb} {unit}.service: Unit {unit}.service not found.")
        return 5
    if verb == "stop":
        _set(unit, "inactive")
    elif verb in {"start", "restart", "reload", "try-restart", "reload-or-restart"}:
        if verb == "start" and active(unit) == "active":
            return 0
        if not start(unit):
            warn(
                f"Job for {unit}.service failed because the control process exited with error code."
            )
            return 1
    elif verb in {"enable", "disable", "mask", "unmask"}:
        changed = {"enable": "enabled", "unmask": "enabled", "disable": "disabled"}
        _enable(unit, changed.get(verb, "masked"))
        if now:
            return _change("start" if verb == "enable" else "stop", unit, now=False)
    else:
        warn(f"Unknown command verb {verb}.")
        return 1
    return 0


_ABOUT_ALL: Final[dict[str, Callable[[list[str]], int]]] = {
    "daemon-reexec": lambda _names: 0,
    "daemon-reload": lambda _names: 0,
    "halt": lambda _names: _leave(_POWER_OFF),
    "is-system-running": _is_running,
    "list-unit-files": _list_files,
    "list-units": _list_units,
    "poweroff": lambda _names: _leave(_POWER_OFF),
    "reboot": lambda _names: _leave(_RESTART),
    "reset-failed": lambda _names: 0,
}
_ABOUT_ONE: Final[dict[str, Callable[[str, list[str]], int]]] = {
    "is-active": _is_active,
    "is-enabled": _is_enabled,
    "is-failed": _is_failed,
    "show": _show,
    "status": _status,
}


def shutdown(arguments: list[str]) -> int:
    """`shutdown -r` restarts the host, without it it stays off."""
    if "-c" in arguments:
        return 0
    return _leave(_RESTART if {"-r", "--reboot"} & set(arguments) else _POWER_OFF)


def reboot(_arguments: list[str]) -> int:
    """Restart the host."""
    return _leave(_RESTART)


def poweroff(_arguments: list[str]) -> int:
    """Switch the host off."""
    return _leave(_POWER_OFF)


def _leave(order: signal.Signals) -> int:
    state.require_root("shutdown")
    sys.stdout.flush()
    if os.fork() == 0:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        time.sleep(_PAUSE_S)
        os.kill(1, order)
        os._exit(0)
    return 0
