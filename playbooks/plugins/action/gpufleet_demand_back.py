"""Whether a rollback leads back: what goes on in a freeze must not bring anything new."""

from typing import Any

from ansible.plugins.action import ActionBase

from gpufleet.core.patching.purposes import demand_back
from gpufleet.spec.errors import FleetError
from gpufleet.spec.patching import Part

_SPEC = {
    "part": {"type": "str", "required": True, "choices": [part.value for part in Part]},
    "wanted": {"type": "str", "required": True},
    "before": {"type": "str", "default": ""},
    "installed": {"type": "str", "default": ""},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Asks nobody, and changes nothing."""

    _requires_connection = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Fails where the version is newer than what the host has."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, asked = self.validate_argument_spec(argument_spec=_SPEC)
        try:
            demand_back(
                Part(asked["part"]),
                asked["wanted"],
                before=asked["before"],
                installed=asked["installed"],
            )
        except FleetError as error:
            return {**result, "failed": True, "msg": str(error), "gpufleet_error": error.as_json()}
        return {**result, "changed": False}
