"""Grandfather, father, son in the fleet's time zone; what must never go stays."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.snapshots.retention import (
    LAST_GOOD,
    Retained,
    Standing,
    lock_for,
    needed,
    retained,
)
from gpufleet.spec.governance import SnapshotRetention
from gpufleet.spec.snapshots import SnapshotKind, SnapshotSummary

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
NOON_OF_THE_FIRST = datetime(2026, 11, 1, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [UTC, BERLIN, ZoneInfo("Pacific/Auckland"), ZoneInfo("Australia/Lord_Howe")]


def standing(
    created: datetime,
    number: int = 0,
    revision: str = "chat",
    *,
    damaged: bool = False,
    by: str = "",
    kind: SnapshotKind = SnapshotKind.ARTIFACT,
) -> Standing:
    identity = f"{created.astimezone(UTC):%Y%m%dT%H%M%SZ}-{number:08x}"
    summary = SnapshotSummary(identity, created, revision, kind, 1, 1, 1, "0" * 64, "t")
    return Standing(summary, damaged, by)


standings = st.lists(
    st.builds(
        lambda minutes, number, revision, damaged, by: standing(
            NOW - timedelta(minutes=minutes), number, revision, damaged=damaged, by=by
        ),
        st.one_of(st.integers(-300, 3000), st.integers(0, 600_000)),
        st.integers(0, 2**32 - 1),
        st.sampled_from(["chat", "embed"]),
        st.sampled_from([False, False, False, True]),
        st.sampled_from(["", "", "", "", "a restore that runs"]),
    ),
    max_size=30,
    unique_by=lambda one: one.summary.id,
)
policies = st.builds(
    SnapshotRetention, daily=st.integers(1, 8), weekly=st.integers(1, 5), monthly=st.integers(1, 4)
)
zones = st.sampled_from(ZONES)


def oracle(ones: list[Standing], policy: SnapshotRetention, zone: tzinfo) -> set[str]:
    """One snapshot after the other, from the newest on, as a person would with pen and paper."""
    kept = {one.summary.id for one in ones if one.needed_by or one.summary.created > NOW}
    for revision in {one.summary.revision for one in ones}:
        line = [one for one in ones if one.summary.revision == revision]
        line = [one for one in line if one.summary.created <= NOW]
        line.sort(key=lambda one: (one.summary.created, one.summary.id), reverse=True)
        days: list[object] = []
        weeks: list[object] = []
        months: list[object] = []
        good_seen = False
        for one in line:
            if one.damaged:
                if not good_seen:
                    kept.add(one.summary.id)
                continue
            local = one.summary.created.astimezone(zone).date()
            for seen, period, most in (
                (days, local, policy.daily),
                (weeks, local - timedelta(days=local.weekday()), policy.weekly),
                (months, local.replace(day=1), policy.monthly),
            ):
                if period not in seen:
                    seen.append(period)
                    if len(seen) <= most:
                        kept.add(one.summary.id)
            good_seen = True
    return kept


def decided(ones: list[Standing], policy: SnapshotRetention, zone: tzinfo) -> Retained:
    return retained(ones, policy, zone=zone, now=NOW)


@given(standings, policies, zones)
def test_a_plain_count_by_hand_keeps_the_same(
    ones: list[Standing], policy: SnapshotRetention, zone: tzinfo
) -> None:
    found = decided(ones, policy, zone)
    assert set(found.keep) == oracle(ones, policy, zone)
    assert set(found.keep) | set(found.remove) == {one.summary.id for one in ones}
    assert not set(found.keep) & set(found.remove)
    assert all(found.keep.values())


@given(standings, policies, zones)
def test_the_last_good_one_and_what_something_needs_stay(
    ones: list[Standing], policy: SnapshotRetention, zone: tzinfo
) -> None:
    found = decided(ones, policy, zone)
    for one in ones:
        newer = [
            other for other in ones
            if other.summary.revision == one.summary.revision and not other.damaged
            and other.summary.created <= NOW
            and (other.summary.created, other.summary.id) > (one.summary.created, one.summary.id)
        ]  # fmt: skip
        if one.needed_by:
            assert found.keep[one.summary.id] == one.needed_by
        elif not newer:
            assert one.summary.id in found.keep


@given(standings, policies, zones)
def test_a_second_prune_removes_nothing_more(
    ones: list[Standing], policy: SnapshotRetention, zone: tzinfo
) -> None:
    first = decided(ones, policy, zone)
    left = [one for one in ones if one.summary.id in first.keep]
    assert decided(left, policy, zone).remove == ()


def test_a_day_begins_where_the_fleet_is() -> None:
    late = standing(datetime(2026, 11, 24, 22, 30, tzinfo=UTC))
    later = standing(datetime(2026, 11, 24, 23, 30, tzinfo=UTC))
    newest = standing(datetime(2026, 11, 26, 9, tzinfo=UTC))
    policy = SnapshotRetention(daily=3, weekly=1, monthly=1)
    assert decided([late, later, newest], policy, UTC).remove == (late.summary.id,)
    assert decided([late, later, newest], policy, BERLIN).remove == ()


def test_each_kept_one_says_why() -> None:
    ones = [standing(NOW - timedelta(days=days)) for days in (0, 1, 8, 40, 41)]
    policy = SnapshotRetention(daily=2, weekly=2, monthly=2)
    found = decided(ones, policy, BERLIN)
    assert list(found.keep.values()) == [
        "month 2026-10",
        "week 2026-W47",
        "day 2026-11-25",
        LAST_GOOD,
    ]
    assert found.remove == (ones[-1].summary.id,)


def test_a_damaged_newest_one_does_not_push_out_the_last_good_one() -> None:
    good = standing(NOW - timedelta(days=200))
    bad = standing(NOW - timedelta(hours=1), damaged=True)
    policy = SnapshotRetention(daily=1, weekly=1, monthly=1)
    assert decided([good, bad], policy, UTC).remove == ()
    newest = standing(NOW)
    assert bad.summary.id in decided([good, bad, newest], policy, UTC).remove


@pytest.mark.parametrize("zone", ZONES)
def test_nothing_at_all_is_no_error(zone: tzinfo) -> None:
    assert decided([], SnapshotRetention(), zone) == Retained({}, ())


def test_of_protected_sets_those_are_kept_that_are_locked() -> None:
    policy, every = SnapshotRetention(daily=5, weekly=1, monthly=1), timedelta(hours=5)
    locked: dict[str, datetime] = {}
    sets: list[Standing] = []
    for number in range(48):
        at = NOON_OF_THE_FIRST + number * every
        earlier = sets[-1].summary.created if sets else None
        sets.append(standing(at, number, "protected", kind=SnapshotKind.STATE))
        locked[sets[-1].summary.id] = at + lock_for(policy, earlier, at)
    now = sets[-1].summary.created
    kept = retained(sets, policy, zone=UTC, now=now).keep
    assert {each for each, until in locked.items() if until > now} <= set(kept)
    assert kept[sets[-1].summary.id] == LAST_GOOD
    assert len(kept) < 12


def test_of_other_snapshots_the_newest_of_a_day_is_kept() -> None:
    policy = SnapshotRetention(daily=1, weekly=1, monthly=1)
    pair = [standing(NOW - timedelta(hours=hours)) for hours in (3, 2)]
    assert set(retained(pair, policy, zone=UTC, now=NOW).keep) == {pair[1].summary.id}


def test_of_what_a_pool_serves_the_newest_good_snapshot_stays_however_old() -> None:
    def old(days: int, digest: str, *, damaged: bool = False) -> Standing:
        made = standing(NOW - timedelta(days=days), damaged=damaged)
        return made._replace(summary=replace(made.summary, digest=digest))

    policy = SnapshotRetention(daily=1, weekly=1, monthly=1)
    served = {("chat", "sha256:a"): "the weights of model chat", ("embed", "sha256:b"): "another"}
    ones = [
        old(400, "sha256:a"),
        old(390, "sha256:a"),
        old(380, "sha256:a", damaged=True),
        old(370, "sha256:b"),
        old(0, "sha256:c"),
    ]
    found = retained(needed(ones, served), policy, zone=UTC, now=NOW)
    assert list(found.keep) == [ones[1].summary.id, ones[4].summary.id]
    assert found.keep[ones[1].summary.id] == "the weights of model chat"
    assert ones[1].summary.id in retained(ones, policy, zone=UTC, now=NOW).remove
