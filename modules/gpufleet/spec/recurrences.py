"""iCalendar recurrence rules of declared peaks: when they begin, in local time."""

from datetime import datetime, timedelta
from typing import Final

from dateutil.rrule import rrulestr

FIRST_DAY: Final = datetime(2024, 1, 1)  # noqa: DTZ001 - local time of whatever zone
"""A Monday; rules with an INTERVAL are counted from here."""
_SHIFT_YEARS: Final = 7600
"""The calendar repeats every 400 years, and dateutil looks for the next date until the year 9999:
so near its end, a rule that never happens (a 30th of February) is known for one at once."""


def starts(rule: str, begin: datetime, end: datetime) -> list[datetime]:
    """Local times without a zone at which a rule begins, from `begin` to before `end`.

    A rule without BYHOUR begins at midnight. Both ends lie after `FIRST_DAY`.

    Raises:
        ValueError: the rule has a part that no calendar knows.
    """
    try:
        found = rrulestr(rule, dtstart=_shifted(FIRST_DAY, _SHIFT_YEARS)).between(
            _shifted(begin, _SHIFT_YEARS) - timedelta(microseconds=1), _shifted(end, _SHIFT_YEARS)
        )
    except (ValueError, TypeError, KeyError, IndexError) as error:
        message = f"is not a recurrence rule: {error}"
        raise ValueError(message) from None
    return [_shifted(start, -_SHIFT_YEARS) for start in found]


def _shifted(moment: datetime, years: int) -> datetime:
    return moment.replace(year=moment.year + years)


def ever_happens(rule: str, start: datetime) -> bool:
    """Whether a rule of an event has any occurrence at all, however far away.

    Args:
        rule: without UNTIL and COUNT.
        start: when the event begins first, without a zone, at the latest in the year 2399.
    """
    return next(iter(rrulestr(rule, dtstart=_shifted(start, _SHIFT_YEARS))), None) is not None
