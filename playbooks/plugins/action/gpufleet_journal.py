"""Writes one fact into gpufleet's journal; in check mode it only says that it would."""

from typing import Any

from gpufleet.edges.playbook_actions import PlaybookAction
from gpufleet.flows.playbook_guard import note, opened

_SPEC = {
    "event": {"type": "str", "required": True},
    "target": {"type": "str", "default": ""},
    "body": {"type": "dict", "default": {}},
    "flow": {"type": "str", "required": True},
    "actor": {"type": "str", "default": ""},
}


class ActionModule(PlaybookAction):
    """The same event of the same flow about the same target is written once."""

    SPEC = _SPEC

    def act(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Never a change of a host."""
        if self.only_looks:
            return {}
        with opened(self.variables) as ground:
            note(
                ground,
                asked["event"],
                flow=asked["flow"],
                actor=asked["actor"],
                target=asked["target"],
                body=asked["body"],
            )
        return {}
