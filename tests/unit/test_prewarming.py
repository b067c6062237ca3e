"""Declared peaks as dates, through changes of the clocks, and which replicas count as warm."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from icalendar import Calendar, Event, vRecur
from recurring_ical_events import of

from gpufleet.core import vocabulary as names
from gpufleet.core.capacity.prewarm import cron_windows
from gpufleet.core.prewarming import (
    VERIFY_LOADS,
    occurrences,
    prewarmed_images,
    ready_replicas,
    warnings,
    windows,
)
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.flows.prewarm_schedule import schedule
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.serving import Prewarm
from gpufleet.tasks.prewarm_view import bar

FLEET = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
LEAD_S = 521.0


def pool(name: str = "chat", site: str = "fra1") -> PoolAtSite:
    return next(each for each in pools_at(FLEET, site) if each.name == name)


def peak(
    recurrence: str, zone: str = "Europe/Berlin", *, lasts_s: float = 3600, lead_s: float = LEAD_S
) -> Prewarm:
    return Prewarm(
        name="peak",
        recurrence=recurrence,
        time_zone=zone,
        lead_s=lead_s,
        duration_s=lasts_s,
        replicas={"fra1-chat": 12},
    )


def fleet_with(*peaks: Prewarm, name: str = "chat") -> Fleet:
    changed = FLEET.pools[name].model_copy(update={"prewarm": list(peaks)})
    return FLEET.model_copy(update={"pools": {**FLEET.pools, name: changed}})


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


RULES = st.sampled_from(
    [
        "FREQ=DAILY;BYHOUR=8",
        "FREQ=DAILY;BYHOUR=2;BYMINUTE=30",
        "FREQ=WEEKLY;BYDAY=MO,TH;BYHOUR=9",
        "FREQ=MONTHLY;BYMONTHDAY=-3",
        "FREQ=MONTHLY;BYMONTH=3,6,9,12;BYMONTHDAY=-3",
        "FREQ=YEARLY;BYMONTH=12;BYMONTHDAY=24;BYHOUR=6",
    ]
)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])


@given(
    rule=RULES,
    zone=ZONES,
    begin=st.datetimes(datetime(2026, 1, 1), datetime(2029, 1, 1)),  # noqa: DTZ001 - in UTC below
    days=st.integers(1, 120),
)
def test_windows_open_when_the_calendar_says(
    rule: str, zone: str, begin: datetime, days: int
) -> None:
    """The same as the library that freeze calendars are read with, at every time of the year."""
    first = begin.replace(tzinfo=UTC)
    last = first + timedelta(days=days)
    found = occurrences(pool(), peak(rule, zone, lasts_s=1), first, last)
    event = Event()
    event.add("dtstart", datetime(2024, 1, 1, tzinfo=ZoneInfo(zone)))
    event.add("rrule", vRecur.from_ical(rule + ";UNTIL=20400101T000000Z"))
    calendar = Calendar()
    calendar.add_component(event)
    expected = sorted(
        each["DTSTART"].dt.astimezone(UTC)
        for each in of(calendar).between(first - timedelta(days=2), last + timedelta(days=2))
    )
    inside = [each for each in expected if first - timedelta(seconds=1) < each < last]
    assert [each.opens_at for each in found] == inside


@given(rule=RULES, zone=ZONES, year=st.sampled_from([2026, 2028]))
def test_a_window_starts_a_lead_before_it_opens_and_is_verified_in_between(
    rule: str, zone: str, year: int
) -> None:
    begin = datetime(year, 1, 1, tzinfo=UTC)
    for each in occurrences(pool(), peak(rule, zone), begin, begin + timedelta(days=366)):
        assert each.starts_at is not None
        lead_s = (each.opens_at - each.starts_at).total_seconds()
        row = each.row()
        # cron has whole minutes, and rounds down: earlier.
        assert lead_s + row.short_s >= LEAD_S
        assert each.starts_at <= each.opens_at < each.closes_at
        assert each.verify_at < each.opens_at
        in_time_s = (each.opens_at - each.verify_at).total_seconds()
        assert in_time_s == VERIFY_LOADS * pool().model.load_time_s
        if not row.short_s:
            assert each.warm_at is not None
            assert each.warm_at <= each.verify_at


def test_the_hour_that_the_clocks_leave_out_and_the_one_that_comes_twice() -> None:
    found = occurrences(
        pool(), peak("FREQ=DAILY;BYHOUR=8"), utc("2026-03-28T00:00"), utc("2026-03-31T00:00")
    )
    assert [each.opens_at for each in found] == [
        utc("2026-03-28T07:00"),
        utc("2026-03-29T06:00"),
        utc("2026-03-30T06:00"),
    ]
    # Clocks go from 02:00 to 03:00 between start and opening: an hour of the lead is lost.
    lost = occurrences(
        pool(),
        peak("FREQ=DAILY;BYHOUR=3;BYMINUTE=10", lead_s=4500),
        utc("2026-03-29T00:00"),
        utc("2026-03-29T12:00"),
    )[0].row()
    assert lost.short_s == 3600
    # And from 03:00 to 02:00: the lead is an hour longer.
    longer = occurrences(
        pool(),
        peak("FREQ=DAILY;BYHOUR=3;BYMINUTE=10", lead_s=4500),
        utc("2026-10-25T00:00"),
        utc("2026-10-25T12:00"),
    )[0]
    assert longer.starts_at == utc("2026-10-24T23:55")
    assert longer.row().short_s == 0
    # A start at a time that the clocks leave out: KEDA has had the window open since its last end.
    gap = occurrences(
        pool(),
        peak("FREQ=DAILY;BYHOUR=3"),
        utc("2026-03-29T00:00"),
        utc("2026-03-29T12:00"),
    )[0].row()
    assert gap.short_s < 60


def keda_is_active(start: str, end: str, zone: ZoneInfo, now: datetime) -> bool:
    """As KEDA's cron scaler decides: of the next start and the next end, which exist."""

    def following(minute_hour: str) -> datetime:
        minute, hour = (int(each) for each in minute_hour.split()[:2])
        moment = now.replace(second=0)
        while True:
            moment += timedelta(minutes=1)
            local = moment.astimezone(zone)
            if (local.hour, local.minute) == (hour, minute):
                return moment

    next_start, next_end = following(start), following(end)
    if next_start < next_end and now < next_start:
        return False
    return now <= next_end


def test_a_window_whose_end_the_clocks_leave_out_is_not_started_and_told() -> None:
    """Ends at 02:30, which there is not on 29 March 2026 in Berlin."""
    night = peak("FREQ=DAILY;BYHOUR=1;BYMINUTE=30")
    begin, end = utc("2026-03-28T00:00"), utc("2026-03-30T12:00")
    found = occurrences(pool(), night, begin, end)
    (cron,) = cron_windows(night)
    zone = ZoneInfo(night.time_zone)
    assert [each.starts_at is not None for each in found] == [
        keda_is_active(cron.start, cron.end, zone, each.opens_at + timedelta(minutes=5))
        for each in found
    ]
    assert [each.starts_at is None for each in found] == [False, True, False]
    (told,) = warnings(found, fleet_with(night))
    assert "2026-03-29T00:30:00Z" in told
    assert "let it end an hour later" in told


def test_a_window_that_is_open_is_seen_until_it_closes() -> None:
    fleet = fleet_with(peak("FREQ=MONTHLY;BYMONTH=12;BYMONTHDAY=-3", lasts_s=3 * 86_400))
    (open_,) = windows(fleet, utc("2026-12-30T10:00"), utc("2026-12-30T11:00"))
    assert open_.opens_at == utc("2026-12-28T23:00")
    assert open_.is_due(utc("2026-12-30T10:00"))
    assert not open_.is_due(open_.closes_at)
    assert not open_.is_due(open_.verify_at - timedelta(seconds=1))
    assert open_.is_due(open_.verify_at)
    assert windows(fleet, open_.closes_at, open_.closes_at + timedelta(days=1)) == []


def test_a_peak_that_cron_has_no_words_for_is_told() -> None:
    fleet = fleet_with(peak("FREQ=MONTHLY;BYDAY=1MO"))
    found = windows(fleet, utc("2026-11-26T00:00"), utc("2027-01-01T00:00"))
    assert found
    assert found[0].starts_at is None
    assert any("cron has no words" in each for each in warnings(found, fleet))


def test_a_pool_without_an_autoscaler_is_told() -> None:
    legal = fleet_with(peak("FREQ=DAILY;BYHOUR=8"))
    placement = (
        legal.pools["chat"].placements["fra1-chat"].model_copy(update={"max_replicas": None})
    )
    fixed = legal.pools["chat"].model_copy(update={"placements": {"fra1-chat": placement}})
    fleet = legal.model_copy(update={"pools": {**legal.pools, "chat": fixed}})
    assert any("no autoscaler" in each for each in warnings([], fleet))
    assert warnings([], legal) == []


def test_images_of_prewarmed_pools_are_named_once() -> None:
    fleet = fleet_with(peak("FREQ=DAILY;BYHOUR=8"))
    assert prewarmed_images(fleet) == [FLEET.models["llama-3.3-70b"].engine.image]
    assert prewarmed_images(FLEET) == []


def pod(
    name: str, *, ready: bool = True, digest: str | None = None, group: str = "", index: str = ""
) -> dict[str, Any]:
    labels = {names.POOL: "chat"}
    if index:
        labels |= {
            "leaderworkerset.sigs.k8s.io/group-index": group,
            names.WORKER_INDEX: index,
        }
    return {
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {names.REVISION_DIGEST: digest or pool().model.digest},
        },
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def test_only_ready_pods_of_the_declared_revision_count() -> None:
    going = pod("going")
    going["metadata"]["deletionTimestamp"] = "2026-11-26T00:00:00Z"
    bare = pod("bare")
    del bare["metadata"]["annotations"]
    pods = [pod("good"), pod("cold", ready=False), pod("old", digest="sha256:0"), going, bare]
    assert [each["metadata"]["name"] for each in ready_replicas(pool(), pods)] == ["good"]


def test_a_replica_over_several_nodes_counts_once_and_whole() -> None:
    spread = replace(pool(), nodes_per_replica=2)
    pods = [
        pod("a-0", group="0", index="0"),
        pod("a-1", group="0", index="1"),
        pod("b-0", group="1", index="0"),
        pod("b-1", group="1", index="1", ready=False),
    ]
    assert [each["metadata"]["name"] for each in ready_replicas(spread, pods)] == ["a-0"]


def test_the_schedule_tells_every_window_of_its_days() -> None:
    fleet = fleet_with(peak("FREQ=WEEKLY;BYDAY=MO;BYHOUR=8"))
    found = schedule(fleet, utc("2026-11-26T00:00"), days="14")
    assert [each.opens_at for each in found.windows] == [
        "2026-11-30T07:00:00Z",
        "2026-12-07T07:00:00Z",
    ]
    assert found.windows[0].starts_at == "2026-11-30T06:51:00Z"
    assert schedule(fleet, utc("2026-11-26T00:00"), days="14", site="dub1").windows == []
    picture = bar(found.windows[0])
    assert picture.index("▒") < picture.index("▓") < picture.index("v") < picture.index("█")


@pytest.mark.parametrize("days", ["0", "-1", "x", "1.5", "1000", "٣"])
def test_days_that_are_none_are_refused(days: str) -> None:
    with pytest.raises(BadInput, match="--days"):
        schedule(FLEET, utc("2026-11-26T00:00"), days=days)


def test_a_pool_or_site_that_is_none_names_those_that_are() -> None:
    with pytest.raises(BadInput, match="chat"):
        schedule(FLEET, utc("2026-11-26T00:00"), pool="chta")
    with pytest.raises(BadInput, match="fra1"):
        schedule(FLEET, utc("2026-11-26T00:00"), site="fra9")
