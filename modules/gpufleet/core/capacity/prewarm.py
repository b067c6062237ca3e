"""When replicas are started ahead of declared peaks, and how Kubernetes is told."""

import calendar
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product
from typing import Final

from gpufleet.core.serving import LOCAL_RESTORE_BYTES_PER_S, STARTUP_MARGIN
from gpufleet.spec.serving import ModelRevision, Prewarm

_DAYS: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_CRON_DAYS: Final = (1, 2, 3, 4, 5, 6, 0)
"""cron counts weekdays from Sunday."""
_YEAR: Final = 2023
"""A year without a leap day, in which offsets between months are counted."""
_FEBRUARY: Final = 2
_WEEK_BEGINS: Final = datetime(_YEAR, 1, 2)  # noqa: DTZ001 - a Monday; the zone stands beside the cron
_DAY_S: Final = 86_400
_KNOWN: Final = frozenset({"FREQ", "BYMONTH", "BYMONTHDAY", "BYDAY", "BYHOUR", "BYMINUTE", "WKST"})


class CannotSay(ValueError):
    """A recurrence that cron has no words for."""


@dataclass(frozen=True)
class CronWindow:
    """A window that comes again: two cron expressions of five fields, in one time zone."""

    start: str
    end: str


def lead_s(model: ModelRevision) -> float:
    """How long before a peak its replicas are started, s.

    A restore of the weights and a cold start that takes as long as the startup probe allows:
    replicas that come late are no pre-warming.
    """
    return round(model.size_bytes / LOCAL_RESTORE_BYTES_PER_S + STARTUP_MARGIN * model.load_time_s)


def cron_windows(peak: Prewarm) -> tuple[CronWindow, ...]:
    """The windows from `lead_s` before each occurrence of a peak to its end.

    A day counted from a month's end becomes a date of each month; in February the window lasts a
    day longer, since in a leap year the occurrence is a day later.

    Raises:
        CannotSay: cron has no words for the rule, or an occurrence begins before the last has
            ended.
    """
    rule = dict(part.split("=", 1) for part in peak.recurrence.split(";"))
    if rule.get("INTERVAL", "1") != "1" or rule.keys() - _KNOWN - {"INTERVAL"}:
        raise CannotSay(f"cron has no words for `{peak.recurrence}`")
    before = timedelta(seconds=peak.lead_s)
    lasts = timedelta(seconds=peak.duration_s)
    windows = []
    from_the_end = rule.get("BYMONTHDAY", "").startswith("-")
    for moment, fields, period_s in _moments(rule, peak.recurrence):
        if peak.lead_s + peak.duration_s >= period_s:
            raise CannotSay("an occurrence begins before the last has ended")
        leap = timedelta(days=from_the_end and moment.month == _FEBRUARY)
        ends = moment + lasts + leap
        windows.append(CronWindow(_cron(moment - before, fields), _cron(ends, fields)))
    if not windows:
        raise CannotSay(f"`{peak.recurrence}` happens in leap years only")
    return tuple(windows)


def _moments(rule: Mapping[str, str], text: str) -> Iterator[tuple[datetime, str, float]]:
    """A first occurrence of each part of a rule, what repeats it, and its period, s."""
    hours, minutes = _numbers(rule, "BYHOUR", "0"), _numbers(rule, "BYMINUTE", "0")
    times = [timedelta(hours=h, minutes=m) for h, m in product(hours, minutes)]
    month_days, days = rule.get("BYMONTHDAY"), rule.get("BYDAY")
    match rule["FREQ"]:
        case "DAILY" if not month_days and not days and "BYMONTH" not in rule:
            found = [(_WEEK_BEGINS, "daily", _DAY_S)]
        case "WEEKLY" if days and not month_days and "BYMONTH" not in rule:
            chosen = [_WEEK_BEGINS + timedelta(_weekday(day, text)) for day in days.split(",")]
            found = [(day, "weekly", 7 * _DAY_S) for day in chosen]
        case "MONTHLY" | "YEARLY" if month_days and not days and _has_months(rule):
            months = _numbers(rule, "BYMONTH", "1,2,3,4,5,6,7,8,9,10,11,12")
            found = [
                (date, "yearly", 365 * _DAY_S)
                for month, day in product(months, month_days.split(","))
                if (date := _date(month, int(day))) is not None
            ]
        case _:
            raise CannotSay(f"cron has no words for `{text}`")
    for date, repeats, period_s in found:
        for time in times:
            yield date + time, repeats, period_s


def _has_months(rule: Mapping[str, str]) -> bool:
    return rule["FREQ"] == "MONTHLY" or "BYMONTH" in rule


def _numbers(rule: Mapping[str, str], key: str, default: str) -> list[int]:
    return [int(number) for number in rule.get(key, default).split(",")]


def _weekday(day: str, text: str) -> int:
    if day not in _DAYS:
        raise CannotSay(f"cron has no words for `{text}`")
    return _DAYS.index(day)


def _date(month: int, day: int) -> datetime | None:
    """A day of a month, or from its end; None where the month has no such day."""
    last = calendar.monthrange(_YEAR, month)[1]
    day = day if day > 0 else last + 1 + day
    return datetime(_YEAR, month, day) if 1 <= day <= last else None  # noqa: DTZ001 - as above


def _cron(moment: datetime, repeats: str) -> str:
    clock = f"{moment.minute} {moment.hour}"
    if repeats == "daily":
        return f"{clock} * * *"
    if repeats == "weekly":
        return f"{clock} * * {_CRON_DAYS[moment.weekday()]}"
    return f"{clock} {moment.day} {moment.month} *"
