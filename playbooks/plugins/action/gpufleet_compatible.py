"""Whether what a host would have after a change goes together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from gpufleet.core.patching.compatibility import HostStack, demand_compatible
from gpufleet.edges.playbook_actions import PlaybookAction
from gpufleet.spec import load_fleet
from gpufleet.spec.patching import COMPONENT_OF, Part, PatchOrder

_SPEC = {
    "node_group": {"type": "str", "required": True},
    "part": {"type": "str", "required": True, "choices": [part.value for part in Part]},
    "version": {"type": "str", "required": True},
    "stack": {"type": "dict", "default": {}},
}


class ActionModule(PlaybookAction):
    """`stack` is what was read from the host; what it does not tell is as the group's pins."""

    SPEC = _SPEC

    def act(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Fails with what does not go together, and what would."""
        _demand(Path(str(self.variables["gpufleet_fleet_file"])), asked)
        return {}


def _demand(fleet_file: Path, asked: dict[str, Any]) -> None:
    part = Part(asked["part"])
    if part is Part.SECURITY:
        return
    fleet = load_fleet(fleet_file)
    told = {name: value for name, value in asked["stack"].items() if value}
    if "driver" in told:
        told["fabric_manager"] = told["driver"]
    stack = replace(HostStack.pinned(fleet.node_groups[asked["node_group"]].pins), **told)
    order = PatchOrder(component=COMPONENT_OF[part], part=part, version=asked["version"])
    demand_compatible(fleet, asked["node_group"], stack.after(order))
