"""What the tasks of freezes tell; times are ISO 8601 with the offset of their window's zone."""

from typing import Self

from pydantic import Field

from gpufleet.spec.quantities import Spec
from gpufleet.spec.windows import Opening, Scope, Window


class WindowRow(Spec):
    """One window; an empty list stands for everything."""

    name: str
    kind: str
    """`blackout` or `maintenance`."""
    start: str
    end: str
    environments: list[str] = Field(default_factory=list)
    sites: list[str] = Field(default_factory=list)
    pools: list[str] = Field(default_factory=list)
    changes: list[str] = Field(default_factory=list)

    @classmethod
    def of(cls, window: Window, declared: Scope) -> Self:
        """A window; where its own scope says nothing, that of its calendar."""
        scope = window.scope
        return cls(
            name=window.name,
            kind=window.kind.value,
            start=window.start.isoformat(),
            end=window.end.isoformat(),
            environments=sorted(scope.environments),
            sites=sorted(scope.sites or declared.sites),
            pools=sorted(scope.pools or declared.pools),
            changes=sorted(scope.changes or declared.changes),
        )


class FreezeCheck(Spec):
    """The outcome of `freeze.check`."""

    allowed: bool
    reason: str
    """Why not, or what the overrides lift; empty where calendars allow it."""
    window: WindowRow | None
    """The blackout that refuses it; or the maintenance window that it does not fit into, or the
    next one."""
    next_opening: str | None
    """When it could begin, at every site that was asked for; none where it may begin now, and where
    none is known."""
    at: str
    site: str
    """The first that refuses it; empty where it is allowed."""
    change: str
    """The kind of change that is refused; of several that were asked for, the first."""
    overrides: list[str] = Field(default_factory=list)
    """Those that lift what the calendars refuse."""


class CalendarRow(Spec):
    """One calendar, and what it holds for."""

    name: str
    source: str
    """File, address without its path, or `patching` of the fleet file."""
    kind: str
    sites: list[str]
    pools: list[str]
    changes: list[str]
    problem: str
    """Why it is not trusted, so that all of its scope is frozen; empty where it is."""
    windows: list[WindowRow]


class FreezeList(Spec):
    """The outcome of `freeze.list`."""

    fleet: str
    environment: str
    begin: str
    end: str
    calendars: list[CalendarRow]


class OpeningRow(Spec):
    """A time in which a change may begin and end, its rollback included."""

    start: str
    end: str | None
    """None where nothing is known to end it."""

    @classmethod
    def of(cls, opening: Opening) -> Self:
        """An opening as it is told."""
        return cls(
            start=opening.start.isoformat(),
            end=opening.end.isoformat() if opening.end else None,
        )


class SiteOpenings(Spec):
    """When a site may change next."""

    site: str
    change: str
    open: bool
    reason: str
    """Why not now; empty where it is open."""
    openings: list[OpeningRow]


class StretchRow(Spec):
    """A stretch of a day in which one thing holds."""

    from_s: int
    """Seconds since the day's first moment."""
    to_s: int
    hold: str
    """`open`, `maintenance`, `outside`, `blackout` or `unknown`."""
    name: str


class DayRow(Spec):
    """One day of a site."""

    day: str
    """ISO 8601 date."""
    length_s: int
    """86,400 except when clocks change."""
    stretches: list[StretchRow]


class OutlookRow(Spec):
    """The days of one kind of change at one site."""

    site: str
    change: str
    pool: str
    """Empty for a change of the whole site."""
    days: list[DayRow]


class FreezeOutlook(Spec):
    """The outcome of `freeze.calendar`."""

    fleet: str
    environment: str
    time_zone: str
    """Of the days."""
    begin: str
    end: str
    rows: list[OutlookRow]
    calendars: list[CalendarRow]
    warnings: list[str]
