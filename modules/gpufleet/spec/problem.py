"""What is wrong with a fleet file, and the one error that tells it."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gpufleet.spec.errors import BadInput
from gpufleet.spec.source import Document, FieldPath, Position, dotted

MAX_SHOWN: Final = 10
_NEAR: Final = 0.6
_BEGINNING: Final = Position("the fleet file", 1, 1)


@dataclass(frozen=True)
class Problem:
    """Something wrong with a field: its path, what, and the names that would be valid there."""

    path: FieldPath
    what: str
    given: str = ""
    candidates: tuple[str, ...] = ()
    mend: str = ""

    @property
    def nearest(self) -> str:
        """The valid name that was probably meant; empty where none is near."""
        near = difflib.get_close_matches(self.given, self.candidates, n=1, cutoff=_NEAR)
        return near[0] if near else ""

    def advice(self) -> str:
        """What to do about it; empty where nothing is known."""
        if self.mend or not self.candidates:
            return self.mend
        if nearest := self.nearest:
            return f"did you mean `{nearest}`?"
        shown = sorted(self.candidates)
        more = f", and {len(shown) - MAX_SHOWN} more" if len(shown) > MAX_SHOWN else ""
        return f"valid here: {', '.join(shown[:MAX_SHOWN])}{more}"


def refusal(document: Document, found: Sequence[Problem]) -> BadInput:
    """One error for all problems: the first in full, up to `MAX_SHOWN` further ones below it."""
    first, *rest = found
    lines = [f"also {_where(document, problem)}: {problem.what}" for problem in rest[:MAX_SHOWN]]
    if len(rest) > MAX_SHOWN:
        lines.append(f"also {len(rest) - MAX_SHOWN} more")
    mend = "\n  ".join(filter(None, [first.advice(), *lines]))
    return BadInput(first.what, where=_where(document, first), mend=mend)


def _where(document: Document, problem: Problem) -> str:
    place = position(document, problem.path)
    return f"{place}: {dotted(problem.path)}" if problem.path else str(place)


def position(document: Document, path: FieldPath) -> Position:
    """Where a field stands, or else the nearest part above it that was written.

    Of a document without any position, its beginning.
    """
    while path and path not in document.positions:
        path = path[:-1]
    return document.positions.get(path, _BEGINNING)
