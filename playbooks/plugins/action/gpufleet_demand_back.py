"""Whether a rollback leads back: what goes on in a freeze must not bring anything new."""

from typing import Any

from gpufleet.core.patching.purposes import demand_back
from gpufleet.edges.playbook_actions import PlaybookAction
from gpufleet.spec.patching import Part

_SPEC = {
    "part": {"type": "str", "required": True, "choices": [part.value for part in Part]},
    "wanted": {"type": "str", "required": True},
    "before": {"type": "str", "default": ""},
    "installed": {"type": "str", "default": ""},
}


class ActionModule(PlaybookAction):
    """Asks nobody, and changes nothing."""

    SPEC = _SPEC

    def act(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Fails where the version is newer than what the host has."""
        demand_back(
            Part(asked["part"]),
            asked["wanted"],
            before=asked["before"],
            installed=asked["installed"],
        )
        return {}
