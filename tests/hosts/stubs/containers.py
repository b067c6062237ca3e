"""crictl: images by digest, kept in a list."""

from typing import Final

from tests.hosts.stubs import state, units
from tests.hosts.stubs.output import say, warn

_IMAGES: Final = state.STATE / "images"


def crictl(arguments: list[str]) -> int:
    """`inspecti` and `pull`; the fault `pull` lets a pull fail with its text."""
    verb, *rest = arguments or [""]
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
