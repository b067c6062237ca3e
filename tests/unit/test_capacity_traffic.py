"""Declared traffic through the year: profile, peaks, time zones, volume."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.capacity.traffic import (
    busiest_hour,
    busiest_usual_rps,
    hourly_rates,
    mean_rates_by_hour,
    monthly_requests,
    rate_at,
)
from gpufleet.spec.recurrences import FIRST_DAY, starts
from gpufleet.spec.serving import Peak, Traffic

OFFICE = [0.0] * 9 + [1.0] * 8 + [0.0] * 7
BERLIN = ZoneInfo("Europe/Berlin")


def peak(recurrence: str, multiplier: float = 3, duration_s: float = 3600) -> Peak:
    return Peak(name="peak", multiplier=multiplier, recurrence=recurrence, duration_s=duration_s)


def test_flat_traffic_gives_its_rate_at_every_second_of_an_average_month() -> None:
    assert monthly_requests(Traffic(rate_rps=2)) == pytest.approx(2 * 365.25 * 86_400 / 12)


def test_the_profile_is_in_local_time_on_both_sides_of_a_clock_change() -> None:
    traffic = Traffic(rate_rps=10, time_zone="Europe/Berlin", hourly=OFFICE)
    for day in (datetime(2026, 1, 15, tzinfo=BERLIN), datetime(2026, 7, 15, tzinfo=BERLIN)):
        assert rate_at(traffic, day.replace(hour=9)) == 10
        assert rate_at(traffic, day.replace(hour=8, minute=59)) == 0
        assert rate_at(traffic, day.replace(hour=17)) == 0
    rates = hourly_rates(traffic, peaks=False)
    begin = datetime(2025, 1, 1, tzinfo=UTC)
    changes = [datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)]
    for change in changes:
        for hour in range(-30, 54):
            moment = change + timedelta(hours=hour)
            index = int((moment - begin) / timedelta(hours=1))
            assert rates[index] == rate_at(traffic, moment)


def test_a_local_hour_that_begins_within_one_of_utc_is_not_lost() -> None:
    busy_at_nine = [0.1] * 9 + [1.0] + [0.1] * 14
    traffic = Traffic(rate_rps=10, time_zone="Asia/Kolkata", hourly=busy_at_nine)
    rates = hourly_rates(traffic, peaks=False)
    # 9:00 to 10:00 in India is 3:30 to 4:30 in UTC.
    assert list(rates[24:48]) == [1.0] * 3 + [10.0] * 2 + [1.0] * 19
    whole = Traffic(rate_rps=10, time_zone="Asia/Tokyo", hourly=busy_at_nine)
    assert sum(hourly_rates(whole, peaks=False)[24:48] == 10) == 1


def test_the_busiest_hour_of_one_use_case_is_where_it_asks_most() -> None:
    day = Traffic(rate_rps=10, hourly=[0.0] * 9 + [1.0] * 8 + [0.0] * 7)
    night = Traffic(rate_rps=1, hourly=[1.0] * 2 + [0.5] * 22)
    assert busiest_hour([day, night], [1, 1], peaks=True).rates_rps == (10, 0.5)
    assert busiest_hour([day, night], [1, 1], peaks=True, of=1).rates_rps == (0, 1)


def test_a_weekday_is_the_local_one() -> None:
    weekly = [0, 0, 0, 0, 0, 0, 1]
    traffic = Traffic(rate_rps=1, time_zone="Pacific/Auckland", weekly=weekly)
    sunday = datetime(2026, 6, 7, tzinfo=ZoneInfo("Pacific/Auckland"))
    assert rate_at(traffic, sunday) == 1
    assert sunday.astimezone(UTC).weekday() == 5
    assert rate_at(traffic, sunday - timedelta(seconds=1)) == 0


def test_a_peak_multiplies_from_its_local_begin_for_its_duration() -> None:
    monday = peak("FREQ=WEEKLY;BYDAY=MO;BYHOUR=8", multiplier=1.6, duration_s=3 * 3600)
    traffic = Traffic(rate_rps=10, time_zone="Europe/Berlin", peaks=[monday])
    begin = datetime(2026, 7, 6, 8, tzinfo=BERLIN)
    assert rate_at(traffic, begin - timedelta(seconds=1)) == 10
    assert rate_at(traffic, begin) == 16
    assert rate_at(traffic, begin + timedelta(hours=3, seconds=-1)) == 16
    assert rate_at(traffic, begin + timedelta(hours=3)) == 10


def test_of_peaks_that_overlap_the_largest_holds() -> None:
    peaks = [peak("FREQ=DAILY;BYHOUR=9", 2), peak("FREQ=WEEKLY;BYDAY=MO;BYHOUR=9", 5)]
    traffic = Traffic(rate_rps=1, peaks=peaks)
    assert rate_at(traffic, datetime(2026, 7, 6, 9, 30, tzinfo=UTC)) == 5
    assert rate_at(traffic, datetime(2026, 7, 7, 9, 30, tzinfo=UTC)) == 2


def test_a_peak_adds_what_it_multiplies_to_the_monthly_volume() -> None:
    plain = Traffic(rate_rps=2)
    half_an_hour = peak("FREQ=DAILY;BYHOUR=9;BYMINUTE=15", multiplier=3, duration_s=1800)
    peaky = Traffic(rate_rps=2, peaks=[half_an_hour])
    days = 365.25 / 12
    added = monthly_requests(peaky) - monthly_requests(plain)
    assert added == pytest.approx(days * 1800 * 2 * (3 - 1))


def test_the_busiest_hour_sees_peaks_of_two_use_cases_fall_together() -> None:
    first = Traffic(rate_rps=10, peaks=[peak("FREQ=WEEKLY;BYDAY=MO;BYHOUR=8", 2)])
    second = Traffic(rate_rps=1, peaks=[peak("FREQ=MONTHLY;BYMONTHDAY=-3", 4, 3 * 86_400)])
    busiest = busiest_hour([first, second], [1, 1], peaks=True)
    assert busiest.rates_rps == (20, 4)
    assert busiest.peaks == ("peak", "peak")
    for traffic, rate in zip((first, second), busiest.rates_rps, strict=True):
        assert rate_at(traffic, busiest.begin) == rate
    assert busiest_hour([first, second], [1, 1], peaks=False).rates_rps == (10, 1)


def test_a_peak_in_a_quiet_hour_does_not_make_it_the_busiest() -> None:
    traffic = Traffic(rate_rps=10, hourly=OFFICE, peaks=[peak("FREQ=DAILY;BYHOUR=3", 5)])
    busiest = busiest_hour([traffic], [1], peaks=True)
    assert busiest.rates_rps == (10,)
    assert busiest.peaks == ("",)


@given(
    hourly=st.lists(st.floats(0, 2), min_size=24, max_size=24),
    weekly=st.lists(st.floats(0, 2), min_size=7, max_size=7),
)
def test_usual_rates_stay_below_the_busiest_and_average_to_the_hours(
    hourly: list[float], weekly: list[float]
) -> None:
    traffic = Traffic(rate_rps=5, hourly=hourly, weekly=weekly)
    assert hourly_rates(traffic, peaks=False).max() <= busiest_usual_rps(traffic)
    mean = mean_rates_by_hour(traffic).mean()
    usual = 5 * (sum(hourly) / 24) * (sum(weekly) / 7)
    assert mean == pytest.approx(usual)


def test_a_rule_that_never_happens_is_known_for_one_at_once() -> None:
    end = FIRST_DAY.replace(year=2030)
    assert starts("FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", FIRST_DAY, end) == []
    leap = starts("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", FIRST_DAY, end)
    assert [day.year for day in leap] == [2024, 2028]


@pytest.mark.parametrize("rule", ["FREQ=WEEKLY;BYDAY=XX", "FREQ=DAILY;BYHOUR=25", "FREQ=SOON"])
def test_a_rule_that_no_calendar_knows_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="is not a recurrence rule"):
        starts(rule, FIRST_DAY, FIRST_DAY.replace(year=2025))
