"""Whether the patch whose mark a cordoned node carries is known, and has left it so."""

from typing import Any

from ansible.plugins.action import ActionBase

from gpufleet.flows.cordons import has_left
from gpufleet.flows.playbook_guard import opened
from gpufleet.spec.errors import FleetError

_SPEC = {
    "flow": {"type": "str", "required": True},
    "host": {"type": "str", "required": True},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Reads the environment's database."""

    _requires_connection = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """`left`, whether the cordon is that patch's."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, asked = self.validate_argument_spec(argument_spec=_SPEC)
        try:
            with opened(task_vars) as ground:
                left = has_left(ground, asked["flow"], asked["host"])
        except FleetError as error:
            return {**result, "failed": True, "msg": str(error), "gpufleet_error": error.as_json()}
        return {**result, "changed": False, "left": left}
