"""The stacks of a fleet, and their states in Pulumi's file backend."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from gpufleet.edges.stack_lock import release_dead_lock
from gpufleet.edges.workspace import PRIVATE, PROJECT_ROOT, EnvironmentDir

PLATFORM: Final = "platform"
POOLS: Final = "pools"
_POOL_TYPE: Final = "gpufleet:serving:ServingPool"


@dataclass(frozen=True)
class Stack:
    """One stack of a project (`platform` or `pools`) at one site of a fleet.

    The pools of a large site are spread over several: `shard` counts them from 1.
    """

    project: str
    fleet: str
    site: str
    shard: int = 1

    @classmethod
    def named(cls, project: str, fleet: str, name: str) -> Self | None:
        """The stack of a fleet that has this name; None where it is of another fleet."""
        of_site, _, shard = name.partition(".")
        site = of_site.removeprefix(f"{fleet}-")
        if site == of_site or (shard and not shard.isdecimal()):
            return None
        return cls(project, fleet, site, int(shard or 1))

    @property
    def name(self) -> str:
        """The stack's name in its project."""
        # No name in a fleet file has a dot: the number can't be taken for a part of one.
        return f"{self.fleet}-{self.site}" + (f".{self.shard}" if self.shard > 1 else "")

    @property
    def shown(self) -> str:
        """How people see it."""
        return f"{self.project} {self.site}" + (f" {self.shard}" if self.shard > 1 else "")


class StackStates:
    """The files that hold the stacks' states and locks.

    Args:
        state: of the environment.
    """

    def __init__(self, state: EnvironmentDir) -> None:
        self._backend = state.pulumi_state / ".pulumi"

    def begin(self) -> None:
        """Make an empty backend of the form in which a stack's name is its project's alone."""
        self._backend.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        (self._backend / "meta.yaml").write_text("version: 1\n", encoding="ascii")

    def file(self, stack: Stack) -> Path:
        """The file of a stack's last state."""
        return self._backend / "stacks" / f"gpufleet-{stack.project}" / f"{stack.name}.json"

    def read(self, stack: Stack) -> bytes | None:
        """A stack's last state; None before there is one."""
        try:
            return self.file(stack).read_bytes()
        except FileNotFoundError:
            return None

    def resources(self, stack: Stack) -> list[dict[str, Any]]:
        """The resources of a stack's last state; none where it was never updated."""
        content = self.read(stack)
        if content is None:
            return []
        latest = json.loads(content)["checkpoint"].get("latest") or {}
        return list(latest.get("resources") or [])

    def standing(self, fleet: str, site: str) -> dict[int, list[str]]:
        """The pools in the state of each of a site's `pools` stacks, by the stack's number."""
        first = Stack(POOLS, fleet, site)
        files = self.file(first).parent.glob(f"{first.name}.*.json")
        numbers = [file.name.removesuffix(".json").rpartition(".")[2] for file in files]
        stacks = [first, *(Stack(POOLS, fleet, site, int(n)) for n in numbers if n.isdecimal())]
        return {
            stack.shard: [
                resource["urn"].rpartition("::")[2]
                for resource in self.resources(stack)
                if resource["type"] == _POOL_TYPE
            ]
            for stack in stacks
        }

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
            PROJECT_ROOT / "stacks" / stack.project,
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
