"""Decisions agree with a look at every single minute, for random calendars in five time zones.

The slow form tries 10,000 calendars: `.venv/bin/python -P -m pytest -m slow
tests/unit/test_freeze_oracle.py`.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.freeze_oracle import MINUTE, Event, Minutes, Rule

from gpufleet.core.freeze import Subject, decide, next_openings
from gpufleet.edges.calendars import read_calendar
from gpufleet.spec.governance import FreezeCalendar
from gpufleet.spec.windows import Calendar, ChangeKind, WindowKind

ZONES = {
    # The days on which clocks change; Lord Howe's by half an hour, Kolkata's never.
    "Europe/Berlin": (date(2026, 3, 29), date(2026, 10, 25)),
    "America/New_York": (date(2026, 3, 8), date(2026, 11, 1)),
    "Australia/Lord_Howe": (date(2026, 4, 5), date(2026, 10, 4)),
    "Asia/Kolkata": (date(2026, 2, 28), date(2026, 12, 31)),
    "Pacific/Auckland": (date(2026, 4, 5), date(2026, 9, 27)),
}
POOLS = ("chat", "mail")
LOOKED_AT = 2 * 24 * 60
LONGEST = 8 * 60
IN_ALL = 10_000


@dataclass(frozen=True)
class Case:
    """A calendar, a change that wants to begin, and from when on minutes are looked at."""

    zone: ZoneInfo
    kind: WindowKind
    events: list[Event]
    begin: datetime
    change: ChangeKind
    pools: tuple[str, ...]
    asked: list[tuple[int, int]]
    """Minutes after `begin`, and how many minutes the change needs then."""


@st.composite
def events(draw: st.DrawFn, around: date) -> Event:
    first = around + timedelta(days=draw(st.integers(-3, 2)))
    clock = st.integers(0, 24 * 60 - 1).map(lambda minute: time(minute // 60, minute % 60))
    # Most clock changes happen at night.
    night = st.integers(0, 4 * 60).map(lambda minute: time(minute // 60, minute % 60))
    at = draw(st.none() | clock | night)
    if at is None:
        length = timedelta(days=draw(st.integers(1, 3)))
    else:
        length = draw(st.integers(1, 90) | st.integers(1, 2 * 24 * 60)) * MINUTE
    rule = draw(st.none() | rules(first))
    if rule:
        earlier = {"DAILY": 1, "WEEKLY": 7}.get(rule.frequency, 0) * rule.interval
        first -= timedelta(days=earlier * draw(st.integers(0, 40)))
    if rule and rule.frequency == "YEARLY":
        first = first.replace(year=first.year - rule.interval * draw(st.integers(0, 2)))
    return Event(
        first,
        at,
        length,
        rule,
        kind=draw(st.sampled_from([None, None, *WindowKind])),
        changes=draw(st.sampled_from([(), (), (ChangeKind.DRIVER,), (ChangeKind.STACKS,)])),
        pools=draw(st.sampled_from([(), (), ("chat",), ("mail",)])),
        left_out=(around,) if rule and draw(st.integers(0, 5)) == 0 else (),
    )


@st.composite
def rules(draw: st.DrawFn, first: date) -> Rule:
    frequency = draw(st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]))
    more = draw(st.sets(st.integers(0, 6), max_size=3)) if frequency == "WEEKLY" else set()
    until = datetime.combine(first, time(), UTC) + draw(st.integers(0, 5 * 1440)) * MINUTE
    return Rule(
        frequency,
        draw(st.integers(1, 3)),
        tuple(sorted({first.weekday(), *more})) if frequency == "WEEKLY" else (),
        *draw(st.sampled_from([(None, None), (draw(st.integers(1, 60)), None), (None, until)])),
    )


@st.composite
def cases(draw: st.DrawFn, zone: str) -> Case:
    around = draw(st.sampled_from(ZONES[zone]))
    begin = datetime.combine(around, time(), UTC) + draw(st.integers(-1440, 0)) * MINUTE
    asked = st.tuples(st.integers(0, LOOKED_AT - 1), st.integers(0, LONGEST))
    return Case(
        ZoneInfo(zone),
        draw(st.sampled_from([WindowKind.BLACKOUT, WindowKind.BLACKOUT, WindowKind.MAINTENANCE])),
        draw(st.lists(events(around), min_size=1, max_size=5, unique=True)),
        begin,
        draw(st.sampled_from([ChangeKind.STACKS, ChangeKind.DRIVER])),
        draw(st.sampled_from([("chat",), POOLS])),
        draw(st.lists(asked, min_size=4, max_size=8)),
    )


def read(case: Case, folder: Path) -> Calendar:
    body = "".join(event.text(number, case.zone) for number, event in enumerate(case.events))
    head = f"VERSION:2.0\r\nPRODID:-//test//EN\r\nX-WR-TIMEZONE:{case.zone.key}\r\n"
    file = folder / "company.ics"
    file.write_text(f"BEGIN:VCALENDAR\r\n{head}{body}END:VCALENDAR\r\n", newline="")
    declared = FreezeCalendar(file=file.name, kind=case.kind, stale_after_s=1e8)
    found = read_calendar("company", declared, file, case.begin)
    assert found.problem == ""
    return found


def agrees(case: Case, folder: Path) -> None:
    count = LOOKED_AT + LONGEST
    minutes = Minutes.of(
        case.events, case.kind, case.zone, case.begin, count, case.change, case.pools
    )
    calendars = [read(case, folder)]
    subject = Subject("production", "fra1", case.pools, case.change)
    openings = next_openings(calendars, case.begin, subject=subject, count=count)
    shown = [False] * count
    for opening in openings:
        first = max(0, (opening.start.astimezone(UTC) - case.begin) // MINUTE)
        after = (opening.end.astimezone(UTC) - case.begin) // MINUTE if opening.end else count
        shown[first : min(count, after)] = [True] * (min(count, after) - first)
    assert shown == minutes.open
    for minute, needs in case.asked:
        now = case.begin + minute * MINUTE
        decision = decide(calendars, now, needs=needs * MINUTE, subject=subject)
        assert decision.admitted is minutes.admits(minute, needs)
        if not decision.admitted:
            later = (m for m in range(minute + 1, LOOKED_AT) if minutes.admits(m, needs))
            opens = next(later, None)
            # In a zone, a time that comes twice equals none of another zone.
            found = decision.opens and decision.opens.astimezone(UTC)
            if opens is not None:
                assert found == case.begin + opens * MINUTE
            else:
                assert found is None or found >= case.begin + LOOKED_AT * MINUTE


@pytest.mark.parametrize("zone", ZONES)
def test_decisions_are_those_of_a_look_at_every_minute(zone: str, tmp_path: Path) -> None:
    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(cases(zone))
    def look(case: Case) -> None:
        agrees(case, tmp_path)

    look()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("zone", ZONES)
def test_decisions_of_ten_thousand_calendars(zone: str, tmp_path: Path) -> None:
    @settings(max_examples=IN_ALL // len(ZONES), suppress_health_check=list(HealthCheck))
    @given(cases(zone))
    def look(case: Case) -> None:
        agrees(case, tmp_path)

    look()
