"""Asks the gateway again and again while something is lost that serves nobody."""

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from gpufleet.core.drills.stage import drill_name
from gpufleet.flows.drills.script import Doubted
from gpufleet.flows.gateway_answers import Asking
from gpufleet.spec.reports import AnswerRow

_EVERY_S: Final = 1.0


class Onlooker:
    """Asks for use cases in turn, for the time of a block.

    Args:
        asking: a client of the gateway.
        use_cases: by their names in the fleet; nobody is asked where there are none.
        doubted: told at once of a use case that is refused, and at the end if nothing was answered.
    """

    def __init__(self, asking: Asking, use_cases: Sequence[str], doubted: Doubted) -> None:
        self._refused: set[str] = set()
        self._doubted = doubted
        self._asking = asking
        self._use_cases = use_cases
        self._answered = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="onlooker")

    def __enter__(self) -> Self:
        if self._use_cases:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._use_cases:
            self._thread.join()

    def told(self) -> str:
        """What was answered so far, in a few words."""
        if not self._answered:
            self._doubted("nobody was answered meanwhile")
        return f"{self._answered} questions were answered meanwhile"

    def _look(self) -> None:
        while not self._ended.is_set():
            for name in self._use_cases:
                found = self._asking.until_answered(drill_name(name), 0.0, lambda: True)
                if isinstance(found, AnswerRow):
                    self._answered += 1
                elif name not in self._refused:
                    self._refused.add(name)
                    # A worker that is killed meanwhile forgets it; the report does not.
                    self._doubted(f"{name} was refused meanwhile: {found.what}")
            self._ended.wait(_EVERY_S)
