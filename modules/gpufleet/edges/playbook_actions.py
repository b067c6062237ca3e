"""What the playbooks' own actions have in common: arguments, and one clear error."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase

from gpufleet.spec.errors import FleetError


class PlaybookAction(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Runs in the controller's process, and touches no host by itself."""

    SPEC: ClassVar[Mapping[str, Any]]
    """Arguments, as Ansible's modules declare them."""
    variables: Mapping[str, Any]
    """Of the task."""
    _requires_connection = False

    @abstractmethod
    def act(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What the task answers; nothing has changed where it does not say so.

        Args:
            asked: the arguments.

        Raises:
            FleetError: told as the task's failure.
        """

    @property
    def only_looks(self) -> bool:
        """Whether it runs in check mode."""
        return bool(self._task.check_mode)

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """As Ansible calls it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, asked = self.validate_argument_spec(argument_spec=self.SPEC)
        self.variables = task_vars or {}
        try:
            return {**result, "changed": False, **self.act(asked)}
        except FleetError as error:
            return {**result, "failed": True, "msg": str(error), "gpufleet_error": error.as_json()}
