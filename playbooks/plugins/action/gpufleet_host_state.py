"""Remembers a host's state in gpufleet's database, and journals it where it is news."""

from typing import Any

from ansible.plugins.action import ActionBase

from gpufleet.core.patching.hosts import STATES
from gpufleet.flows.playbook_guard import opened, remember
from gpufleet.spec.errors import FleetError

_SPEC = {
    "host": {"type": "str", "required": True},
    "state": {"type": "str", "required": True, "choices": list(STATES)},
    "reason": {"type": "str", "default": ""},
    "flow": {"type": "str", "required": True},
    "actor": {"type": "str", "default": ""},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """In check mode nothing is written."""

    _requires_connection = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Changed where the host was in another state."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, asked = self.validate_argument_spec(argument_spec=_SPEC)
        if self._task.check_mode:
            return {**result, "changed": False}
        try:
            with opened(task_vars) as ground:
                changed = remember(
                    ground,
                    asked["host"],
                    asked["state"],
                    reason=asked["reason"],
                    flow=asked["flow"],
                    actor=asked["actor"],
                )
        except FleetError as error:
            return {**result, "failed": True, "msg": str(error), "gpufleet_error": error.as_json()}
        return {**result, "changed": changed}
