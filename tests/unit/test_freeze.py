"""When nothing may change: decisions over windows, and the calendars they come from."""

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.freeze import EXEMPT, Purpose, decide, merged, refusal
from gpufleet.edges.calendars import read_calendar, read_calendars
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.governance import FreezeCalendar
from gpufleet.spec.windows import Calendar, Window

BERLIN = ZoneInfo("Europe/Berlin")
START = datetime(2026, 1, 1, tzinfo=UTC)
MOMENTS = st.integers(0, 2000).map(lambda hours: START + timedelta(hours=hours))
WINDOWS = st.lists(
    st.builds(
        lambda start, hours: Window("w", start, start + timedelta(hours=hours)),
        MOMENTS,
        st.integers(0, 200),
    ),
    max_size=8,
)


def calendar(*windows: Window) -> list[Calendar]:
    return [Calendar("company", tuple(windows))]


def at(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


@given(windows=WINDOWS, now=MOMENTS)
def test_a_moment_is_refused_exactly_when_a_window_holds_it(
    windows: list[Window], now: datetime
) -> None:
    held = any(window.start <= now < window.end for window in windows)
    assert decide(calendar(*windows), now).admitted is not held


@given(windows=WINDOWS, now=MOMENTS, hours=st.integers(0, 100))
def test_the_opening_that_is_named_is_one(windows: list[Window], now: datetime, hours: int) -> None:
    needs = timedelta(hours=hours)
    decision = decide(calendar(*windows), now, needs=needs)
    if not decision.admitted:
        assert decision.opens is not None
        assert decision.opens > now
        assert decide(calendar(*windows), decision.opens, needs=needs).admitted


@given(windows=WINDOWS, now=MOMENTS, hours=st.integers(1, 100))
def test_what_is_admitted_ends_before_the_next_window(
    windows: list[Window], now: datetime, hours: int
) -> None:
    needs = timedelta(hours=hours)
    if decide(calendar(*windows), now, needs=needs).admitted:
        assert not any(
            window.start < now + needs and window.end > now and window.end > window.start
            for window in windows
        )


@given(WINDOWS)
def test_merging_keeps_every_frozen_moment_and_adds_none(windows: list[Window]) -> None:
    blocks = merged(windows)
    for window in windows:
        for moment in (window.start, window.start + (window.end - window.start) / 2):
            if window.start < window.end:
                assert any(block.start <= moment < block.end for block in blocks)
    for first, second in itertools.pairwise(blocks):
        assert first.end < second.start


@pytest.mark.parametrize("purpose", sorted(EXEMPT))
def test_what_heals_goes_on_in_a_freeze_and_is_marked(purpose: Purpose) -> None:
    window = Window("w", START, START + timedelta(days=1))
    decision = decide(calendar(window), START, purpose=purpose)
    assert decision.admitted
    assert decision.exempt


def test_deny_beats_allow_one_frozen_calendar_is_enough() -> None:
    window = Window("w", START, START + timedelta(days=1))
    calendars = [Calendar("open"), Calendar("frozen", (window,))]
    assert not decide(calendars, START).admitted


def test_what_cannot_be_known_counts_as_frozen_even_outside_every_window() -> None:
    assert not decide([Calendar("company", problem="lost")], START).admitted
    assert not decide([], START).admitted
    assert decide([], START, required=False).admitted


def test_a_refusal_names_window_and_opening() -> None:
    window = Window("Quarter end", at("2026-03-29"), at("2026-04-02"))
    error = refusal("fra1", decide(calendar(window), at("2026-03-30")))
    assert error.exit_code == 3
    assert "Quarter end" in str(error)
    assert "2026-04-02 00:00 CEST" in str(error)


def ics(tmp_path: Path, *events: str, head: str = "", stamp: str = "20260101T000000Z") -> Path:
    body = "".join(
        f"BEGIN:VEVENT\r\nUID:{index}@test\r\nDTSTAMP:{stamp}\r\nSUMMARY:freeze {index}\r\n"
        f"{event}\r\nEND:VEVENT\r\n"
        for index, event in enumerate(events)
    )
    file = tmp_path / "test.ics"
    file.write_text(
        f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\n{head}{body}END:VCALENDAR\r\n"
    )
    return file


def read(file: Path, now: datetime, stale_after_s: float = 1e9) -> Calendar:
    declared = FreezeCalendar(file=file.name, stale_after_s=stale_after_s)
    return read_calendar("test", declared, file, now)


def frozen(file: Path, text: str, zone: ZoneInfo = BERLIN) -> bool:
    now = at(text, zone)
    found = read(file, now)
    assert found.problem == ""
    return not decide([found], now).admitted


def test_a_window_over_midnight_belongs_to_the_weekday_it_starts_on(tmp_path: Path) -> None:
    # Fridays 22:00 to Saturdays 04:00.
    file = ics(
        tmp_path,
        "DTSTART;TZID=Europe/Berlin:20260102T220000\r\nDTEND;TZID=Europe/Berlin:20260103T040000"
        "\r\nRRULE:FREQ=WEEKLY;BYDAY=FR",
    )
    assert frozen(file, "2026-06-05T23:00")
    assert frozen(file, "2026-06-06T03:59")
    assert not frozen(file, "2026-06-06T04:00")
    assert not frozen(file, "2026-06-06T23:00")
    assert not frozen(file, "2026-06-05T03:00")


def test_a_recurring_window_keeps_its_local_time_over_a_clock_change(tmp_path: Path) -> None:
    file = ics(
        tmp_path,
        "DTSTART;TZID=Europe/Berlin:20260101T220000\r\nDTEND;TZID=Europe/Berlin:20260101T230000"
        "\r\nRRULE:FREQ=DAILY",
    )
    for day in ("2026-03-28", "2026-03-29", "2026-03-30", "2026-10-24", "2026-10-25"):
        assert frozen(file, f"{day}T22:30")
        assert not frozen(file, f"{day}T21:30")
        assert not frozen(file, f"{day}T23:30")


def test_all_day_windows_are_days_of_the_calendars_zone(tmp_path: Path) -> None:
    day = "DTSTART;VALUE=DATE:20260628\r\nDTEND;VALUE=DATE:20260702"
    file = ics(tmp_path, day, head="X-WR-TIMEZONE:Europe/Berlin\r\n")
    assert not frozen(file, "2026-06-27T23:59")
    assert frozen(file, "2026-06-28T00:00")
    assert frozen(file, "2026-07-01T23:59")
    assert not frozen(file, "2026-07-02T00:00")


def test_a_long_window_that_began_months_ago_still_holds(tmp_path: Path) -> None:
    file = ics(tmp_path, "DTSTART:20260101T000000Z\r\nDTEND:20261231T000000Z")
    assert frozen(file, "2026-11-24T12:00")


def test_a_cancelled_event_does_not_freeze(tmp_path: Path) -> None:
    event = "DTSTART:20260101T000000Z\r\nDTEND:20261231T000000Z\r\nSTATUS:CANCELLED"
    assert not frozen(ics(tmp_path, event), "2026-06-01T12:00")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff\xfe", b"not a calendar", b"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nDTSTART:x"],
)
def test_a_calendar_that_is_none_has_a_problem_and_never_raises(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "test.ics"
    file.write_bytes(content)
    assert read(file, START).problem


def test_a_lost_calendar_or_a_folder_has_a_problem(tmp_path: Path) -> None:
    assert "cannot be read" in read(tmp_path / "lost.ics", START).problem
    (tmp_path / "folder.ics").mkdir()
    assert read(tmp_path / "folder.ics", START).problem


def test_a_stale_calendar_has_a_problem(tmp_path: Path) -> None:
    file = ics(tmp_path, "DTSTART:20260101T000000Z\r\nDTEND:20260102T000000Z")
    fresh = datetime(2026, 1, 31, tzinfo=UTC)
    assert read(file, fresh, stale_after_s=40 * 86400).problem == ""
    assert "stale" in read(file, fresh + timedelta(days=20), stale_after_s=40 * 86400).problem


def test_a_calendar_holds_for_its_sites_only() -> None:
    file = PROJECT_ROOT / "fleets/sample/production.yaml"
    fleet = load_fleet(file)
    names = {
        site: [calendar.name for calendar in read_calendars(fleet, file, site, START)]
        for site in fleet.sites
    }
    assert names == {"fra1": ["company"], "dub1": ["company", "dublin"]}


def test_the_samples_quarter_end_is_frozen_and_an_ordinary_day_is_not() -> None:
    file = PROJECT_ROOT / "fleets/sample/production.yaml"
    fleet = load_fleet(file)
    for text, admitted in {"2026-11-24T12:00": True, "2027-03-30T12:00": False}.items():
        now = at(text)
        assert decide(read_calendars(fleet, file, "fra1", now), now).admitted is admitted
