"""Writes one fact into gpufleet's journal; in check mode it only says that it would."""

from typing import Any

from ansible.plugins.action import ActionBase

from gpufleet.flows.playbook_guard import note, opened
from gpufleet.spec.errors import FleetError

_SPEC = {
    "event": {"type": "str", "required": True},
    "target": {"type": "str", "default": ""},
    "body": {"type": "dict", "default": {}},
    "flow": {"type": "str", "required": True},
    "actor": {"type": "str", "default": ""},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """The same event of the same flow about the same target is written once."""

    _requires_connection = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Never a change of a host."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, asked = self.validate_argument_spec(argument_spec=_SPEC)
        if self._task.check_mode:
            return {**result, "changed": False}
        try:
            with opened(task_vars) as ground:
                note(
                    ground,
                    asked["event"],
                    flow=asked["flow"],
                    actor=asked["actor"],
                    target=asked["target"],
                    body=asked["body"],
                )
        except FleetError as error:
            return {**result, "failed": True, "msg": str(error), "gpufleet_error": error.as_json()}
        return {**result, "changed": False}
