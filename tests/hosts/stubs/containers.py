"""crictl and nvidia-container-cli: images by digest, kept in a list, and whether all is well."""

import json
from typing import Final

from tests.hosts.stubs import state, units
from tests.hosts.stubs.output import say, warn

_IMAGES: Final = state.STATE / "images"


def nvidia_container_cli(_arguments: list[str]) -> int:
    """`info`; the fault `toolkit` lets it fail with its text."""
    if state.installed("nvidia-container-toolkit") is None:
        return 127
    if (told := state.fault("toolkit")) is not None:
        warn(f"nvidia-container-cli: {told or 'initialization error: load library failed'}")
        return 1
    say(f"NVRM version:   {state.loaded('nvidia') or ''}")
    return 0


def _info() -> int:
    """What the runtime says to a kubelet; with the fault `cri` it is up and takes no container."""
    told = state.fault("cri")
    conditions = [
        {"type": "RuntimeReady", "status": told is None, "reason": "", "message": told or ""},
        {"type": "NetworkReady", "status": True, "reason": "", "message": ""},
    ]
    say(json.dumps({"status": {"conditions": conditions}}))
    return 0


def crictl(arguments: list[str]) -> int:
    """`info`, `inspecti` and `pull`; the fault `pull` lets a pull fail with its text."""
    verb, *rest = arguments or [""]
    if verb == "info" and units.active("containerd") == "active":
        return _info()
    names = [argument for argument in rest if not argument.startswith("-")]
    if units.active("containerd") != "active" or verb not in {"inspecti", "pull"} or not names:
        warn("FATA[0000] validate service connection: connect: connection refused")
        return 1
    known = _IMAGES.read_text(encoding="utf-8").splitlines() if _IMAGES.exists() else []
    name = names[-1]
    if verb == "inspecti":
        if name not in known:
            warn(f'FATA[0000] no such image "{name}" present')
            return 1
        say('{"status": {}}')
        return 0
    if (told := state.fault("pull")) is not None:
        warn(f"FATA[0000] pulling image: {told or 'not found'}")
        return 1
    _IMAGES.write_text("\n".join([*known, name]) + "\n", encoding="utf-8")
    say(f"Image is up to date for {name}")
    return 0
