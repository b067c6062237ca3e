"""When drills are due, and what a scenario's runbook says."""

from datetime import UTC, datetime, timedelta

import pytest

from gpufleet.core.drills.cadence import RESTORE, due_drills, due_restores
from gpufleet.core.drills.runbook import runbook
from gpufleet.core.drills.scenario import Scenario
from gpufleet.core.drills.scenarios import SCENARIOS, scenario_of, targets_of
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.drill_cadence import DrillCadence, ScenarioName
from gpufleet.spec.drills import DrillReport, DrillState, Due, Outlook, Phase, ProvenRestore
from gpufleet.spec.errors import BadInput

SAMPLE = load_fleet(PROJECT_ROOT / "fleets" / "sample" / "production.yaml")
ARTICLE = load_fleet(PROJECT_ROOT / "fleets" / "article" / "production.yaml")
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def drill(scenario: str, target: str, day: int, *, met: bool = True) -> DrillReport:
    return DrillReport(
        flow=f"drill-{scenario}-{target}-{day}",
        scenario=scenario,
        target=target,
        actor="mara",
        state=DrillState.MET if met else DrillState.MISSED,
        begun_at=SINCE + day * DAY,
        outlook=Outlook(phases=[], recovered_s=1, rto_s=60, source="", remedies=[]),
        recovered_s=42,
        met=met,
    )


def row(found: list[Due], scenario: str, target: str) -> Due:
    (one,) = (each for each in found if (each.scenario, each.target) == (scenario, target))
    return one


def test_every_scenario_is_due_and_each_site_by_itself() -> None:
    found = due_drills(SAMPLE, [], SINCE, SINCE)
    assert {each.scenario for each in found} == set(ScenarioName)
    assert {e.target for e in found if e.scenario == "site-lost"} == set(SAMPLE.sites)
    assert not any(each.overdue_s for each in found)


def test_what_was_never_proven_is_overdue_a_cadence_after_the_environment_began() -> None:
    every_s = SAMPLE.drills.every_s
    late = SINCE + timedelta(seconds=every_s + 60)
    assert row(due_drills(SAMPLE, [], SINCE, late), "site-lost", "fra1").overdue_s == 60


def test_only_a_met_drill_of_this_site_counts() -> None:
    drills = [drill("site-lost", "dub1", 80), drill("site-lost", "fra1", 85, met=False)]
    found = due_drills(SAMPLE, drills, SINCE, SINCE + 100 * DAY)
    assert row(found, "site-lost", "dub1").proven_s == 42
    assert row(found, "site-lost", "dub1").overdue_s == 0
    assert row(found, "site-lost", "fra1").proven_at is None
    assert row(found, "site-lost", "fra1").overdue_s > 0


def test_any_pool_proves_a_scenario_of_single_replicas() -> None:
    found = due_drills(SAMPLE, [drill("gpu-lost", "small@dub1", 95)], SINCE, SINCE + 100 * DAY)
    assert row(found, "gpu-lost", "any pool").overdue_s == 0


def test_any_stack_proves_that_states_come_back_and_there_is_one_database() -> None:
    drills = [drill("state-lost", "pools@dub1", 95), drill("database-lost", "database", 96)]
    found = due_drills(SAMPLE, drills, SINCE, SINCE + 100 * DAY)
    assert row(found, "state-lost", "any stack").overdue_s == 0
    assert row(found, "database-lost", "database").overdue_s == 0
    assert row(found, "node-lost", "any pool").overdue_s > 0


def test_what_gpufleet_knows_is_lost_by_stack_and_as_one_database() -> None:
    stacks = {f"{project}@{site}" for project in ("platform", "pools") for site in SAMPLE.sites}
    assert set(targets_of(SAMPLE, "state-lost")) == stacks
    assert targets_of(SAMPLE, "database-lost") == ["database"]
    assert targets_of(SAMPLE, "node-lost") == targets_of(SAMPLE, "gpu-lost")


def test_a_scenario_may_have_a_cadence_of_its_own() -> None:
    cadence = DrillCadence(scenarios={ScenarioName.SITE_LOST: 10 * 86_400})
    fleet = SAMPLE.model_copy(update={"drills": cadence})
    found = due_drills(fleet, [], SINCE, SINCE + 11 * DAY)
    assert row(found, "site-lost", "fra1").overdue_s == 86_400
    assert row(found, "gpu-lost", "any pool").overdue_s == 0


def test_with_one_site_its_loss_cannot_be_drilled_and_is_never_due() -> None:
    assert targets_of(ARTICLE, "site-lost") == []
    assert "site-lost" not in {each.scenario for each in due_drills(ARTICLE, [], SINCE, SINCE)}


def test_a_served_revision_that_a_store_has_is_due_at_once_and_then_again_and_again() -> None:
    held = {"fra1": {"llama-3.1-8b", "nobody-serves-it"}, "dub1": set()}
    (first,) = due_restores(SAMPLE, held, [], SINCE, SINCE)
    assert (first.scenario, first.target) == (RESTORE, "llama-3.1-8b@fra1")
    assert first.due_at == SINCE
    proven = [
        ProvenRestore(
            revision="llama-3.1-8b",
            site="fra1",
            snapshot="20260101T000000Z-00000000",
            at=SINCE + day * DAY,
            seconds=day,
            bytes_total=1,
        )
        for day in (9, 3)
    ]
    (later,) = due_restores(SAMPLE, held, proven, SINCE, SINCE + 10 * DAY)
    assert later.proven_s == 9
    assert later.overdue_s == 0
    assert later.due_at == SINCE + 9 * DAY + timedelta(seconds=SAMPLE.drills.restore_every_s)


def test_a_scenario_that_nobody_knows_is_one_clear_error_with_those_that_there_are() -> None:
    with pytest.raises(BadInput) as refused:
        scenario_of("meteor")
    for name in SCENARIOS:
        assert name in refused.value.mend


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda each: each.name.value)
def test_a_runbook_has_a_step_for_each_phase_that_the_drill_times(scenario: Scenario) -> None:
    assert list(scenario.steps) == list(Phase)
    page = runbook(scenario)
    for step in scenario.steps.values():
        assert step.text in page
        assert step.commands or step.by_hand
    # What the tests run changes nothing; what acts is for people to read first.
    assert not any("--apply" in command for s in scenario.steps.values() for command in s.commands)
    headings = [line for line in page.split("\n") if line.startswith("## ")]
    assert len(headings) == len(Phase) + 1
