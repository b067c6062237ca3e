"""Which stacks need no update: those whose state is as an update left it, from the same inputs.

Pulumi compares a program's resources with the state and never asks the cluster, so that an update
from the same inputs over the same state does nothing, and takes seconds for each hundred resources.
"""

import hashlib
from pathlib import Path

from gpufleet.edges.stack_states import Stack, StackStates
from gpufleet.edges.workspace import PRIVATE, EnvironmentDir


class SettledStacks:
    """Remembers, for each stack, the inputs and the state of its last update that succeeded.

    Args:
        state: of the environment.
    """

    def __init__(self, state: EnvironmentDir) -> None:
        self._states = StackStates(state)
        self._folder = state.root / "pulumi" / "settled"

    def is_settled(self, stack: Stack, inputs: str) -> bool:
        """Whether an update from these inputs would do nothing.

        Args:
            stack: which.
            inputs: a digest of everything that its program reads.
        """
        try:
            kept = self._file(stack).read_text(encoding="ascii")
        except FileNotFoundError:
            return False
        return kept == self._seal(stack, inputs)

    def remember(self, stack: Stack, inputs: str) -> None:
        """An update from these inputs has succeeded; called while nobody else updates the stack."""
        self._folder.mkdir(mode=PRIVATE, exist_ok=True)
        self._file(stack).write_text(self._seal(stack, inputs), encoding="ascii")

    def _seal(self, stack: Stack, inputs: str) -> str:
        state = hashlib.sha256(self._states.read(stack) or b"").hexdigest()
        return hashlib.sha256(f"{inputs}\0{state}".encode()).hexdigest()

    def _file(self, stack: Stack) -> Path:
        return self._folder / f"{stack.project}-{stack.name}"
