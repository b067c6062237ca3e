"""The stacks of a fleet, and their states in Pulumi's file backend."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gpufleet.edges.stack_lock import release_dead_lock
from gpufleet.edges.workspace import EnvironmentDir
from gpufleet.spec.fleet import Fleet

CLUSTER_PROJECT: Final = "platform"
PROJECTS: Final = (CLUSTER_PROJECT, "pools")


@dataclass(frozen=True)
class Stack:
    """One stack: a project (`platform` or `pools`) at one site of a fleet."""

    project: str
    fleet: str
    site: str

    @property
    def name(self) -> str:
        """The stack's name in its project."""
        return f"{self.fleet}-{self.site}"

    @property
    def shown(self) -> str:
        """How people see it."""
        return f"{self.project} {self.site}"


def stacks_of(fleet: Fleet) -> list[Stack]:
    """Every stack of a fleet, in the order in which they can be made.

    A site whose cluster is being provisioned has no pools yet.
    """
    return [
        Stack(project, fleet.slug, site)
        for project in PROJECTS
        for site in fleet.sites
        if project == CLUSTER_PROJECT or not fleet.awaits_cluster(site)
    ]


class StackStates:
    """The files that hold the stacks' states and locks.

    Args:
        state: of the environment.
    """

    def __init__(self, state: EnvironmentDir) -> None:
        self._backend = state.pulumi_state / ".pulumi"

    def file(self, stack: Stack) -> Path:
        """The file of a stack's last state."""
        return self._backend / "stacks" / f"gpufleet-{stack.project}" / f"{stack.name}.json"

    def read(self, stack: Stack) -> bytes | None:
        """A stack's last state; None before there is one."""
        try:
            return self.file(stack).read_bytes()
        except FileNotFoundError:
            return None

    def is_locked(self, stack: Stack) -> bool:
        """Whether an update is under way, or was killed."""
        return any(self._locks(stack).glob("*.json"))

    def release_dead_lock(self, stack: Stack) -> None:
        """Release the lock of a killed update.

        Raises:
            Retryable: its owner is alive, or on another machine.
        """
        release_dead_lock(
            self._locks(stack),
            shown=stack.shown,
            cancel=f"`pulumi cancel --stack {stack.name}` in stacks/{stack.project}",
        )

    def replace(self, stack: Stack, content: bytes, now: datetime) -> Path | None:
        """Put another state in the place of a stack's; returns where the old one was kept.

        Raises:
            Retryable: an update is under way.
        """
        self.release_dead_lock(stack)
        file = self.file(stack)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = None
        if file.is_file():
            stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%S%f")
            kept = file.with_name(f"{file.stem}.before-{stamp}")
            kept.write_bytes(file.read_bytes())
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(file)
        return kept

    def _locks(self, stack: Stack) -> Path:
        return self._backend / "locks" / "organization" / f"gpufleet-{stack.project}" / stack.name
