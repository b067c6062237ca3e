"""The freeze calendars of a fleet: iCalendar files with recurrence and time zones.

Whatever could hide a freeze (a property that the library gave up on, a zone that nobody knows, an
event without an end) makes the whole calendar untrusted, and untrusted means frozen.
"""

import stat
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import icalendar
import recurring_ical_events

from gpufleet.spec.fleet import Fleet
from gpufleet.spec.governance import FreezeCalendar
from gpufleet.spec.windows import HORIZON, Calendar, Window

MAX_BYTES: Final = 4 * 2**20
CLOCK_SKEW: Final = timedelta(days=1)
"""How far in the future a stamp may lie: clocks differ, and stamps without a zone exist."""
_MAX_NAME: Final = 120
_OFTEN: Final = frozenset({"HOURLY", "MINUTELY", "SECONDLY"})


class _UntrustedError(Exception):
    """Why a calendar cannot be trusted, to be read after its file's name."""


def read_calendars(fleet: Fleet, fleet_file: Path, site: str, now: datetime) -> list[Calendar]:
    """Every calendar that holds for a site; one that cannot be read says so, and never raises."""
    return [
        read_calendar(name, declared, fleet_file.parent / declared.file, now)
        for name, declared in fleet.freeze_calendars.items()
        if not declared.sites or site in declared.sites
    ]


def read_calendar(name: str, declared: FreezeCalendar, file: Path, now: datetime) -> Calendar:
    """One calendar with the windows that end after now and begin before `now + HORIZON`."""
    try:
        calendar = _parse(file)
        _demand_fresh(calendar, declared, now)
        _demand_plain(calendar)
        return Calendar(name, tuple(_windows(calendar, now)))
    except _UntrustedError as error:
        return Calendar(name, problem=f"{file} {error}")
    except OSError as error:
        return Calendar(name, problem=f"{file} cannot be read ({error.strerror})")
    except Exception as error:  # noqa: BLE001 - whatever a calendar does to its reader: frozen
        reason = _one_line(f"{type(error).__name__}: {error}")
        return Calendar(name, problem=f"{file} is not a valid iCalendar file ({reason})")


def _parse(file: Path) -> Any:  # noqa: ANN401 - the library's component
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise _UntrustedError("cannot be read (not a regular file)")
    if status.st_size > MAX_BYTES:
        raise _UntrustedError(f"is larger than {MAX_BYTES // 2**20} MiB")
    calendar = icalendar.Calendar.from_ical(file.read_bytes())
    if calendar.name != "VCALENDAR":
        raise _UntrustedError("is not a valid iCalendar file (it holds no VCALENDAR)")
    return calendar


def _demand_fresh(calendar: Any, declared: FreezeCalendar, now: datetime) -> None:  # noqa: ANN401 - the library's component
    """Refuse a calendar that is too old to be trusted, by the newest stamp in it."""
    stamps = [
        _moment(stamp.dt, UTC)
        # A VTIMEZONE is stamped by whoever publishes the zone, not by whoever keeps the calendar.
        for component in (calendar, *calendar.walk("VEVENT"))
        for name in ("LAST-MODIFIED", "DTSTAMP")
        if (stamp := component.get(name)) is not None
    ]
    if not stamps:
        raise _UntrustedError("has no LAST-MODIFIED or DTSTAMP, so its age is unknown")
    newest = max(stamps)
    if newest > now + CLOCK_SKEW:
        raise _UntrustedError(f"is stamped in the future ({newest:%Y-%m-%d}): its age is unknown")
    if (now - newest).total_seconds() > declared.stale_after_s:
        raise _UntrustedError(f"is stale: last modified {newest:%Y-%m-%d}")


def _demand_plain(calendar: Any) -> None:  # noqa: ANN401 - the library's component
    """Refuse what the library would read leniently, and so could lose a freeze."""
    for component in calendar.walk():
        for field, reason in component.errors:
            raise _UntrustedError(f"has a {field} that is not valid ({_one_line(str(reason))})")
    for event in calendar.walk("VEVENT"):
        _demand_known_zones(event)
        _demand_end(event)
        _demand_rare(event)


def _demand_known_zones(event: Any) -> None:  # noqa: ANN401 - the library's component
    for field in ("DTSTART", "DTEND"):
        value = event.get(field)
        if value is not None and "TZID" in value.params and _is_floating(value.dt):
            zone = _one_line(value.params["TZID"])
            raise _UntrustedError(f"names a time zone that is not known: {zone}")


def _demand_end(event: Any) -> None:  # noqa: ANN401 - the library's component
    start, end = event.start, event.end
    if end < start or (end == start and isinstance(start, datetime)):
        raise _UntrustedError(f"has an event that does not end after it starts: `{_name(event)}`")


def _demand_rare(event: Any) -> None:  # noqa: ANN401 - the library's component
    """Refuse rules that the library read as nothing, and those that would take it hours."""
    for rule in _rules(event):
        frequency = "".join(rule.get("FREQ", ()))
        if not frequency:
            raise _UntrustedError(f"has an RRULE that is not valid: `{_name(event)}`")
        many = any(len(rule.get(part, ())) > 1 for part in ("BYHOUR", "BYMINUTE", "BYSECOND"))
        if frequency in _OFTEN or many:
            raise _UntrustedError(f"has an event that recurs more than daily: `{_name(event)}`")


def _rules(event: Any) -> Iterator[Any]:  # noqa: ANN401 - the library's component
    found = event.get("RRULE", [])
    yield from found if isinstance(found, list) else [found]


def _windows(calendar: Any, now: datetime) -> Iterator[Window]:  # noqa: ANN401 - the library's component
    name = calendar.get("X-WR-TIMEZONE")
    zone = ZoneInfo(str(name)) if name else UTC
    for event in recurring_ical_events.of(calendar).between(now - CLOCK_SKEW, now + HORIZON):
        if str(event.get("STATUS", "")).upper() == "CANCELLED":
            continue
        window = Window(_name(event), _moment(event.start, zone), _moment(event.end, zone))
        if window.end > now:
            yield window


def _name(event: Any) -> str:  # noqa: ANN401 - the library's component
    return _one_line(str(event.get("SUMMARY", ""))) or "freeze"


def _one_line(text: str) -> str:
    """Text for a person's terminal: one line, printable, not long."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(printable.split())[:_MAX_NAME]


def _is_floating(value: date | datetime) -> bool:
    return isinstance(value, datetime) and value.tzinfo is None


def _moment(value: date | datetime, zone: tzinfo) -> datetime:
    """A date as its first moment in `zone`; a time without a zone is in `zone` too."""
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value if value.tzinfo else value.replace(tzinfo=zone)
