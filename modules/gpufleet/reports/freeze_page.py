"""Freezes and maintenance windows of the next days as one page, without a network."""

from collections.abc import Sequence
from datetime import date, datetime
from importlib import resources
from itertools import groupby
from typing import Final

import jinja2

from gpufleet.spec.freezes import (
    CalendarRow,
    DayRow,
    FreezeOutlook,
    OutlookRow,
    StretchRow,
    WindowRow,
)

_TEMPLATE: Final = "freezes.html.jinja"
_WORDS: Final = {
    "open": "open",
    "maintenance": "maintenance window",
    "outside": "outside of maintenance windows",
    "blackout": "frozen",
    "unknown": "frozen: calendar not trusted",
}
_WINDOWS_SHOWN: Final = 100
"""Of one calendar."""


def freeze_page(outlook: FreezeOutlook, made_at: datetime) -> str:
    """The page, complete.

    Args:
        outlook: what holds when.
        made_at: when, as the page says it.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {
        "share": _share,
        "told": _told,
        "time": _time,
        "day": lambda text: date.fromisoformat(text).strftime("%a %d %b %Y"),
        "number": lambda text: date.fromisoformat(text).day,
        "month": lambda text: date.fromisoformat(text).strftime("%b"),
        "holds_for": _holds_for,
    }
    template = environment.from_string(
        resources.files("gpufleet.reports").joinpath(_TEMPLATE).read_text("utf-8")
    )
    return template.render(
        outlook=outlook,
        words=_WORDS,
        sites=[
            (site, [(row, _weeks(row)) for row in rows])
            for site, rows in groupby(outlook.rows, key=lambda row: row.site)
        ],
        made_at=f"{made_at:%Y-%m-%d %H:%M} UTC",
        windows_shown=_WINDOWS_SHOWN,
    )


def _weeks(row: OutlookRow) -> list[list[DayRow | None]]:
    """Rows of seven days from Monday on; None for what is before the first and after the last."""
    first = date.fromisoformat(row.days[0].day).weekday()
    days = [*[None] * first, *row.days]
    days += [None] * (-len(days) % 7)
    return [days[start : start + 7] for start in range(0, len(days), 7)]


def _share(seconds: int, day: DayRow) -> str:
    """A part of a day, in percent of its length."""
    return f"{100 * seconds / day.length_s:.2f}"


def _told(stretches: Sequence[StretchRow]) -> str:
    """What holds on a day, in words."""
    return "; ".join(
        f"{_clock(each.from_s)} to {_clock(each.to_s)} {_WORDS[each.hold]}"
        + (f" ({each.name})" if each.name else "")
        for each in stretches
    )


def _clock(seconds: int) -> str:
    """Hours after the day's first moment: clock time, except after a clock change on that day."""
    return f"{seconds // 3600:02}:{seconds % 3600 // 60:02}"


def _time(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%a %Y-%m-%d %H:%M %z")


def _holds_for(row: WindowRow | CalendarRow) -> str:
    environments = row.environments if isinstance(row, WindowRow) else []
    named = {
        "environments": environments,
        "sites": row.sites,
        "pools": row.pools,
        "changes": row.changes,
    }
    parts = [f"{what} {', '.join(names)}" for what, names in named.items() if names]
    return "; ".join(parts) or "everything"
