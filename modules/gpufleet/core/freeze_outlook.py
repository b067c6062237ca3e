"""What holds when, over days: the picture that a calendar gives of its windows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum

from gpufleet.core.freeze import Holding, Subject, unknown
from gpufleet.core.spans import Span, gaps, union
from gpufleet.spec.windows import Calendar, Window


class Hold(StrEnum):
    """What holds in a stretch of time."""

    OPEN = "open"
    MAINTENANCE = "maintenance"
    """Open, as only the inside of maintenance windows is."""
    OUTSIDE = "outside"
    """Closed, since it is outside of them."""
    BLACKOUT = "blackout"
    UNKNOWN = "unknown"
    """Frozen, since a calendar cannot be trusted, or there is none."""


@dataclass(frozen=True)
class Stretch:
    """A stretch of time in which one thing holds."""

    start: datetime
    end: datetime
    hold: Hold
    name: str = ""
    """Of the blackout."""


def stretches(
    calendars: Sequence[Calendar],
    begin: datetime,
    end: datetime,
    subject: Subject,
    *,
    required: bool,
) -> list[Stretch]:
    """What holds from `begin` to `end`, without gaps; arguments as of `decide`."""
    begin, end = begin.astimezone(UTC), end.astimezone(UTC)
    if refused := unknown(calendars, subject, required=required):
        return [Stretch(begin, end, Hold.UNKNOWN, refused.reason)]
    holding = Holding.of(calendars, subject)
    blocks = [block.span for block in holding.blackouts]
    names = {span[0]: block.name for span, block in zip(blocks, holding.blackouts, strict=True)}
    opened = [span for span in holding.openings(begin) if span[0] < end]
    inside = Hold.MAINTENANCE if holding.maintained else Hold.OPEN
    found = [
        *(Stretch(*span, Hold.BLACKOUT, names[span[0]]) for span in blocks),
        *(Stretch(*span, inside) for span in opened),
    ]
    outside = gaps(union([*blocks, *opened]), (begin, end))
    found += [Stretch(*span, Hold.OUTSIDE) for span in outside]
    clipped = (
        Stretch(max(each.start, begin), min(each.end, end), each.hold, each.name) for each in found
    )
    return sorted((each for each in clipped if each.start < each.end), key=lambda each: each.start)


def days_of(begin: datetime, count: int, zone: tzinfo) -> Iterator[Span]:
    """Days of a zone from that of `begin` on, each from its first moment to the next day's."""
    first = begin.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    for number in range(count):
        start, end = (first + timedelta(days=number + more) for more in (0, 1))
        yield start.astimezone(UTC), end.astimezone(UTC)


def windows_between(calendar: Calendar, begin: datetime, end: datetime) -> list[Window]:
    """The windows of a calendar that have a part between two moments, by their start."""
    begin, end = begin.astimezone(UTC), end.astimezone(UTC)
    found = (
        window for window in calendar.windows if window.span[0] < end and window.span[1] > begin
    )
    return sorted(found, key=lambda window: window.span)
