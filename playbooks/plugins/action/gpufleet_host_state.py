"""Remembers a host's state in gpufleet's database, and journals it where it is news."""

from typing import Any

from gpufleet.core.patching.hosts import STATES
from gpufleet.edges.playbook_actions import PlaybookAction
from gpufleet.flows.playbook_guard import opened, remember

_SPEC = {
    "host": {"type": "str", "required": True},
    "state": {"type": "str", "required": True, "choices": list(STATES)},
    "reason": {"type": "str", "default": ""},
    "flow": {"type": "str", "required": True},
    "actor": {"type": "str", "default": ""},
}


class ActionModule(PlaybookAction):
    """In check mode nothing is written."""

    SPEC = _SPEC

    def act(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Changed where the host was in another state."""
        if self.only_looks:
            return {}
        with opened(self.variables) as ground:
            changed = remember(
                ground,
                asked["host"],
                asked["state"],
                reason=asked["reason"],
                flow=asked["flow"],
                actor=asked["actor"],
            )
        return {"changed": changed}
