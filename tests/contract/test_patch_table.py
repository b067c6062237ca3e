"""Patches in a database of each kind: kept once, changed whole, found again."""

from datetime import UTC, datetime, timedelta

import pytest

from gpufleet.edges.database import Database
from gpufleet.edges.patch_table import PatchTable
from gpufleet.spec.errors import BadInput
from gpufleet.spec.patching import Part, PatchOrder, PatchPlan, PatchReport

NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)
ORDER = PatchOrder.model_validate(
    {"component": "driver", "part": "driver", "version": "580.105.08"}
)


def plan() -> PatchPlan:
    return PatchPlan(
        fleet="sample",
        environment="production",
        fleet_digest=f"sha256:{'0' * 64}",
        order=ORDER,
        hosts={},
        waves=[],
        gates=[],
        batch_s=60,
        rollback_s=60,
        can_go_back=True,
        left_out={},
    )


def report(flow: str, begun_at: datetime = NOW) -> PatchReport:
    return PatchReport(flow=flow, actor="mara", order=ORDER, begun_at=begun_at)


@pytest.fixture
def table(database: Database) -> PatchTable:
    """Two patches, the second later."""
    made = PatchTable(database, lambda: NOW)
    made.begin(report("patch-1"), plan())
    made.begin(report("patch-2", NOW + timedelta(hours=1)), plan())
    return made


def test_a_patch_that_is_begun_again_keeps_its_story(table: PatchTable) -> None:
    table.change("patch-1", lambda told: told.model_copy(update={"held": ["a wait"]}))
    table.begin(report("patch-1"), plan())
    assert table.report("patch-1").held == ["a wait"]
    assert table.plan("patch-1") == plan()
    assert [told.flow for told in table.reports()] == ["patch-2", "patch-1"]


def test_only_patches_without_an_end_are_open(table: PatchTable) -> None:
    table.change("patch-2", lambda told: told.model_copy(update={"ended_at": NOW}))
    assert [told.flow for told in table.reports(only_open=True)] == ["patch-1"]
    table.change("patch-2", lambda told: told.model_copy(update={"ended_at": None}))
    assert len(table.reports(only_open=True)) == 2


def test_wishes_are_kept_until_they_are_taken_back(table: PatchTable) -> None:
    assert table.wishes("patch-1") == ("", "")
    table.pause("patch-1", "mara")
    table.stop("patch-1", "jonas")
    assert table.wishes("patch-1") == ("mara", "jonas")
    table.pause("patch-1", "")
    assert table.wishes("patch-1") == ("", "jonas")
    assert table.wishes("patch-2") == ("", "")


def test_how_long_a_batch_took_is_kept_once_and_apart_for_ways_back(table: PatchTable) -> None:
    for _ in range(2):
        table.keep_duration("patch-1", "wave 1 batch 1", Part.DRIVER, 61.5)
    table.keep_duration("patch-1", "back", Part.DRIVER, 30, is_rollback=True)
    table.keep_duration("patch-2", "wave 1 batch 1", Part.BMC, 900)
    assert table.durations_s(Part.DRIVER) == [61.5]
    assert table.durations_s(Part.DRIVER, is_rollback=True) == [30]


def test_a_patch_that_is_not_there_is_bad_input(table: PatchTable) -> None:
    for ask in (
        lambda: table.report("patch-9"),
        lambda: table.plan("patch-9"),
        lambda: table.pause("patch-9", "mara"),
        lambda: table.change("patch-9", lambda told: told),
    ):
        with pytest.raises(BadInput, match="there is no such patch"):
            ask()
