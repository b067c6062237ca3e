"""The record that a host keeps of its changes: one for each part, in one file.

The file holds the last change, and below `earlier` that of every other part, so that one is undone
to exactly what it had found whatever has been patched since.
"""

from collections.abc import Mapping
from typing import Any, Final

Record = Mapping[str, Any]
BEGUN: Final = "begun"
DONE: Final = "done"
_EARLIER: Final = "earlier"
_WAY_BACK: Final[tuple[str, ...]] = ("before", "packages")


def is_open(file: Record) -> bool:
    """Whether the last change has not ended."""
    return file.get("state") == BEGUN


def found(file: Record, part: str) -> dict[str, Any]:
    """The last change of a part; empty where there is none.

    Beside an open change of another part nothing is told: it has to end first.
    """
    if file.get("part") == part:
        return {key: value for key, value in file.items() if key != _EARLIER}
    return {} if is_open(file) else dict((file.get(_EARLIER) or {}).get(part) or {})


def begun(file: Record, new: Record, *, keep: bool) -> dict[str, Any]:
    """The file with a change that begins.

    Args:
        file: as it is.
        new: `part`, `flow`, `version`, `before` and `packages`.
        keep: whether what the part's ended change had found stays the way back. That of an open
            one stays in any case.
    """
    part = str(new["part"])
    known = found(file, part)
    stays = bool(known) and (keep or is_open(file))
    kept: dict[str, Any] = {key: known[key] for key in _WAY_BACK if stays and key in known}
    earlier = dict(file.get(_EARLIER) or {})
    if file.get("part"):
        earlier[str(file["part"])] = found(file, str(file["part"]))
    earlier.pop(part, None)
    return {**new, **kept, "state": BEGUN, _EARLIER: earlier}


def ended(file: Record) -> dict[str, Any]:
    """The file with its last change ended."""
    return {**file, "state": DONE}
