"""The freeze calendars of a fleet: iCalendar files with recurrence and time zones.

Whatever could hide a freeze (a property that the library gave up on, a zone that nobody knows, an
event without an end) makes the whole calendar untrusted, and untrusted means frozen.
"""

import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import icalendar
import recurring_ical_events

from gpufleet.edges.calendar_events import (
    demand_plain,
    end_rules_on_days,
    first_moment,
    name_of,
    one_line,
)
from gpufleet.edges.calendar_scopes import scope_of
from gpufleet.edges.calendar_trust import CLOCK_SKEW, MAX_BYTES, UntrustedError
from gpufleet.edges.workspace import Workspace
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.freeze_scope import strangers
from gpufleet.spec.governance import FreezeCalendar
from gpufleet.spec.windows import (
    EVERYTHING,
    HORIZON,
    Calendar,
    Scope,
    Window,
    WindowKind,
)

_KEPT: Final = 16
"""Calendars whose windows are kept in memory: whoever waits for an opening asks every second."""


@dataclass(frozen=True)
class _Content:
    """What a calendar says, whenever it is asked on a day."""

    windows: tuple[Window, ...]
    maintained: tuple[Scope, ...]
    stamped_at: datetime | None
    """The newest stamp in it; empty where it has none."""


def read_calendars(
    fleet: Fleet, fleet_file: Path, site: str, now: datetime, *, at: datetime | None = None
) -> list[Calendar]:
    """Every calendar that holds for a site; one that cannot be read says so, and never raises.

    Args:
        fleet: what declares them.
        fleet_file: their paths are relative to it.
        site: calendars of other sites are left out.
        now: the time by the clock; a calendar's age is counted until then.
        at: windows that end later are given; now, where it is empty.
    """
    folder = Workspace.here().for_fleet(fleet).root / "calendars"
    return [
        _declared(name, declared, fleet_file.parent, folder, now, at or now, fleet)
        for name, declared in fleet.freeze_calendars.items()
        if not declared.sites or site in declared.sites
    ]


def _declared(  # noqa: PLR0913, PLR0917 - where a calendar comes from, and for when
    name: str,
    declared: FreezeCalendar,
    base: Path,
    kept: Path,
    now: datetime,
    at: datetime,
    fleet: Fleet,
) -> Calendar:
    if declared.file is not None:
        return read_calendar(name, declared, base / declared.file, now, at=at, fleet=fleet)
    # Only who declares an address pays for the HTTP client's import.
    from gpufleet.edges.calendar_copies import CalendarCopy  # noqa: PLC0415

    copy = CalendarCopy(declared.url or "", kept / f"{name}.json", declared.stale_after_s)

    def read() -> _Content:
        content = _content(copy.read(now), declared, at)
        if content.stamped_at is None:
            # A server answers so whoever may no longer see the events.
            raise UntrustedError(
                "has no event with a DTSTAMP: empty cannot be told from withheld; keep an old one"
            )
        return content

    return _trusted(name, declared, copy.shown, read, at, fleet)


def read_calendar(  # noqa: PLR0913 - where it is, for when, and whose names it may say
    name: str,
    declared: FreezeCalendar,
    file: Path,
    now: datetime,
    *,
    at: datetime | None = None,
    fleet: Fleet | None = None,
) -> Calendar:
    """One calendar of a file with the windows that end after `at`, and begin before its horizon.

    Args:
        name: what people know it by.
        declared: its scope and kind, and how old it may be.
        file: the iCalendar file.
        now: the time by the clock.
        at: now, where it is empty.
        fleet: whose sites and pools its scopes may name; any name where it is empty.
    """
    at = at or now

    def read() -> _Content:
        content = _content(_bytes_of(file), declared, at)
        _demand_fresh(content, declared, now)
        return content

    return _trusted(name, declared, str(file), read, at, fleet)


def read_undeclared(file: Path, at: datetime, fleet: Fleet) -> Calendar:
    """A calendar that no fleet file declares: nobody has said how old it may be, so it may."""
    undeclared = FreezeCalendar(stale_after_s=HORIZON.total_seconds())
    return _trusted(
        file.name,
        undeclared,
        str(file),
        lambda: _content(_bytes_of(file), undeclared, at),
        at,
        fleet,
    )


def _trusted(  # noqa: PLR0913, PLR0917 - what is read, from where, and for whom
    name: str,
    declared: FreezeCalendar,
    source: str,
    read: Callable[[], _Content],
    at: datetime,
    fleet: Fleet | None,
) -> Calendar:
    """The calendar that `read` gives, or why there is none."""
    try:
        content = read()
        if fleet is not None:
            _demand_known_names(content, fleet)
    except UntrustedError as error:
        problem = f"{source} {error}"
    except OSError as error:
        problem = f"{source} cannot be read ({error.strerror})"
    except Exception as error:  # noqa: BLE001 - whatever a calendar does to its reader: frozen
        reason = one_line(f"{type(error).__name__}: {error}")
        problem = f"{source} is not a valid iCalendar file ({reason})"
    else:
        windows = tuple(window for window in content.windows if window.end > at)
        return Calendar(name, windows, scope=declared.scope, maintained=content.maintained)
    maintained = (EVERYTHING,) if declared.kind is WindowKind.MAINTENANCE else ()
    return Calendar(name, problem=problem, scope=declared.scope, maintained=maintained)


def _bytes_of(file: Path) -> bytes:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UntrustedError("cannot be read (not a regular file)")
    if status.st_size > MAX_BYTES:
        raise UntrustedError(f"is larger than {MAX_BYTES // 2**20} MiB")
    return file.read_bytes()


def _content(content: bytes, declared: FreezeCalendar, at: datetime) -> _Content:
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return _content_on(content, declared.kind, declared.time_zone, day)


@lru_cache(maxsize=_KEPT)
def _content_on(content: bytes, kind: WindowKind, time_zone: str | None, day: datetime) -> _Content:
    """What a calendar says to whoever asks on a day, with the windows that end on it or later."""
    calendar = icalendar.Calendar.from_ical(content)
    if calendar.name != "VCALENDAR":
        raise UntrustedError("is not a valid iCalendar file (it holds no VCALENDAR)")
    name = calendar.get("X-WR-TIMEZONE")
    zone = ZoneInfo(str(name)) if name else ZoneInfo(time_zone) if time_zone else None
    demand_plain(calendar, zone)
    end_rules_on_days(calendar, zone or UTC)
    return _Content(
        tuple(_windows(calendar, day, zone or UTC, kind)),
        tuple(_maintained(calendar, kind)),
        _stamped_at(calendar),
    )


def _stamped_at(calendar: Any) -> datetime | None:  # noqa: ANN401 - the library's component
    stamps = (
        first_moment(stamp.dt, UTC)
        # A VTIMEZONE is stamped by whoever publishes the zone, not by whoever keeps the calendar.
        for component in (calendar, *calendar.walk("VEVENT"))
        for name in ("LAST-MODIFIED", "DTSTAMP")
        if (stamp := component.get(name)) is not None
    )
    return max(stamps, default=None)


def _demand_fresh(content: _Content, declared: FreezeCalendar, now: datetime) -> None:
    """Refuse a file that is too old to be trusted, by the newest stamp in it."""
    newest = content.stamped_at
    if newest is None:
        raise UntrustedError("has no LAST-MODIFIED or DTSTAMP, so its age is unknown")
    if newest > now + CLOCK_SKEW:
        raise UntrustedError(f"is stamped in the future ({newest:%Y-%m-%d}): its age is unknown")
    if (now - newest).total_seconds() > declared.stale_after_s:
        raise UntrustedError(f"is stale: last modified {newest:%Y-%m-%d}")


def _demand_known_names(content: _Content, fleet: Fleet) -> None:
    """Refuse an event whose scope names what the fleet does not have: it would hold nowhere."""
    named = {window.scope: f"`{window.name}`: " for window in content.windows}
    for scope in (*named, *content.maintained):
        for stranger in strangers(scope, fleet):
            raise UntrustedError(f"has a scope that is not valid: {named.get(scope, '')}{stranger}")


def _maintained(calendar: Any, kind: WindowKind) -> Iterable[Scope]:  # noqa: ANN401 - the library's component
    """What may change in maintenance windows only, by every event, also by those that are over."""
    if kind is WindowKind.MAINTENANCE:
        return (EVERYTHING,)
    said = (scope_of(event) for event in calendar.walk("VEVENT") if not _is_cancelled(event))
    scopes = (each.scope for each in said if each.kind is WindowKind.MAINTENANCE)
    return dict.fromkeys(scopes)


def _windows(
    calendar: Any,  # noqa: ANN401 - the library's component
    day: datetime,
    zone: tzinfo,
    kind: WindowKind,
) -> Iterator[Window]:
    until = day + timedelta(days=1) + HORIZON
    for event in recurring_ical_events.of(calendar).between(day - CLOCK_SKEW, until):
        if _is_cancelled(event):
            continue
        start, end = _span(event, zone)
        said = scope_of(event)
        if end > day:
            yield Window(name_of(event), start, end, kind=said.kind or kind, scope=said.scope)


def _span(event: Any, zone: tzinfo) -> tuple[datetime, datetime]:  # noqa: ANN401 - the library's component
    """Both ends; a local time that a clock change skips is read with the offset of before it.

    So the start of an event may come to lie after its end, which then is as much later as the
    event is long by the wall's clock: a clock change never takes a whole window away.
    """
    start, end = first_moment(event.start, zone), first_moment(event.end, zone)
    begins, ends = start.astimezone(UTC), end.astimezone(UTC)
    if ends <= begins:
        ends = begins + (_wall(end) - _wall(start))
    # As clocks show it: never a time that they skip.
    return begins.astimezone(start.tzinfo), ends.astimezone(end.tzinfo)


def _wall(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)


def _is_cancelled(event: Any) -> bool:  # noqa: ANN401 - the library's component
    return str(event.get("STATUS", "")).upper() == "CANCELLED"
