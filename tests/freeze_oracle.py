"""What freezes should be, minute by minute, with nothing of the code that decides it.

Recurrence is counted day by day, a local time is looked up among the offsets that hold around it,
and what is admitted is looked at for every minute that the change takes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from gpufleet.spec.windows import ChangeKind, WindowKind

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
STAMP = "DTSTAMP:20260101T000000Z"


@dataclass(frozen=True)
class Rule:
    """How an event recurs; `weekdays` count where it is weekly."""

    frequency: str
    interval: int = 1
    weekdays: tuple[int, ...] = ()
    count: int | None = None
    until: datetime | None = None

    def text(self) -> str:
        """As iCalendar writes it."""
        parts = [f"FREQ={self.frequency}", f"INTERVAL={self.interval}"]
        if self.weekdays:
            parts.append("BYDAY=" + ",".join(WEEKDAYS[day] for day in self.weekdays))
        if self.count:
            parts.append(f"COUNT={self.count}")
        if self.until:
            parts.append(f"UNTIL={self.until:%Y%m%dT%H%M%SZ}")
        return ";".join(parts)

    def falls_on(self, day: date, first: date) -> bool:
        """Whether an event that begins on `first` recurs on a day, apart from its end."""
        if self.frequency == "DAILY":
            return (day - first).days % self.interval == 0
        if self.frequency == "WEEKLY":
            monday = first - timedelta(days=first.weekday())
            weeks = (day - monday).days // 7
            return weeks % self.interval == 0 and day.weekday() in self.weekdays
        months = (day.year - first.year) * 12 + day.month - first.month
        if self.frequency == "YEARLY":
            return months % (12 * self.interval) == 0 and day.day == first.day
        return months % self.interval == 0 and day.day == first.day


@dataclass(frozen=True)
class Event:
    """One event of a calendar; of whole days where `at` is empty."""

    first: date
    at: time | None
    length: timedelta
    rule: Rule | None = None
    kind: WindowKind | None = None
    changes: tuple[ChangeKind, ...] = ()
    pools: tuple[str, ...] = ()
    left_out: tuple[date, ...] = ()

    def days(self, last: date, zone: ZoneInfo) -> Iterator[date]:
        """Days on which it begins, up to a day."""
        day, seen = self.first, 0
        while day <= last:
            if self.rule is None:
                yield day
                return
            if self.rule.falls_on(day, self.first):
                seen += 1
                if self.rule.count and seen > self.rule.count:
                    return
                if self.rule.until and self.span(day, zone)[0] > self.rule.until:
                    return
                if day not in self.left_out:
                    yield day
            day += DAY

    def span(self, day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
        """From when to when it holds where it begins on a day, in UTC."""
        wall = datetime.combine(day, self.at or time())
        start, end = moment(wall, zone), moment(wall + self.length, zone)
        # A clock change took its start beyond its end.
        return (start, end) if end > start else (start, start + self.length)

    def text(self, number: int, zone: ZoneInfo) -> str:
        """As iCalendar writes it."""
        wall = datetime.combine(self.first, self.at or time())
        lines = [f"UID:{number}@test", STAMP, f"SUMMARY:event {number}"]
        for name, value in (("DTSTART", wall), ("DTEND", wall + self.length)):
            lines.append(_when(name, value, zone, whole_days=self.at is None))
        if self.rule:
            lines.append(f"RRULE:{self.rule.text()}")
        for day in self.left_out:
            value = datetime.combine(day, self.at or time())
            lines.append(_when("EXDATE", value, zone, whole_days=self.at is None))
        scope = [f"kind={self.kind}"] if self.kind else []
        scope += [f"change={','.join(self.changes)}"] if self.changes else []
        scope += [f"pool={','.join(self.pools)}"] if self.pools else []
        if scope:
            lines.append(f"X-GPUFLEET-SCOPE:{';'.join(scope)}")
        return "".join(f"{line}\r\n" for line in ("BEGIN:VEVENT", *lines, "END:VEVENT"))


def _when(name: str, value: datetime, zone: ZoneInfo, *, whole_days: bool) -> str:
    if whole_days:
        return f"{name};VALUE=DATE:{value:%Y%m%d}"
    return f"{name};TZID={zone.key}:{value:%Y%m%dT%H%M%S}"


def moment(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first moment at which clocks show a time.

    One that they skip is read with the offset of before it (RFC 5545 section 3.3.5).
    """
    around = wall.replace(tzinfo=UTC)
    offsets = [_offset(around + hours * timedelta(hours=1), zone) for hours in range(-48, 49)]
    shown = [
        found
        for offset in offsets
        if (found := around - offset).astimezone(zone).replace(tzinfo=None) == wall
    ]
    return min(shown) if shown else around - offsets[0]


def _offset(at: datetime, zone: ZoneInfo) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta()


@dataclass(frozen=True)
class Minutes:
    """What holds in each minute of a stretch of time for one change."""

    begin: datetime
    open: list[bool] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        events: list[Event],
        kind: WindowKind,
        zone: ZoneInfo,
        begin: datetime,
        count: int,
        change: ChangeKind,
        pools: tuple[str, ...],
    ) -> "Minutes":
        """Look at each minute by itself."""
        last = (begin + count * MINUTE + DAY).date()
        spans = {
            event: [
                span for day in event.days(last, zone) if (span := event.span(day, zone))[1] > begin
            ]
            for event in events
            if not event.changes or change in event.changes
        }
        black = [event for event in spans if (event.kind or kind) is WindowKind.BLACKOUT]
        allow = [event for event in spans if event not in black]
        black = [event for event in black if not event.pools or set(event.pools) & set(pools)]
        found = []
        for number in range(count):
            now = begin + number * MINUTE

            def holds(event: Event, now: datetime = now) -> bool:
                return any(start <= now < end for start, end in spans[event])

            is_open = not any(map(holds, black))
            for pool in pools:
                own = [event for event in allow if not event.pools or pool in event.pools]
                if own or kind is WindowKind.MAINTENANCE:
                    is_open = is_open and any(map(holds, own))
            found.append(is_open)
        return cls(begin, found)

    def admits(self, minute: int, needs: int) -> bool:
        """Whether a change of so many minutes may begin in a minute."""
        return all(self.open[minute : minute + max(1, needs)])
