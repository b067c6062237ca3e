"""The two families of errors, and the exit code each kind ends a task with.

`Refused` is final: the same call gives the same answer until something is changed.
`Retryable` is an outside fault: the same call may succeed later.
"""

from typing import ClassVar

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_POLICY = 3
EXIT_RETRYABLE = 4
EXIT_TARGET_MISSED = 5
EXIT_INTERRUPTED = 130


class FleetError(Exception):
    """What happened, where, and what to do next: all that a person at 3 a.m. needs.

    Args:
        what: one sentence, without a trailing stop.
        where: `file:line:column: field`, a process, or a resource; empty where `what` says it.
        mend: the next thing to do; empty where nothing helps.
    """

    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  {self.mend}" if self.mend else head

    def as_json(self) -> dict[str, str | int]:
        """The same facts for machines: error, where, mend, exit_code."""
        return {
            "error": self.what,
            "where": self.where,
            "mend": self.mend,
            "exit_code": self.exit_code,
        }


class Refused(FleetError):
    """Final until something is changed."""


class Failed(Refused):
    """The work was tried and did not succeed."""


class BadInput(Refused):
    """A file, flag or value that cannot be right."""

    exit_code = EXIT_BAD_INPUT


class PolicyRefused(Refused):
    """A freeze, budget or gate says no."""

    exit_code = EXIT_POLICY


class TargetMissed(Refused):
    """Everything ran, and the declared target was not met."""

    exit_code = EXIT_TARGET_MISSED


class Retryable(FleetError):
    """An outside fault (a lost connection, a full disk, a busy lock) that may pass."""

    exit_code = EXIT_RETRYABLE
