"""Replicas are there before a declared peak, in the words that KEDA's cron has."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st
from icalendar import Calendar, Event, vRecur
from recurring_ical_events import of

from gpufleet.core.capacity.prewarm import CannotSay, CronWindow, cron_windows, lead_s
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.serving import Prewarm

ZONE = ZoneInfo("UTC")


def peak(recurrence: str, *, lead: float = 450, lasts: float = 3600) -> Prewarm:
    return Prewarm(
        name="peak", recurrence=recurrence, lead_s=lead, duration_s=lasts, replicas={"group": 2}
    )


def occurrences(recurrence: str, year: int) -> list[datetime]:
    """When a peak begins in a year, by the library that the calendars are read with."""
    event = Event()
    event.add("dtstart", datetime(2020, 1, 1, tzinfo=ZONE))
    event.add("dtend", datetime(2020, 1, 1, 1, tzinfo=ZONE))
    event.add("rrule", vRecur.from_ical(recurrence + ";UNTIL=20400101T000000Z"))
    calendar = Calendar()
    calendar.add_component(event)
    return [each["DTSTART"].dt for each in of(calendar).between((year, 1, 3), (year, 12, 30))]


def is_open(window: CronWindow, moment: datetime) -> bool:
    """KEDA's own rule: a window is open while its end comes before its next start."""
    ends = croniter(window.end, moment).get_next(datetime)
    return bool(ends < croniter(window.start, moment).get_next(datetime))


RULES = st.one_of(
    st.integers(0, 23).map("FREQ=DAILY;BYHOUR={}".format),
    st.builds(
        "FREQ=WEEKLY;BYDAY={};BYHOUR={};BYMINUTE={}".format,
        st.sampled_from(["MO", "SU,WE", "FR,SA"]),
        st.sampled_from(["0", "8", "7,22"]),
        st.sampled_from(["0", "30"]),
    ),
    st.builds(
        "FREQ=MONTHLY;BYMONTHDAY={};BYHOUR={}".format,
        st.sampled_from(["1", "-1", "-3", "15,31"]),
        st.sampled_from(["0", "9"]),
    ),
    st.just("FREQ=MONTHLY;BYMONTH=3,6,9,12;BYMONTHDAY=-3;BYHOUR=0"),
    st.just("FREQ=YEARLY;BYMONTH=12;BYMONTHDAY=24;BYHOUR=6"),
)


@given(
    rule=RULES,
    year=st.sampled_from([2026, 2028]),
    lead=st.sampled_from([60, 450, 5400]),
    hours=st.sampled_from([1, 5]),
)
def test_the_replicas_run_from_the_lead_to_the_end_of_every_occurrence(
    rule: str, year: int, lead: int, hours: int
) -> None:
    windows = cron_windows(peak(rule, lead=lead, lasts=hours * 3600))
    begun = occurrences(rule, year)
    assert begun
    for start in begun[:60]:
        for moment in (
            start - timedelta(seconds=lead - 1),
            start,
            start + timedelta(hours=hours, seconds=-1),
        ):
            assert any(is_open(window, moment) for window in windows), (rule, moment, windows)


def test_outside_of_the_peak_nothing_is_held() -> None:
    (window,) = cron_windows(peak("FREQ=WEEKLY;BYDAY=MO;BYHOUR=8", lead=600, lasts=7200))
    assert window == CronWindow("50 7 * * 1", "0 10 * * 1")
    assert not is_open(window, datetime(2026, 3, 2, 7, 49, tzinfo=ZONE))
    assert not is_open(window, datetime(2026, 3, 2, 10, 1, tzinfo=ZONE))


def test_the_lead_of_a_peak_at_midnight_begins_the_day_before() -> None:
    (window,) = cron_windows(peak("FREQ=WEEKLY;BYDAY=MO;BYHOUR=0", lead=600))
    assert window.start == "50 23 * * 0"


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=MONTHLY;BYDAY=1MO",
        "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO",
        "FREQ=WEEKLY",
        "FREQ=YEARLY;BYYEARDAY=100",
        "FREQ=MONTHLY;BYDAY=MO,TU;BYSETPOS=-1",
    ],
)
def test_a_rule_that_cron_has_no_words_for_is_said_to_have_none(rule: str) -> None:
    with pytest.raises(CannotSay, match="cron has no words"):
        cron_windows(peak(rule))


def test_a_peak_that_never_ends_is_no_window() -> None:
    with pytest.raises(CannotSay, match="before the last has ended"):
        cron_windows(peak("FREQ=DAILY;BYHOUR=0", lasts=86_400))


def test_the_lead_leaves_room_for_a_restore_and_a_slow_start() -> None:
    for model in load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml").models.values():
        assert lead_s(model) >= 3 * model.load_time_s + model.size_bytes / 1e9 - 1


def test_a_date_that_is_counted_from_the_begin_of_february_lasts_no_day_longer() -> None:
    rule = "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=10"
    (window,) = cron_windows(peak(rule, lead=600, lasts=3600))
    assert window.end == "0 1 10 2 *"


def test_a_peak_of_leap_years_only_cannot_be_said() -> None:
    with pytest.raises(CannotSay, match="leap"):
        cron_windows(peak("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", lead=600, lasts=3600))
