"""Whether what a host would have after a change goes together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from gpufleet.core.patching.compatibility import HostStack, demand_compatible
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import FleetError
from gpufleet.spec.patching import COMPONENT_OF, Part, PatchOrder

_SPEC = {
    "node_group": {"type": "str", "required": True},
    "part": {"type": "str", "required": True, "choices": [part.value for part in Part]},
    "version": {"type": "str", "required": True},
    "stack": {"type": "dict", "default": {}},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """`stack` is what was read from the host; what it does not tell is as the group's pins."""

    _requires_connection = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Fails with what does not go together, and what would."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, asked = self.validate_argument_spec(argument_spec=_SPEC)
        try:
            _demand(Path(str((task_vars or {})["gpufleet_fleet_file"])), asked)
        except FleetError as error:
            return {**result, "failed": True, "msg": str(error), "gpufleet_error": error.as_json()}
        return {**result, "changed": False}


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
