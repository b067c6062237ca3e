"""What is demanded of a calendar's events before their windows are trusted."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, tzinfo
from typing import Any, Final

from gpufleet.edges.calendar_trust import UntrustedError
from gpufleet.spec.recurrences import ever_happens

_MAX_NAME: Final = 120
_OFTEN: Final = frozenset({"HOURLY", "MINUTELY", "SECONDLY"})
_FIRST_YEAR: Final = 1970
_LAST_YEAR: Final = 2399
_RARE: Final = ("BYMONTH", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYSETPOS", "INTERVAL")
"""Parts of a rule that can keep it from ever happening."""


def demand_plain(calendar: Any, zone: tzinfo | None) -> None:  # noqa: ANN401 - the library's component
    """Refuse what the library would read leniently, and so could lose a freeze.

    Args:
        calendar: the library's component.
        zone: of times that name none; none, where the calendar names none either.

    Raises:
        UntrustedError: with the first reason.
    """
    for component in calendar.walk():
        for field, reason in component.errors:
            raise UntrustedError(f"has a {field} that is not valid ({one_line(str(reason))})")
    if calendar.walk("VFREEBUSY"):
        raise UntrustedError("says busy times alone (VFREEBUSY): publish its events")
    for event in calendar.walk("VEVENT"):
        _demand_zones(event, zone)
        _demand_end(event)
        _demand_rare(event)


def _demand_zones(event: Any, zone: tzinfo | None) -> None:  # noqa: ANN401 - the library's component
    for field in ("DTSTART", "DTEND"):
        value = event.get(field)
        if value is None or not _is_floating(value.dt):
            continue
        if "TZID" in value.params:
            name = one_line(value.params["TZID"])
            raise UntrustedError(f"names a time zone that is not known: {name}")
        if zone is None:
            raise UntrustedError(
                f"has times without a time zone: `{name_of(event)}`; name it there (TZID), for the"
                " calendar (X-WR-TIMEZONE), or in the fleet file (time_zone)"
            )


def _demand_end(event: Any) -> None:  # noqa: ANN401 - the library's component
    start, end = event.start, event.end
    if end < start or (end == start and isinstance(start, datetime)):
        raise UntrustedError(f"has an event that does not end after it starts: `{name_of(event)}`")


def _demand_rare(event: Any) -> None:  # noqa: ANN401 - the library's component
    """Refuse rules that the library read as nothing, and those that would take it hours."""
    if "EXRULE" in event:
        raise UntrustedError(f"has an EXRULE, which nobody reads any more: `{name_of(event)}`")
    for rule in _rules(event):
        frequency = "".join(rule.get("FREQ", ()))
        if not frequency:
            raise UntrustedError(f"has an RRULE that is not valid: `{name_of(event)}`")
        many = any(len(rule.get(part, ())) > 1 for part in ("BYHOUR", "BYMINUTE", "BYSECOND"))
        if frequency in _OFTEN or many:
            raise UntrustedError(f"has an event that recurs more than daily: `{name_of(event)}`")
        start = first_moment(event.start, UTC).replace(tzinfo=None)
        if not _FIRST_YEAR <= start.year <= _LAST_YEAR:
            what = f"has an event that recurs from the year {start.year}: `{name_of(event)}`"
            raise UntrustedError(what)
        if any(part in rule for part in _RARE):
            kept = {part: found for part, found in rule.items() if part not in {"UNTIL", "COUNT"}}
            if not ever_happens(type(rule)(kept).to_ical().decode(), start):
                raise UntrustedError(f"has an RRULE that never happens: `{name_of(event)}`")


def end_rules_on_days(calendar: Any, zone: tzinfo) -> None:  # noqa: ANN401 - the library's component
    """Read the end of a rule as a day where its event has whole days.

    RFC 5545 section 3.3.10 wants a day there; Exchange writes a time in UTC, which the library
    would compare as if it were in the calendar's zone, so that a last day could be lost.
    """
    for event in calendar.walk("VEVENT"):
        if isinstance(event.start, datetime):
            continue
        for rule in _rules(event):
            rule["UNTIL"] = [
                until.astimezone(zone).date()
                if isinstance(until, datetime) and until.tzinfo
                else until
                for until in rule.get("UNTIL", [])
            ]
            if not rule["UNTIL"]:
                del rule["UNTIL"]


def _rules(event: Any) -> Iterator[Any]:  # noqa: ANN401 - the library's component
    found = event.get("RRULE", [])
    yield from found if isinstance(found, list) else [found]


def name_of(event: Any) -> str:  # noqa: ANN401 - the library's component
    """What people call it; `freeze` where it has no summary."""
    return one_line(str(event.get("SUMMARY", ""))) or "freeze"


def one_line(text: str) -> str:
    """Text for a person's terminal: one line, printable, not long."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(printable.split())[:_MAX_NAME]


def first_moment(value: date | datetime, zone: tzinfo) -> datetime:
    """A date as its first moment in `zone`; a time without a zone is in `zone` too."""
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value if value.tzinfo else value.replace(tzinfo=zone)


def _is_floating(value: date | datetime) -> bool:
    return isinstance(value, datetime) and value.tzinfo is None
