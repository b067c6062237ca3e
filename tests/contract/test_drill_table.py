"""Drills in a database of each kind: kept once, changed whole, open until nothing is left."""

from datetime import UTC, datetime, timedelta

import pytest

from gpufleet.edges.database import Database
from gpufleet.edges.drill_table import DrillTable
from gpufleet.spec.drills import DrillReport, DrillState, Outlook
from gpufleet.spec.errors import BadInput

NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)


def report(flow: str, scenario: str = "site-lost", *, hours: int = 0) -> DrillReport:
    return DrillReport(
        flow=flow,
        scenario=scenario,
        target="east",
        actor="mara",
        begun_at=NOW + timedelta(hours=hours),
        outlook=Outlook(phases=[], recovered_s=1, rto_s=60, source="", remedies=[]),
    )


@pytest.fixture
def table(database: Database) -> DrillTable:
    """Two drills of different scenarios, the second later."""
    made = DrillTable(database)
    made.begin(report("drill-1"))
    made.begin(report("drill-2", "node-lost", hours=1))
    return made


def test_a_drill_that_is_begun_again_keeps_its_story(table: DrillTable) -> None:
    table.change("drill-1", lambda told: told.model_copy(update={"notes": ["seen"]}))
    table.begin(report("drill-1"))
    assert table.report("drill-1").notes == ["seen"]
    assert [told.flow for told in table.reports()] == ["drill-2", "drill-1"]
    assert [told.flow for told in table.reports("site-lost")] == ["drill-1"]
    assert table.reports("site-lost", "west") == []


def test_a_drill_is_open_until_it_has_ended_and_nothing_of_it_is_left(table: DrillTable) -> None:
    ended = {"ended_at": NOW, "state": DrillState.FAILED}
    table.change("drill-1", lambda told: told.model_copy(update=ended))
    assert [told.flow for told in table.reports(only_open=True)] == ["drill-2", "drill-1"]
    table.change("drill-1", lambda told: told.model_copy(update={"cleaned": True}))
    assert [told.flow for told in table.reports(only_open=True)] == ["drill-2"]
    table.change("drill-2", lambda told: told.model_copy(update={"cleaned": True}))
    assert [told.flow for told in table.reports(only_open=True)] == ["drill-2"]


def test_a_drill_that_nobody_knows_is_one_clear_error(table: DrillTable) -> None:
    for asked in (table.report, lambda flow: table.change(flow, lambda told: told)):
        with pytest.raises(BadInput, match="no such drill"):
            asked("drill-3")
