"""The picture of the next days shows what decisions are, on the terminal and on the page."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.freeze import Subject, decide
from gpufleet.core.freeze_outlook import Hold, days_of, stretches
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.flows.freeze_calendar import outlook_over
from gpufleet.reports.freeze_page import freeze_page
from gpufleet.spec import load_fleet
from gpufleet.spec.freezes import FreezeOutlook
from gpufleet.spec.windows import EVERYTHING, Calendar, ChangeKind, Window, WindowKind
from gpufleet.tasks import freeze_view

FILE = PROJECT_ROOT / "fleets" / "sample" / "production.yaml"
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
BEGIN = datetime(2026, 3, 28, tzinfo=UTC)
HOUR = timedelta(hours=1)
SUBJECT = Subject("production", "fra1", ("chat",), ChangeKind.DRIVER)
WINDOWS = st.lists(
    st.builds(
        lambda start, hours, kind: Window(
            "w", BEGIN + start * HOUR, BEGIN + (start + hours) * HOUR, kind=kind
        ),
        st.integers(-20, 100),
        st.integers(1, 30),
        st.sampled_from(WindowKind),
    ),
    max_size=6,
)


@given(windows=WINDOWS, maintained=st.booleans())
def test_the_picture_is_that_of_the_decisions_without_a_gap(
    windows: list[Window], *, maintained: bool
) -> None:
    calendar = Calendar("c", tuple(windows), maintained=(EVERYTHING,) if maintained else ())
    end = BEGIN + 72 * HOUR
    found = stretches([calendar], BEGIN, end, SUBJECT, required=True)
    assert [each.start for each in found] == [BEGIN, *(each.end for each in found[:-1])]
    assert found[-1].end == end
    for each in found:
        decision = decide([calendar], each.start + (each.end - each.start) / 2, subject=SUBJECT)
        assert decision.admitted is (each.hold in {Hold.OPEN, Hold.MAINTENANCE})
        if each.hold is Hold.BLACKOUT:
            assert decision.window


def test_an_untrusted_calendar_is_frozen_all_along() -> None:
    calendars = [Calendar("lost", problem="lost")]
    [only] = stretches(calendars, BEGIN, BEGIN + HOUR, SUBJECT, required=True)
    assert only.hold is Hold.UNKNOWN


def test_days_follow_each_other_when_clocks_change() -> None:
    days = list(days_of(BEGIN, 3, ZoneInfo("Europe/Berlin")))
    assert [(end - start) / HOUR for start, end in days] == [24, 23, 24]
    assert [end for _, end in days[:-1]] == [start for start, _ in days[1:]]


@pytest.fixture(scope="module")
def outlook() -> FreezeOutlook:
    return outlook_over(load_fleet(FILE), FILE, NOW, NOW, 90)


def test_every_site_and_kind_of_change_has_its_row_of_days(outlook: FreezeOutlook) -> None:
    assert outlook.time_zone == "Europe/Berlin"
    assert {(row.site, row.change) for row in outlook.rows} == {
        (site, change)
        for site in ("fra1", "dub1")
        for change in ("stacks", "driver", "firmware", "runtime")
    }
    for row in outlook.rows:
        assert [day.day for day in row.days[:2]] == ["2026-12-01", "2026-12-02"]
        assert len(row.days) == 90
        for day in row.days:
            assert day.stretches[0].from_s == 0
            assert day.stretches[-1].to_s == day.length_s


def test_a_pool_with_windows_of_its_own_has_a_row_of_its_own(tmp_path: Path) -> None:
    fleet = load_fleet(FILE)
    calendar = (FILE.parent / "calendars" / "company.ics").read_text(encoding="utf-8")
    (tmp_path / "calendars").mkdir()
    scoped = calendar.replace("SUMMARY:Year end", "SUMMARY:Year end\nX-GPUFLEET-SCOPE:pool=chat")
    (tmp_path / "calendars" / "company.ics").write_text(scoped, encoding="utf-8")
    alone = fleet.model_copy(
        update={
            "freeze_calendars": {"company": fleet.freeze_calendars["company"]},
            "patching": {},
        }
    )
    found = outlook_over(alone, tmp_path / "production.yaml", NOW, NOW, 30)
    rows = {(row.site, row.pool): row.days[24].stretches[0].hold for row in found.rows}
    sites = [site for site in fleet.sites if "chat" in fleet.pools_at(site)]
    assert {rows[site, "chat"] for site in sites} == {"blackout"}
    assert {pool for _, pool in rows} == {"", "chat"}


def test_the_page_shows_every_day_and_asks_no_network(outlook: FreezeOutlook) -> None:
    page = freeze_page(outlook, NOW)
    assert page.count('class="bar"') == 90 * len(outlook.rows)
    assert "Year end" in page
    assert "00:00 to 24:00 frozen (Year end)" in page
    assert not re.search(r'(src|href)="|url\(|@import|https?://', page)


def test_what_a_calendar_says_cannot_write_into_the_page(outlook: FreezeOutlook) -> None:
    slip = outlook.model_copy(update={"warnings": ["<script>alert(1)</script>"]})
    page = freeze_page(slip, NOW)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_the_terminal_shows_a_strip_of_days(
    outlook: FreezeOutlook, capsys: pytest.CaptureFixture[str]
) -> None:
    freeze_view.show_outlook(outlook)
    shown = capsys.readouterr().out
    [stacks] = re.findall(r"^fra1 stacks +(.*)$", shown, re.MULTILINE)
    assert stacks == "·" * 19 + "█" * 16 + "·" * 55
    [driver] = re.findall(r"^fra1 driver +(.*)$", shown, re.MULTILINE)
    # 2026-12-01 is a Tuesday: windows on two nights, each over midnight.
    assert driver[:9] == "■■■░░░░■■"
    assert "Year end" in shown
