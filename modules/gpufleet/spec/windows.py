"""Freeze calendars as they were read: windows of time with their scope, or why none is trusted."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Final

HORIZON: Final = timedelta(days=400)
"""How far ahead calendars are read: a year and a quarter; nothing is known beyond it."""


class ChangeKind(StrEnum):
    """What kind of change something is; those of patching are named as in the fleet file."""

    STACKS = "stacks"
    """What `up` and `change` do: resources of the clusters."""
    RELEASE = "release"
    """Another model revision."""
    DRIVER = "driver"
    FIRMWARE = "firmware"
    RUNTIME = "runtime"
    OS = "os"


class WindowKind(StrEnum):
    """What a window means for the changes of its scope."""

    BLACKOUT = "blackout"
    """Nothing may change inside."""
    MAINTENANCE = "maintenance"
    """Changes are admitted only inside such windows; a blackout inside one still refuses them."""


@dataclass(frozen=True)
class Scope:
    """What a window holds for; an empty part means everything of that part."""

    environments: frozenset[str] = frozenset()
    sites: frozenset[str] = frozenset()
    pools: frozenset[str] = frozenset()
    changes: frozenset[ChangeKind] = frozenset()


EVERYTHING: Final = Scope()


@dataclass(frozen=True)
class Window:
    """A time in which nothing may change, or in which alone it may; both ends have a time zone."""

    name: str
    start: datetime
    end: datetime
    kind: WindowKind = field(default=WindowKind.BLACKOUT, kw_only=True)
    scope: Scope = field(default=EVERYTHING, kw_only=True)

    @cached_property
    def span(self) -> tuple[datetime, datetime]:
        """Both ends in UTC: in one zone Python compares wall clocks, which change."""
        return self.start.astimezone(UTC), self.end.astimezone(UTC)


@dataclass(frozen=True)
class Calendar:
    """One freeze calendar as it was read: its windows, or why it cannot be trusted."""

    name: str
    windows: tuple[Window, ...] = ()
    problem: str = ""
    scope: Scope = EVERYTHING
    """What all of it holds for; a window's own scope only narrows that."""
    maintained: tuple[Scope, ...] = ()
    """Parts of the scope that may change only inside maintenance windows, also when none is left:
    a last window that has passed opens nothing."""
    is_cadence: bool = False
    """Whether it follows from `patching`; then it does not count as a freeze calendar."""


@dataclass(frozen=True)
class Opening:
    """A time in which a change may begin and end, its rollback included."""

    start: datetime
    end: datetime | None
    """Empty where nothing is known to end it within `HORIZON`."""
