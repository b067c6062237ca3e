"""When snapshots are taken, and when the newest is too old."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import small_fleet
from tests.watched_fleets import on_clusters

from gpufleet.core import vocabulary as names
from gpufleet.core.snapshots.schedule import Line, cron_of, lines, standing
from gpufleet.spec.checks import problems
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.snapshot_schedule import ScheduledRevision, SnapshotSchedule
from gpufleet.spec.snapshots import SnapshotKind

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAILY = Line("chat", SnapshotKind.ARTIFACT, timedelta(days=1), timedelta(days=2), "/models/chat")


def declared(**revisions: ScheduledRevision) -> Fleet:
    made = SnapshotSchedule(revisions=revisions)
    return small_fleet("east", "west").model_copy(update={"snapshot_schedule": made})


@given(st.integers(60, 40 * 86_400), st.text(max_size=5))
def test_cron_comes_as_often_as_asked_for_and_at_equal_times(every_s: int, name: str) -> None:
    every = timedelta(seconds=every_s)
    cron = croniter(cron_of(every, name), NOON)
    times = [cron.get_next(datetime) for _ in range(30)]
    gaps = {later - earlier for earlier, later in pairwise(times)}
    (gap,) = gaps
    assert gap <= every
    # Never more often than needed: the next longer one that cron knows would be too long.
    assert gap > every / 2 or gap == timedelta(days=1) or gap == timedelta(days=7)


def test_days_and_weeks_are_what_they_are_called() -> None:
    assert cron_of(timedelta(minutes=2.5), "x") == "*/2 * * * *"
    assert cron_of(timedelta(minutes=1), "x") == "* * * * *"
    for days, fields in ((1, 3), (3, 3), (7, 2)):
        assert cron_of(timedelta(days=days), "x").split().count("*") == fields


@given(st.integers(0, 5 * 86_400))
def test_what_is_as_old_as_its_cadence_is_due_and_beyond_its_objective_late(age_s: int) -> None:
    age = timedelta(seconds=age_s)
    stands = standing(DAILY, NOON - age, NOON)
    assert stands.due == (age >= timedelta(days=1))
    assert stands.late == (age > timedelta(days=2))
    assert stands.next_at == max(NOON, NOON - age + timedelta(days=1))
    assert stands.age == age


def test_what_was_never_taken_is_due_and_late() -> None:
    stands = standing(DAILY, None, NOON)
    assert (stands.age, stands.due, stands.late, stands.next_at) == (None, True, True, NOON)


def test_protection_holds_the_tightest_objective_with_one_missed_run() -> None:
    fleet = small_fleet("east")
    (protect,) = lines(fleet)
    assert protect.kind is SnapshotKind.STATE
    assert protect.every * 2 <= max(protect.rpo, timedelta(minutes=2))
    given_ = SnapshotSchedule(protect_every_s=900)
    (slower,) = lines(fleet.model_copy(update={"snapshot_schedule": given_}))
    assert slower.every == timedelta(minutes=15)
    assert slower.rpo == protect.rpo


def test_a_revision_is_daily_and_late_after_two_days_where_nothing_is_said() -> None:
    _, line = lines(declared(chat=ScheduledRevision(source="/models/chat")))
    assert (line.revision, line.every, line.rpo) == ("chat", timedelta(days=1), timedelta(days=2))


@pytest.mark.parametrize(
    ("revision", "said"),
    [
        (ScheduledRevision(source="/m", site="north"), "no site"),
        (ScheduledRevision(source="/m", rpo_s=3600), "below `every_s`"),
    ],
)
def test_a_schedule_that_cannot_hold_is_refused(revision: ScheduledRevision, said: str) -> None:
    (found,) = problems(declared(chat=revision))
    assert said in found.what
    assert found.path[:3] == ("snapshot_schedule", "revisions", "chat")


def test_an_objective_that_no_cadence_can_hold_is_refused() -> None:
    fleet = small_fleet("east")
    (name, case), *_ = fleet.use_cases.items()
    seldom = SnapshotSchedule(protect_every_s=case.rpo_s + 1)
    (found,) = problems(fleet.model_copy(update={"snapshot_schedule": seldom}))
    assert found.path == ("snapshot_schedule", "protect_every_s")
    assert name in found.what
    short = {name: case.model_copy(update={"rpo_s": 59.0})}
    (found,) = problems(fleet.model_copy(update={"use_cases": fleet.use_cases | short}))
    assert found.path == ("use_cases", name, "rpo_s")


def test_on_a_cluster_the_files_have_to_be_in_a_volume() -> None:
    bare, held = ScheduledRevision(source="/m"), ScheduledRevision(source="/m", claim="models")
    assert not list(problems(declared(chat=bare)))
    (found,) = problems(on_clusters(declared(chat=bare)))
    assert "in no volume" in found.what
    assert not list(problems(on_clusters(declared(chat=held))))


@given(st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,58}[a-z0-9])?", fullmatch=True))
def test_a_cron_job_s_name_is_one_that_kubernetes_takes(revision: str) -> None:
    name = names.cron_job_of(revision, protects=False)
    assert len(name) <= 52
    assert name == name.strip("-.")
    assert "." not in name
    assert name != names.cron_job_of(f"{revision}x", protects=False)
