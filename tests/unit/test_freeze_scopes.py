"""What a window holds for: sites, pools, kinds of change; and windows that alone admit a change."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from gpufleet.core.freeze import Cause, Subject, decide, merged, next_openings, refusal, subject_of
from gpufleet.core.maintenance import cadence_calendars
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.flows.windows import decision_at
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.freeze_scope import parse_scope
from gpufleet.spec.governance import PatchCadence, PatchTarget
from gpufleet.spec.windows import (
    EVERYTHING,
    Calendar,
    ChangeKind,
    Opening,
    Scope,
    Window,
    WindowKind,
)

NOW = datetime(2026, 6, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BERLIN = ZoneInfo("Europe/Berlin")
CHAT = Subject("production", "fra1", ("chat",), ChangeKind.DRIVER)
FILE = PROJECT_ROOT / "fleets" / "sample" / "production.yaml"
OPEN = Calendar("open")


def scope(text: str) -> Scope:
    return parse_scope(text).scope


def frozen(text: str) -> Calendar:
    return Calendar("company", (Window("w", NOW - HOUR, NOW + HOUR, scope=scope(text)),))


def maintained(*hours: tuple[int, int], text: str = "") -> Calendar:
    """Maintenance windows from and to so many hours from now."""
    windows = (
        Window(f"window {n}", NOW + start * HOUR, NOW + end * HOUR, kind=WindowKind.MAINTENANCE)
        for n, (start, end) in enumerate(hours)
    )
    return Calendar("nights", tuple(windows), scope=scope(text), maintained=(EVERYTHING,))


@pytest.fixture(scope="module")
def sample() -> Fleet:
    return load_fleet(FILE)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("site=fra1", True),
        ("site=dub1", False),
        ("pool=chat,mail", True),
        ("pool=mail", False),
        ("change=driver,firmware", True),
        ("change=stacks", False),
        ("environment=production", True),
        ("environment=staging", False),
        ("site=fra1;pool=chat;change=driver", True),
        ("site=fra1;pool=mail;change=driver", False),
    ],
)
def test_a_window_holds_for_its_scope_and_for_nothing_else(text: str, *, holds: bool) -> None:
    assert decide([frozen(text)], NOW, subject=CHAT).admitted is not holds
    whole = Calendar("c", (Window("w", NOW - HOUR, NOW + HOUR),), scope=scope(text))
    assert decide([whole], NOW, subject=CHAT).admitted is not holds


@pytest.mark.parametrize("text", ["site=dub1", "pool=mail", "environment=staging"])
def test_what_does_not_say_what_it_touches_is_held_by_every_window(text: str) -> None:
    assert not decide([frozen(text)], NOW).admitted


def test_a_change_of_several_pools_is_held_by_the_freeze_of_one() -> None:
    both = Subject("production", "fra1", ("chat", "mail"), ChangeKind.DRIVER)
    assert not decide([frozen("pool=mail")], NOW, subject=both).admitted


def test_a_calendar_that_is_not_trusted_freezes_its_scope_alone() -> None:
    lost = Calendar("lost", problem="lost", scope=scope("pool=mail"))
    found = decide([OPEN, lost], NOW, subject=CHAT)
    assert found.admitted
    mail = Subject("production", "fra1", ("mail",), ChangeKind.DRIVER)
    assert decide([OPEN, lost], NOW, subject=mail).cause is Cause.UNTRUSTED


def test_outside_of_maintenance_windows_a_change_waits_for_the_next() -> None:
    found = decide([maintained((-9, -8), (3, 5), (27, 29))], NOW, subject=CHAT)
    assert not found.admitted
    assert found.cause is Cause.MAINTENANCE
    assert "outside of the maintenance windows of driver changes" in found.reason
    assert found.opens == NOW + 3 * HOUR
    assert found.window
    assert found.window.name == "window 1"


@pytest.mark.parametrize(("hours", "admitted"), [(0, True), (2, True), (3, False)])
def test_a_change_ends_with_its_rollback_before_its_window_closes(
    hours: int, *, admitted: bool
) -> None:
    found = decide([maintained((0, 2), (8, 12))], NOW, needs=hours * HOUR, subject=CHAT)
    assert found.admitted is admitted
    assert found.closes == NOW + 2 * HOUR
    if not admitted:
        assert "before window `window 0` closes" in found.reason
        assert found.opens == NOW + 8 * HOUR
        assert "the next opening is 2026-06-02 20:00 UTC" in str(refusal("fra1", found))


def test_maintenance_windows_that_touch_are_one() -> None:
    assert decide([maintained((0, 2), (2, 4))], NOW, needs=4 * HOUR, subject=CHAT).admitted


def test_a_blackout_within_a_maintenance_window_wins() -> None:
    deny = Calendar("company", (Window("audit", NOW + HOUR, NOW + 3 * HOUR),))
    calendars = [maintained((0, 6)), deny]
    assert decide(calendars, NOW, needs=HOUR, subject=CHAT).admitted
    soon = decide(calendars, NOW, needs=2 * HOUR, subject=CHAT)
    assert (soon.cause, soon.opens) == (Cause.BLACKOUT, NOW + 3 * HOUR)
    inside = decide(calendars, NOW + HOUR, subject=CHAT)
    assert (inside.cause, inside.opens) == (Cause.BLACKOUT, NOW + 3 * HOUR)


def test_every_pool_that_is_touched_has_to_be_within_its_own_windows() -> None:
    calendars = [maintained((0, 3), text="pool=chat"), maintained((2, 6), text="pool=mail")]
    both = Subject("production", "fra1", ("chat", "mail"), ChangeKind.DRIVER)
    assert decide(calendars, NOW, subject=both).opens == NOW + 2 * HOUR
    assert decide(calendars, NOW + 2 * HOUR, needs=HOUR, subject=both).admitted
    assert not decide(calendars, NOW + 2 * HOUR, needs=2 * HOUR, subject=both).admitted
    assert decide(calendars, NOW, subject=CHAT).admitted
    # A window of one pool opens nothing for whoever does not say which pools it touches.
    assert not decide(calendars, NOW + 2 * HOUR).admitted


def test_a_maintenance_calendar_whose_windows_have_passed_admits_nothing() -> None:
    found = decide([maintained()], NOW, subject=CHAT)
    assert (found.admitted, found.opens) == (False, None)
    assert "no opening is known" in refusal("fra1", found).mend


def test_a_cadence_is_no_freeze_calendar(sample: Fleet) -> None:
    cadences = cadence_calendars(sample, NOW, change=ChangeKind.DRIVER)
    assert decide(cadences, NOW, subject=CHAT).cause is Cause.NO_CALENDAR


@pytest.mark.parametrize(
    ("text", "admitted"),
    [
        # Tuesdays and Wednesdays from 22:00 to 04:00 of the day after, in Berlin.
        ("2026-12-01T21:59", False),
        ("2026-12-01T22:00", True),
        ("2026-12-02T03:59", True),
        ("2026-12-02T04:00", False),
        ("2026-12-03T03:00", True),
        ("2026-12-04T03:00", False),
        ("2026-12-01T03:00", False),
    ],
)
def test_the_weekday_of_a_maintenance_window_is_that_of_its_start(
    sample: Fleet, text: str, *, admitted: bool
) -> None:
    now = datetime.fromisoformat(text).replace(tzinfo=BERLIN)
    found = decision_at(sample, FILE, "fra1", now, change=ChangeKind.DRIVER)
    assert found.admitted is admitted
    assert decision_at(sample, FILE, "fra1", now).admitted


@pytest.mark.parametrize(
    ("night", "starts", "hours"),
    [
        ("2026-03-28", "2026-03-28T21:00+00:00", 6),
        ("2026-10-24", "2026-10-24T20:00+00:00", 6),
        # 02:30 is skipped in the one night, and comes twice in the other.
        ("2026-03-29", "2026-03-29T01:30+00:00", 1),
        ("2026-10-25", "2026-10-25T00:30+00:00", 1),
    ],
)
def test_a_maintenance_window_is_as_long_as_declared_when_clocks_change(
    sample: Fleet, night: str, starts: str, hours: int
) -> None:
    opens = time(22) if hours == 6 else time(2, 30)
    cadence = PatchCadence(
        every_s=1e6,
        window_starts=opens,
        window_s=hours * 3600,
        weekdays=[1, 2, 3, 4, 5, 6, 7],
        time_zone="Europe/Berlin",
        critical_within_s=1e6,
    )
    fleet = sample.model_copy(update={"patching": {PatchTarget.DRIVER: cadence}})
    now = datetime.fromisoformat(f"{night}T00:00").replace(tzinfo=BERLIN)
    [calendar] = cadence_calendars(fleet, now + HOUR, until=now + 30 * HOUR)
    begun = {window.start.astimezone(UTC): window for window in calendar.windows}
    window = begun[datetime.fromisoformat(starts)]
    assert window.end.astimezone(UTC) - window.start.astimezone(UTC) == hours * HOUR


def test_the_next_openings_are_those_in_which_the_change_fits() -> None:
    calendars = [
        maintained((-1, 1), (3, 5), (8, 9), (20, 30)),
        Calendar("company", (Window("audit", NOW + 24 * HOUR, NOW + 25 * HOUR),)),
    ]
    found = next_openings(calendars, NOW, needs=2 * HOUR, subject=CHAT)
    hours = [(3, 5), (20, 24), (25, 30)]
    assert found == [Opening(NOW + start * HOUR, NOW + end * HOUR) for start, end in hours]
    assert next_openings(calendars, NOW, needs=2 * HOUR, subject=CHAT, count=1) == found[:1]
    assert next_openings([OPEN], NOW, subject=CHAT) == [Opening(NOW, None)]
    assert next_openings([Calendar("lost", problem="lost")], NOW, subject=CHAT) == []


def test_a_change_of_a_site_touches_the_pools_that_stand_there(sample: Fleet) -> None:
    for site in sample.sites:
        assert set(subject_of(sample, site).pools) == set(sample.pools_at(site))
    assert subject_of(sample, "fra1", pools=["chat"]).pools == ("chat",)


def test_a_thousand_windows_at_once_have_a_name_that_can_be_read() -> None:
    windows = [Window(f"w{n}", NOW, NOW + n * HOUR) for n in range(1, 1001)]
    [block] = merged(windows)
    assert block.name == "w1 + w2 + w3 + w4 + 996 more"
    assert block.end == NOW + 1000 * HOUR
