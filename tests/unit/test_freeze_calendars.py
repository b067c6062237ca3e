"""Calendars that could hide a freeze are never trusted, and clock changes shift no window."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpufleet.core.freeze import decide, refusal
from gpufleet.edges.calendars import read_calendar
from gpufleet.spec.governance import FreezeCalendar
from gpufleet.spec.windows import HORIZON, Calendar, Window

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = "DTSTART:20260610T000000Z\nDTEND:20260611T000000Z"


def ics(event: str = DAY, *, head: str = "", stamp: str = "DTSTAMP:20260501T000000Z") -> bytes:
    """A calendar of one event; a line may end in LF here, as some tools write it."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//test//EN", head, "BEGIN:VEVENT"]
    lines += ["UID:1@test", stamp, "SUMMARY:Audit", event, "END:VEVENT", "END:VCALENDAR", ""]
    return "\r\n".join(line for line in lines if line).encode()


def read(folder: Path, content: bytes, now: datetime = NOW, stale_after_s: float = 1e8) -> Calendar:
    file = folder / "company.ics"
    file.write_bytes(content)
    return read_calendar(
        "company", FreezeCalendar(file=file.name, stale_after_s=stale_after_s), file, now
    )


def test_the_calendar_that_the_broken_ones_differ_from_is_trusted(tmp_path: Path) -> None:
    found = read(tmp_path, ics())
    assert found.problem == ""
    assert [window.name for window in found.windows] == ["Audit"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (ics("DTSTART:2026-06-10\nDTEND:20260611T000000Z"), "DTSTART"),
        (ics(f"{DAY}\nRRULE:FREQ=SOMETIMES"), "RRULE"),
        (ics(f"{DAY}\nRRULE:nonsense"), "RRULE"),
        (ics(f"{DAY}\nRRULE:FREQ=DAILY\nEXDATE:never"), "EXDATE"),
        (ics(f"{DAY}\nRRULE:FREQ=SECONDLY"), "more than daily"),
        (ics(f"{DAY}\nRRULE:FREQ=DAILY;BYMINUTE=1,2,3"), "more than daily"),
        (ics("DTSTART:20260610T000000Z"), "does not end"),
        (ics("DTSTART:20260611T000000Z\nDTEND:20260610T000000Z"), "does not end"),
        (ics("DTEND:20260610T000000Z"), "not a valid"),
        (ics("DTSTART;TZID=Mars/Base:20260610T000000\nDTEND:20260611T000000Z"), "Mars/Base"),
        (ics(head="X-WR-TIMEZONE:Mars/Base"), "not a valid"),
        (ics(stamp="DTSTAMP:yesterday"), "DTSTAMP"),
        (ics(stamp="CLASS:PUBLIC"), "age is unknown"),
        (ics(stamp="DTSTAMP:22600101T000000Z"), "in the future"),
        (ics()[:-20], "not a valid"),
        (ics() + ics(), "not a valid"),
        (ics()[ics().index(b"BEGIN:VEVENT") : -len(b"END:VCALENDAR\r\n")], "no VCALENDAR"),
        (b"<html>please log in</html>", "not a valid"),
        (b" " * (4 * 2**20 + 1), "larger than 4 MiB"),
    ],
)
def test_what_could_hide_a_freeze_counts_as_one(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    found = read(tmp_path, content)
    assert reason in found.problem
    assert found.problem.startswith(str(tmp_path / "company.ics"))
    decision = decide([found], NOW)
    assert not decision.admitted
    assert "mend or declare the calendar" in refusal("fra1", decision).mend


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from(ics().splitlines()), max_size=12).map(b"\r\n".join)
)
def test_no_content_of_a_calendar_raises(tmp_path: Path, content: bytes) -> None:
    found = read(tmp_path, content)
    assert found.problem or all(window.end > NOW for window in found.windows)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "company.ics"
    os.mkfifo(pipe)
    declared = FreezeCalendar(file=pipe.name, stale_after_s=1e8)
    assert "not a regular file" in read_calendar("company", declared, pipe, NOW).problem


def test_a_newly_published_zone_does_not_make_an_old_calendar_fresh(tmp_path: Path) -> None:
    zone = (
        "BEGIN:VTIMEZONE\r\nTZID:Own\r\nLAST-MODIFIED:20260531T000000Z\r\nBEGIN:STANDARD\r\n"
        "DTSTART:19700101T000000\r\nTZOFFSETFROM:+0100\r\nTZOFFSETTO:+0100\r\nEND:STANDARD\r\n"
        "END:VTIMEZONE"
    )
    assert read(tmp_path, ics(head=zone)).problem == ""
    found = read(tmp_path, ics(head=zone), stale_after_s=86400)
    assert "stale" in found.problem


def test_a_cancelled_occurrence_opens_its_day_and_no_other(tmp_path: Path) -> None:
    event = f"{DAY}\nRRULE:FREQ=DAILY;COUNT=3\nEND:VEVENT\nBEGIN:VEVENT\nUID:1@test"
    event += "\nDTSTAMP:20260501T000000Z\nRECURRENCE-ID:20260611T000000Z\nSTATUS:Cancelled"
    event += "\nDTSTART:20260611T000000Z\nDTEND:20260612T000000Z"
    found = read(tmp_path, ics(event))
    days = {day: decide([found], NOW.replace(day=day, hour=12)).admitted for day in range(9, 14)}
    assert days == {9: True, 10: False, 11: True, 12: False, 13: True}


def test_a_summary_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    found = read(tmp_path, ics().replace(b"SUMMARY:Audit", b"SUMMARY:\x1b[2JAudit\\nweek"))
    assert [window.name for window in found.windows] == ["[2JAudit week"]


@pytest.mark.parametrize(
    ("day", "hours"),
    [("20260328", 7), ("20260329", 8), ("20261024", 9), ("20261025", 8)],
)
def test_a_night_window_ends_at_its_local_time_when_clocks_change(
    tmp_path: Path, day: str, hours: int
) -> None:
    # 22:00 to 06:00 in Berlin; the clocks change in the nights to 2026-03-29 and 2026-10-25.
    event = (
        "DTSTART;TZID=Europe/Berlin:20260101T220000\n"
        "DTEND;TZID=Europe/Berlin:20260102T060000\nRRULE:FREQ=DAILY"
    )
    now = datetime.strptime(f"{day}T2130", "%Y%m%dT%H%M").replace(tzinfo=BERLIN).astimezone(UTC)
    window = read(tmp_path, ics(event, stamp="DTSTAMP:20260101T000000Z"), now).windows[0]
    assert window.start.astimezone(UTC) == now + timedelta(minutes=30)
    assert window.end.astimezone(UTC) - window.start.astimezone(UTC) == timedelta(hours=hours)
    assert window.end.astimezone(BERLIN).hour == 6


@given(
    minutes=st.integers(-600, 600),
    start=st.integers(-600, 600),
    length=st.integers(1, 600),
    needs=st.integers(0, 300),
    change=st.sampled_from(["2026-03-29T01:00+00:00", "2026-10-25T01:00+00:00"]),
)
def test_around_a_clock_change_local_windows_decide_like_the_same_windows_in_utc(
    minutes: int, start: int, length: int, needs: int, change: str
) -> None:
    origin = datetime.fromisoformat(change)
    begin = origin + timedelta(minutes=start)
    ends = [begin, begin + timedelta(minutes=length)]
    now = origin + timedelta(minutes=minutes)
    answers = [
        decide(
            [Calendar("company", (Window("w", *(end.astimezone(zone) for end in ends)),))],
            now.astimezone(zone),
            needs=timedelta(minutes=needs),
        )
        for zone in (UTC, BERLIN)
    ]
    assert answers[0].admitted is answers[1].admitted
    opens = [answer.opens and answer.opens.astimezone(UTC) for answer in answers]
    assert opens[0] == opens[1]


def test_adjacent_windows_of_several_calendars_open_after_the_last(tmp_path: Path) -> None:
    first = read(tmp_path, ics())
    second = read(tmp_path, ics("DTSTART;VALUE=DATE:20260611\nDTEND;VALUE=DATE:20260613"))
    decision = decide([first, second], NOW.replace(day=10, hour=5))
    assert decision.opens == NOW.replace(day=13)


def test_a_change_that_needs_long_waits_for_a_gap_that_is_long_enough(tmp_path: Path) -> None:
    found = read(tmp_path, ics(f"{DAY}\nRRULE:FREQ=DAILY;INTERVAL=2;COUNT=3"))
    evening = NOW.replace(day=9, hour=20)
    short, long = (decide([found], evening, needs=timedelta(hours=h)) for h in (4, 30))
    assert short.admitted
    assert "before freeze" in long.reason
    assert long.opens == NOW.replace(day=15)


def test_no_opening_is_promised_beyond_what_was_read(tmp_path: Path) -> None:
    now = NOW.replace(day=20)
    decision = decide([read(tmp_path, ics(f"{DAY}\nRRULE:FREQ=DAILY"), now)], now)
    assert not decision.admitted
    assert decision.opens is None
    assert f"no opening is known within {HORIZON.days} days" in refusal("fra1", decision).mend
