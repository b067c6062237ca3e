"""The written form of a scope, in an event of a calendar and on the command line.

`site=fra1; pool=chat,mail; change=driver`: parts apart by semicolons, commas or spaces; what has no
name of its own belongs to the part before it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gpufleet.spec.fleet import Fleet
from gpufleet.spec.problem import Problem
from gpufleet.spec.windows import EVERYTHING, ChangeKind, Scope, WindowKind

FORM: Final = "such as site=fra1;pool=chat,mail;change=driver"
_PARTS: Final = {
    "environment": "environment",
    "environments": "environment",
    "site": "site",
    "sites": "site",
    "pool": "pool",
    "pools": "pool",
    "change": "change",
    "changes": "change",
    "kind": "kind",
}


@dataclass(frozen=True)
class SaidScope:
    """A scope as somebody wrote it, and the kind of window where they wrote that too."""

    scope: Scope = EVERYTHING
    kind: WindowKind | None = None


def parse_scope(text: str) -> SaidScope:
    """Read a scope; empty text is everything.

    Raises:
        ValueError: says what is wrong with it, in a sentence without a trailing stop.
    """
    said: dict[str, set[str]] = {}
    part = ""
    for word in filter(None, re.split(r"[;,\s]+", text)):
        name, separator, value = word.partition("=")
        if separator:
            part = _PARTS[_known("part of a scope", name.lower(), tuple(_PARTS))]
            said.setdefault(part, set())
        else:
            value = name
        if not part:
            message = f"`{value:.60}` is no part of a scope; {FORM}"
            raise ValueError(message)
        if value:
            said[part].add(value)
    for name, values in said.items():
        if not values:
            message = f"`{name}=` names nothing; {FORM}"
            raise ValueError(message)
    kinds = said.get("kind", set())
    if len(kinds) > 1:
        message = "`kind` is said twice"
        raise ValueError(message)
    windows = {kind.value: kind for kind in WindowKind}
    changes = {kind.value: kind for kind in ChangeKind}
    return SaidScope(
        Scope(
            environments=frozenset(said.get("environment", ())),
            sites=frozenset(said.get("site", ())),
            pools=frozenset(said.get("pool", ())),
            changes=frozenset(
                changes[_known("kind of change", change, tuple(changes))]
                for change in said.get("change", ())
            ),
        ),
        *(windows[_known("kind of window", kind, tuple(windows))] for kind in kinds),
    )


def strangers(scope: Scope, fleet: Fleet) -> Iterator[str]:
    """What is wrong with each name of a scope that a fleet does not have.

    Environments are not known to each other, so that their names are not looked at.
    """
    for kind, given, known in (
        ("site", scope.sites, fleet.sites),
        ("pool", scope.pools, fleet.pools),
    ):
        for name in sorted(given - known.keys()):
            yield _strange(kind, name, tuple(known))


def _known(kind: str, given: str, valid: tuple[str, ...]) -> str:
    """A name of those that are valid.

    Raises:
        ValueError: it is not; with the nearest that is.
    """
    if given not in valid:
        raise ValueError(_strange(kind, given, valid))
    return given


def _strange(kind: str, given: str, valid: tuple[str, ...]) -> str:
    problem = Problem((), f"there is no {kind} `{given:.60}`", given, valid)
    return f"{problem.what}; {problem.advice()}"
