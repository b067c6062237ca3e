"""The freeze calendars of a fleet: iCalendar files with recurrence and time zones."""

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import icalendar
import recurring_ical_events

from gpufleet.spec.fleet import Fleet
from gpufleet.spec.governance import FreezeCalendar
from gpufleet.spec.windows import Calendar, Window

HORIZON: Final = timedelta(days=400)
MAX_BYTES: Final = 4 * 2**20


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
        if file.stat().st_size > MAX_BYTES:
            return Calendar(name, problem=f"{file} is larger than {MAX_BYTES // 2**20} MiB")
        calendar = icalendar.Calendar.from_ical(file.read_bytes())
        if stale := _staleness(calendar, declared, now):
            return Calendar(name, problem=f"{file} {stale}")
        zone = _zone(calendar)
        events = recurring_ical_events.of(calendar).between(now - timedelta(days=1), now + HORIZON)
        windows = [_window(event, zone) for event in events if event.get("STATUS") != "CANCELLED"]
    except OSError as error:
        return Calendar(name, problem=f"{file} cannot be read ({error.strerror})")
    except Exception as error:  # noqa: BLE001 - whatever a calendar does to its reader: frozen
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return Calendar(name, problem=f"{file} is not a valid iCalendar file ({reason})")
    return Calendar(name, tuple(window for window in windows if window.end > now))


def _staleness(calendar: Any, declared: FreezeCalendar, now: datetime) -> str:  # noqa: ANN401 - the library's component
    """Why a calendar is too old to be trusted, by the newest stamp in it; empty if it is not."""
    stamps = [
        stamp.dt
        for component in calendar.walk()
        for name in ("LAST-MODIFIED", "DTSTAMP")
        if (stamp := component.get(name)) is not None
    ]
    moments = [_moment(stamp, UTC) for stamp in stamps]
    if not moments:
        return "has no LAST-MODIFIED or DTSTAMP, so its age is unknown"
    age_s = (now - max(moments)).total_seconds()
    if age_s > declared.stale_after_s:
        return f"is stale: last modified {max(moments):%Y-%m-%d}"
    return ""


def _zone(calendar: Any) -> tzinfo:  # noqa: ANN401 - the library's component
    """The zone of dates without a time."""
    name = calendar.get("X-WR-TIMEZONE")
    return ZoneInfo(str(name)) if name else UTC


def _window(event: Any, zone: tzinfo) -> Window:  # noqa: ANN401 - the library's component
    start, end = event.start, event.end
    if end == start and not isinstance(start, datetime):
        end = start + timedelta(days=1)
    name = str(event.get("SUMMARY") or "freeze")
    return Window(name, _moment(start, zone), _moment(end, zone))


def _moment(value: date | datetime, zone: tzinfo) -> datetime:
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value if value.tzinfo else value.replace(tzinfo=zone)
