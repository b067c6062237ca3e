"""What a kept state of a stack says: of when it is, what it would be without resources."""

import json
from datetime import datetime
from typing import Any, Final

from gpufleet.spec.errors import Failed
from gpufleet.spec.reports import ResourceChange

_AGAIN: Final = frozenset(
    {"create", "replace", "create-replacement", "delete", "delete-replaced", "import"}
)


def emptied(content: bytes) -> bytes:
    """A stack as it is when it was just made: with its secrets' salt, and no resources.

    Raises:
        Failed: it is no state.
    """
    state = _read(content)
    latest = dict(state["checkpoint"].get("latest") or {})
    latest["resources"] = []
    latest.pop("pending_operations", None)
    checkpoint = {**state["checkpoint"], "latest": latest}
    return json.dumps({**state, "checkpoint": checkpoint}).encode()


def updated_at(content: bytes) -> datetime | None:
    """When the update ended that wrote a state; None where there was none yet.

    Raises:
        Failed: it is no state.
    """
    latest = _read(content)["checkpoint"].get("latest") or {}
    said = (latest.get("manifest") or {}).get("time")
    return datetime.fromisoformat(said) if said else None


def made_again(changes: list[ResourceChange]) -> list[ResourceChange]:
    """Of what an update would change, what it would make anew or remove."""
    return [change for change in changes if change.action in _AGAIN]


def _read(content: bytes) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(content)
        state["checkpoint"].get("latest")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Failed("the kept state is not whole", where="a stack's state") from None
    return state
