"""Maintenance windows that the cadence of patching declares: when a kind of software may change."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from gpufleet.spec.fleet import Fleet
from gpufleet.spec.governance import PatchCadence
from gpufleet.spec.windows import (
    EVERYTHING,
    HORIZON,
    Calendar,
    ChangeKind,
    Scope,
    Window,
    WindowKind,
)


def cadence_calendars(
    fleet: Fleet, now: datetime, *, change: ChangeKind | None = None, until: datetime | None = None
) -> list[Calendar]:
    """One calendar for each declared cadence: changes of that kind happen in its windows only.

    Args:
        fleet: whose `patching` is read.
        now: with a time zone; windows that end later are given.
        change: the only kind that is asked for; every one where it is empty.
        until: windows that start before it are given; `now + HORIZON` where it is empty.
    """
    found = []
    for target, cadence in fleet.patching.items():
        kind = ChangeKind(target.value)
        if change not in {None, kind}:
            continue
        name = f"patching.{kind}"
        windows = _windows(name, cadence, now, until or now + HORIZON)
        found.append(
            Calendar(
                name,
                tuple(windows),
                scope=Scope(changes=frozenset({kind})),
                maintained=(EVERYTHING,),
                is_cadence=True,
            )
        )
    return found


def _windows(name: str, cadence: PatchCadence, now: datetime, until: datetime) -> Iterator[Window]:
    """By the weekday on which each starts, in its zone; each is exactly as long as declared."""
    zone, length = ZoneInfo(cadence.time_zone), timedelta(seconds=cadence.window_s)
    now, until = now.astimezone(UTC), until.astimezone(UTC)
    day = (now - length).astimezone(zone).date() - timedelta(days=1)
    last = until.astimezone(zone).date()
    while day <= last:
        if day.isoweekday() in cadence.weekdays:
            # A local time that a clock change skips is read with the offset of before it, and one
            # that it repeats is its first, as RFC 5545 section 3.3.5 has it.
            start = datetime.combine(day, cadence.window_starts, tzinfo=zone).astimezone(UTC)
            if start + length > now and start < until:
                end = (start + length).astimezone(zone)
                yield Window(name, start.astimezone(zone), end, kind=WindowKind.MAINTENANCE)
        day += timedelta(days=1)
