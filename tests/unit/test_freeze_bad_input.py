"""Slips in calendars and scopes give one clear error each, and freeze what they could hide."""

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gpufleet.core.freeze import decide
from gpufleet.edges.calendars import read_calendar
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.freeze_questions import Asked
from gpufleet.flows.freezes import check
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.freeze_scope import parse_scope
from gpufleet.spec.governance import FreezeCalendar
from gpufleet.spec.windows import Calendar, ChangeKind, WindowKind

SAMPLE = PROJECT_ROOT / "fleets" / "sample" / "production.yaml"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = "DTSTART:20260610T000000Z\nDTEND:20260611T000000Z"
FLOATING = "DTSTART:20260610T000000\nDTEND:20260611T000000"


def ics(event: str, head: str = "") -> str:
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//test//EN", head, "BEGIN:VEVENT"]
    lines += ["UID:1@test", "DTSTAMP:20260101T000000Z", "SUMMARY:Audit", event, "END:VEVENT"]
    return "\r\n".join(line for line in [*lines, "END:VCALENDAR", ""] if line)


def read(folder: Path, content: str, **declared: object) -> Calendar:
    file = folder / "company.ics"
    file.write_text(content, newline="")
    calendar = FreezeCalendar.model_validate({"file": file.name, "stale_after_s": 1e8, **declared})
    return read_calendar("company", calendar, file, NOW, fleet=load_fleet(SAMPLE))


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (FLOATING, "has times without a time zone: `Audit`; name it there (TZID)"),
        (f"{DAY}\nRRULE:FREQ=SECONDLY", "recurs more than daily"),
        (f"{DAY}\nRRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "RRULE that never happens"),
        (f"{DAY}\nRRULE:FREQ=DAILY;INTERVAL=7;BYDAY=MO", "RRULE that never happens"),
        (f"{DAY}\nRRULE:FREQ=DAILY;COUNT=3;BYMONTHDAY=31;BYMONTH=4", "RRULE that never happens"),
        (DAY.replace("2026", "0001") + "\nRRULE:FREQ=DAILY", "recurs from the year 1"),
        (f"{DAY}\nEXRULE:FREQ=DAILY", "has an EXRULE"),
        (DAY.replace("0611", "0609"), "does not end after it starts: `Audit`"),
        (f"{DAY}\nX-GPUFLEET-SCOPE:pool=chta", "`Audit`: there is no pool `chta`; did you mean"),
        (f"{DAY}\nX-GPUFLEET-SCOPE:site=ams1", "there is no site `ams1`; valid here: dub1, fra1"),
        (f"{DAY}\nX-GPUFLEET-SCOPE:change=drivers", "there is no kind of change `drivers`"),
        (f"{DAY}\nX-GPUFLEET-SCOPE:polo=chat", "no part of a scope `polo`; did you mean `pool`"),
        (f"{DAY}\nX-GPUFLEET-SCOPE:chat", "`chat` is no part of a scope"),
        (f"{DAY}\nX-GPUFLEET-SCOPE:pool=", "`pool=` names nothing"),
        (f"{DAY}\nX-GPUFLEET-SCOPE:kind=open", "there is no kind of window `open`"),
        (f"{DAY}\nCATEGORIES:gpufleet:pool=chta", "there is no pool `chta`"),
        (
            f"{DAY}\nX-GPUFLEET-SCOPE:kind=blackout\nCATEGORIES:gpufleet:kind=maintenance",
            "`kind` is said twice",
        ),
    ],
)
def test_what_a_calendar_may_not_say_freezes_with_one_reason(
    tmp_path: Path, event: str, reason: str
) -> None:
    found = read(tmp_path, ics(event))
    assert reason in found.problem
    decision = decide([found], NOW)
    assert not decision.admitted
    assert "\n" not in decision.reason


def test_times_without_a_zone_are_in_that_of_the_calendar_or_of_its_declaration(
    tmp_path: Path,
) -> None:
    begins = datetime(2026, 6, 9, 22, tzinfo=UTC)
    for found in (
        read(tmp_path, ics(FLOATING, "X-WR-TIMEZONE:Europe/Berlin")),
        read(tmp_path, ics(FLOATING), time_zone="Europe/Berlin"),
    ):
        assert [window.start for window in found.windows] == [begins]


def test_an_event_says_what_it_holds_for_in_a_property_or_in_categories(tmp_path: Path) -> None:
    said = "site=fra1;pool=chat,mail;change=driver;kind=maintenance"
    categories = ",".join(
        f"gpufleet:{part}" for part in ("site=fra1", "pool=chat", "pool=mail", "change=driver")
    )
    for event in (
        f"X-GPUFLEET-SCOPE:{said}",
        f"CATEGORIES:Holiday,{categories},gpufleet:kind=maintenance",
        (
            "X-GPUFLEET-SCOPE:site=fra1;change=driver\nX-GPUFLEET-SCOPE:kind=maintenance"
            "\nCATEGORIES:gpufleet:pool=chat\nCATEGORIES:gpufleet:pool=mail"
        ),
    ):
        found = read(tmp_path, ics(f"{DAY}\n{event}"))
        assert found.problem == ""
        [window] = found.windows
        assert window.scope == parse_scope("site=fra1;pool=chat,mail;change=driver").scope
        assert window.kind is WindowKind.MAINTENANCE
        assert found.maintained == (window.scope,)


def test_categories_of_other_people_mean_nothing(tmp_path: Path) -> None:
    [window] = read(tmp_path, ics(f"{DAY}\nCATEGORIES:MAINTENANCE,pool=chta")).windows
    assert window.kind is WindowKind.BLACKOUT
    assert window.scope.pools == frozenset()


def test_a_maintenance_event_that_is_over_still_holds_its_scope(tmp_path: Path) -> None:
    past = DAY.replace("202606", "202605")
    found = read(tmp_path, ics(f"{past}\nX-GPUFLEET-SCOPE:kind=maintenance;change=driver"))
    assert found.windows == ()
    assert found.maintained == (parse_scope("change=driver").scope,)


def test_whole_days_recur_until_a_day_of_their_own_zone(tmp_path: Path) -> None:
    days = "DTSTART;VALUE=DATE:20260610\nDTEND;VALUE=DATE:20260611\nRRULE:FREQ=DAILY;UNTIL="
    # Midnight of the 12th in Auckland, as a time in UTC.
    for until in ("20260612", "20260611T120000Z"):
        found = read(tmp_path, ics(days + until, "X-WR-TIMEZONE:Pacific/Auckland"))
        assert [window.start.day for window in found.windows] == [10, 11, 12]


@pytest.mark.parametrize(
    ("start", "end", "begins"),
    [
        # Clocks go from 02:00 to 03:00: a start at 02:30 is 03:30, which is after this end.
        ("20260329T023000", "20260329T031500", "2026-03-29T01:30+00:00"),
        ("20260329T020000", "20260329T024500", "2026-03-29T01:00+00:00"),
    ],
)
def test_a_clock_change_takes_no_window_away(
    tmp_path: Path, start: str, end: str, begins: str
) -> None:
    zone = "TZID=Europe/Berlin"
    file = tmp_path / "company.ics"
    file.write_text(ics(f"DTSTART;{zone}:{start}\nDTEND;{zone}:{end}"), newline="")
    declared = FreezeCalendar(file=file.name, stale_after_s=1e8)
    now = datetime(2026, 3, 28, tzinfo=UTC)
    [window] = read_calendar("company", declared, file, now).windows
    assert window.start.astimezone(UTC) == datetime.fromisoformat(begins)
    assert window.end.astimezone(UTC) - window.start.astimezone(UTC) == timedelta(minutes=45)


@pytest.mark.parametrize(
    ("asked", "where", "what"),
    [
        (Asked(scope="pool=chta"), "--scope", "there is no pool `chta`; did you mean `chat`?"),
        (Asked(scope="site=ams1"), "--scope", "there is no site `ams1`"),
        (Asked(scope="chat"), "--scope", "`chat` is no part of a scope"),
        (Asked(scope="kind=blackout"), "--scope", "a change has no kind of window"),
        (Asked(scope="change=os", change="os"), "--change", "names the change already"),
        (Asked(change="drivers"), "--change", "there is no kind of change `drivers`"),
        (Asked(at="tomorrow"), "--at", "`tomorrow` is not a time"),
        (Asked(at="9999-12-31T00:00:00Z"), "--at", "is not a time"),
        (Asked(at="0001-01-01T00:00:00+14:00"), "--at", "is not a time"),
        (Asked(duration_s="soon"), "--duration-s", "`soon` is not a number of seconds"),
        (Asked(duration_s="nan"), "--duration-s", "is not a number of seconds"),
        (Asked(rollback_s="-1"), "--rollback-s", "is not a number of seconds"),
        (Asked(rollback_s="1e300"), "--rollback-s", "is not a number of seconds"),
    ],
)
def test_a_question_that_cannot_be_right_names_its_flag(
    asked: Asked, where: str, what: str
) -> None:
    with pytest.raises(BadInput) as raised:
        check(Workspace.here(), SAMPLE, asked)
    assert raised.value.where == where
    assert what in str(raised.value)


def told(*arguments: str) -> tuple[int, dict[str, object]]:
    done = subprocess.run(
        ["./fleet", "freeze.check", "--json", *arguments],
        cwd=PROJECT_ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, json.loads(done.stdout)


def test_a_file_decides_alone_and_the_exit_code_says_how(tmp_path: Path) -> None:
    file = tmp_path / "company.ics"
    file.write_text(ics(DAY), newline="")
    given = f"--calendar={file}"
    code, found = told(given, "--at=2026-06-10T12:00:00+00:00", "--change=driver")
    assert (code, found["allowed"]) == (3, False)
    assert found["reason"] == "freeze `Audit`"
    assert found["next_opening"] == "2026-06-11T00:00:00+00:00"
    window = found["window"]
    assert isinstance(window, dict)
    assert (window["name"], window["start"]) == ("Audit", "2026-06-10T00:00:00+00:00")
    late = "--at=2026-06-09T22:00:00+00:00"
    code, found = told(given, late, "--duration-s=3600", "--rollback-s=3601")
    assert (code, found["allowed"]) == (3, False)
    code, found = told(given, late, "--duration-s=3600", "--rollback-s=3600")
    assert (code, found["allowed"], found["window"]) == (0, True, None)
    code, found = told(f"--calendar={tmp_path / 'lost.ics'}")
    assert (code, found["next_opening"]) == (3, None)
    assert "cannot be read" in str(found["reason"])


def test_an_opening_is_one_at_every_site(tmp_path: Path) -> None:
    events = ics(
        "DTSTART:20260610T000000Z\nDTEND:20260611T000000Z\nX-GPUFLEET-SCOPE:site=fra1"
        "\nEND:VEVENT\nBEGIN:VEVENT\nUID:2@test\nDTSTAMP:20260501T000000Z\nSUMMARY:Power"
        "\nDTSTART:20260610T120000Z\nDTEND:20260612T000000Z\nX-GPUFLEET-SCOPE:site=dub1"
    )
    file = tmp_path / "company.ics"
    file.write_text(events, newline="")
    asked = Asked(at="2026-06-10T06:00:00Z", calendar=str(file))
    found = check(Workspace.here(), SAMPLE, asked)
    assert (found.allowed, found.site) == (False, "fra1")
    assert found.next_opening == "2026-06-12T00:00:00+00:00"
    other = Asked(at="2026-06-10T06:00:00Z", scope="site=dub1", calendar=str(file))
    assert check(Workspace.here(), SAMPLE, other).allowed


def test_every_kind_of_change_can_be_asked_about() -> None:
    for kind in ChangeKind:
        found = check(Workspace.here(), SAMPLE, Asked(at="2026-06-03T12:00:00Z", change=kind))
        assert found.change == kind
        assert found.allowed is (kind not in {"driver", "firmware", "runtime"})
