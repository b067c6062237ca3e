"""What a play asks of its scenario."""

from collections.abc import Callable, Sequence
from typing import Protocol

from gpufleet.spec.drills import Placed

Doubted = Callable[[str], None]
"""Told what keeps a drill from being met, however soon service was back."""


class Script(Protocol):
    """What is particular about a scenario; each call finds what an earlier one has done."""

    def prepare(self) -> None:
        """Make what is to fail, before the clock runs."""

    def fail(self) -> str:
        """Let it fail, besides the replicas; what has to be known of it later."""

    def decide(self, fact: str) -> list[Placed]:
        """What comes up, now that it has failed."""

    def avoids(self, fact: str) -> str:
        """The node on which nothing may come up; empty where any may do."""

    def restore(self, placed: Sequence[Placed], doubted: Doubted) -> str:
        """Bring the weights back; what that was made of.

        Args:
            placed: what needs them.
            doubted: told what is not shown to come back.

        Raises:
            FleetError: they cannot be had.
        """
