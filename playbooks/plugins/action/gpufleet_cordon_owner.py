"""Whether the patch whose mark a cordoned node carries is known, and has left it so."""

from typing import Any

from gpufleet.edges.playbook_actions import PlaybookAction
from gpufleet.flows.cordons import has_left
from gpufleet.flows.playbook_guard import opened

_SPEC = {
    "flow": {"type": "str", "required": True},
    "host": {"type": "str", "required": True},
}


class ActionModule(PlaybookAction):
    """Reads the environment's database."""

    SPEC = _SPEC

    def act(self, asked: dict[str, Any]) -> dict[str, Any]:
        """`left`, whether the cordon is that patch's."""
        with opened(self.variables) as ground:
            left = has_left(ground, asked["flow"], asked["host"])
        return {"left": left}
