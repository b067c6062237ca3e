"""What people see of freezes."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from itertools import groupby
from typing import Final

from rich.text import Text

from gpufleet.spec.freezes import (
    CalendarRow,
    DayRow,
    FreezeCheck,
    FreezeList,
    FreezeOutlook,
    OutlookRow,
    SiteOpenings,
    WindowRow,
)
from gpufleet.tasks.console import facts, plain_table

_MARKS: Final = {
    "open": ("·", "green", "open"),
    "maintenance": ("■", "blue", "maintenance window in it"),
    "outside": ("░", "dim", "outside of maintenance windows"),
    "part": ("▄", "yellow", "frozen for a part"),
    "blackout": ("█", "red", "frozen"),
    "unknown": ("?", "bold red", "frozen: not trusted"),
}
_DAYS_IN_ROW: Final = 92
"""A quarter fits beside the labels."""


def show_check(found: FreezeCheck) -> None:
    """One line, and the way on."""
    if found.allowed:
        facts.print(f"allowed: {found.change} may change at {_time(found.at)}", style="green")
        if found.overrides:
            lifts = f"lifted by {', '.join(found.overrides)}: {found.reason}"
            facts.print(Text(lifts, "yellow"), soft_wrap=True)
        return
    facts.print(Text(f"{found.site}: refused: {found.reason}", "red"), soft_wrap=True)
    if found.window:
        window = Text(f"{found.window.kind} `{found.window.name}`: {_span(found.window)}")
        facts.print(window, soft_wrap=True)
    opens = f"the next opening is {_time(found.next_opening)}" if found.next_opening else ""
    facts.print(opens or "no opening is known", soft_wrap=True)


def show_list(found: FreezeList) -> None:
    """The calendars, then their windows by time."""
    table = plain_table()
    for column in ("CALENDAR", "KIND", "HOLDS FOR", "SOURCE", "WINDOWS", "NEXT"):
        table.add_column(column, overflow="fold")
    for row in found.calendars:
        following = _time(row.windows[0].start) if row.windows else Text("none", "dim")
        state = Text("frozen: not trusted", "red") if row.problem else following
        count = str(len(row.windows))
        table.add_row(row.name, row.kind, _holds_for(row), row.source, count, state)
    facts.print(table, soft_wrap=True)
    for line in _windows(_declared(found.calendars)):
        facts.print(line, soft_wrap=True)
    for row in found.calendars:
        if row.problem:
            facts.print(Text(f"calendar `{row.name}`: {row.problem}", "red"), soft_wrap=True)


def show_openings(found: Sequence[SiteOpenings]) -> None:
    """Each site with its openings."""
    for row in found:
        state = "open now" if row.open else f"closed: {row.reason}"
        style = "green" if row.open else "yellow"
        facts.print(Text(f"{row.site} {row.change}: {state}", style), soft_wrap=True)
        for opening in row.openings:
            until = _time(opening.end) if opening.end else "as far as is known"
            facts.print(f"  {_time(opening.start)}  to  {until}", soft_wrap=True)
        if not row.openings:
            facts.print("  no opening is known")


def show_outlook(found: FreezeOutlook) -> None:
    """A strip of days for each site and kind of change, then the windows."""
    labels = [_label(row) for row in found.rows]
    width = max(map(len, labels), default=0) + 2
    count = len(found.rows[0].days) if found.rows else 0
    for first in range(0, count, _DAYS_IN_ROW):
        days = [row.days[first : first + _DAYS_IN_ROW] for row in found.rows]
        facts.print(Text(" " * width + _months(days[0]), style="bold"), soft_wrap=True)
        facts.print(Text(" " * width + _mondays(days[0]), style="dim"), soft_wrap=True)
        for label, row in zip(labels, days, strict=True):
            strip = Text(label.ljust(width))
            for day in row:
                mark, style, _ = _MARKS[_shown(day)]
                strip.append(mark, style)
            facts.print(strip, soft_wrap=True)
    used = {_shown(day) for row in found.rows for day in row.days}
    legend = "   ".join(
        f"{mark} {what}" for name, (mark, _, what) in _MARKS.items() if name in used
    )
    facts.print(f"{legend}   ({found.time_zone}; ' Mondays)", style="dim", soft_wrap=True)
    for line in _windows(_declared(found.calendars)):
        facts.print(line, soft_wrap=True)
    for warning in found.warnings:
        facts.print(Text(warning, "red"), soft_wrap=True)


def _shown(day: DayRow) -> str:
    """What one mark says of a day: the worst, except that any maintenance window shows."""
    holds = {stretch.hold for stretch in day.stretches}
    if len(holds) == 1:
        return holds.pop()
    if "maintenance" in holds:
        return "maintenance"
    return "part" if "blackout" in holds else "outside"


def _months(days: Sequence[DayRow]) -> str:
    parts = []
    for month, group in groupby(days, key=lambda day: day.day[:7]):
        length = sum(1 for _ in group)
        first = date.fromisoformat(f"{month}-01")
        names = (first.strftime(form) for form in ("%b %Y ", "%b ", ""))
        parts.append(next(name for name in names if len(name) <= length).ljust(length))
    return "".join(parts)


def _mondays(days: Sequence[DayRow]) -> str:
    return "".join("'" if date.fromisoformat(day.day).weekday() == 0 else " " for day in days)


def _label(row: OutlookRow) -> str:
    return f"{row.site} {row.change}{f' {row.pool}' if row.pool else ''}"


def _declared(calendars: Sequence[CalendarRow]) -> list[CalendarRow]:
    """Without the cadences, whose windows are too many to list."""
    return [row for row in calendars if row.source != "patching"]


def _windows(calendars: Sequence[CalendarRow]) -> Iterator[Text]:
    """Windows by their start, each with its calendar and what it holds for."""
    found = [(window, row) for row in calendars for window in row.windows]
    for window, row in sorted(found, key=lambda pair: datetime.fromisoformat(pair[0].start)):
        style = "red" if window.kind == "blackout" else "blue"
        line = Text(f"{window.kind:<12}", style)
        line.append(f"{_span(window)}  {window.name}  ", "default")
        line.append(f"{_holds_for(window)} ({row.name})", "dim")
        yield line


def _holds_for(row: WindowRow | CalendarRow) -> str:
    named = {
        "environments": getattr(row, "environments", []),
        "sites": row.sites,
        "pools": row.pools,
        "changes": row.changes,
    }
    parts = [f"{what} {', '.join(names)}" for what, names in named.items() if names]
    return "; ".join(parts) or "everything"


def _span(window: WindowRow) -> str:
    return f"{_time(window.start)} to {_time(window.end)}"


def _time(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%a %Y-%m-%d %H:%M %z")
