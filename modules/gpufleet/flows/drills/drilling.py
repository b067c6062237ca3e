"""A drill as a durable flow: announced, played in isolation, struck, and compared."""

from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from pydantic import JsonValue

from gpufleet.core.approvals import digest_of
from gpufleet.core.drills.stage import stage_fleet
from gpufleet.core.leases import DRILL_LEASE
from gpufleet.flows.drills.play import STEADY_WITHIN_S, Play
from gpufleet.flows.drills.scripts import script_of
from gpufleet.flows.drills.stage import Stage, staged
from gpufleet.flows.drills.story import Story
from gpufleet.flows.durable import CancelledError, Run, flow
from gpufleet.flows.gateway_answers import asked_with
from gpufleet.spec.drills import DrillPlan, DrillReport, DrillState, Placed
from gpufleet.spec.errors import FleetError, PolicyRefused

DRILL: Final = DRILL_LEASE
"""The flow's kind, and its lease: there is one stage."""
_WAITS_FOR_ANOTHER: Final = timedelta(minutes=30)


@flow(DRILL)
def drill(run: Run, order: dict[str, Any]) -> dict[str, JsonValue]:
    """Drill by a plan; each step finds what it has done before."""
    plan = DrillPlan.model_validate(order["plan"])
    story = Story(run, plan, str(order.get("why", "")))
    stage = Stage(run.ground, run.id, plan.scenario)
    run.step("announced", story.begin)
    run.note("drill.announced", target=plan.target, scenario=plan.scenario, plan=digest_of(plan))
    story.visited()
    try:
        run.step("as planned", lambda: _demand_same_fleet(run, plan))
        with run.holding(DRILL, within=_WAITS_FOR_ANOTHER):
            _play(run, plan, story, stage)
            run.step("struck", lambda: _strike(stage, story))
    except BaseException as error:
        # DBOS ends a cancelled flow by an error of its own that is no Exception.
        is_cancelled = isinstance(error, CancelledError) or not isinstance(error, Exception)
        state = DrillState.CANCELLED if is_cancelled else DrillState.FAILED
        run.note("drill.ended", target=plan.target, outcome=state.value, detail=str(error))
        story.broken(state, str(error))
        # What is left after this the worker's chore strikes.
        with suppress(FleetError):
            _strike(stage, story)
        raise
    report = DrillReport.model_validate(
        run.step("ended", lambda: story.ended().model_dump(mode="json"))
    )
    run.note(
        "drill.ended",
        target=plan.target,
        outcome=report.state.value,
        recovered_s=report.recovered_s,
        rto_s=report.rto_s,
    )
    found: dict[str, JsonValue] = report.model_dump(mode="json")
    return found


def _play(run: Run, plan: DrillPlan, story: Story, stage: Stage) -> None:
    """Play the scenario, with keys that open the stand-ins and nothing else."""
    pools = {pool for pool, each in run.ground.fleet.pools.items() if _hits(plan, each.use_cases)}
    # Whatever comes up where: for keys and questions only the names count.
    anywhere = [
        Placed(
            pool=name,
            site=plan.target,
            node_group=next(iter(run.ground.fleet.pools[name].placements)),
            replicas=1,
            nodes_per_replica=1,
            gpus_per_node=1,
        )
        for name in sorted(pools)
    ]
    named = stage_fleet(run.ground.fleet, anywhere)
    longest_s = max(run.ground.fleet.use_cases[name].rto_s for name in plan.use_cases)
    with asked_with(
        staged(run.ground, named),
        list(named.use_cases),
        lasts_s=longest_s + 2 * STEADY_WITHIN_S,
        on_issued=story.issued,
    ) as asking:
        Play(run, plan, story, stage, asking, script_of(run.ground, plan, stage)).perform()


def _hits(plan: DrillPlan, use_cases: list[str]) -> bool:
    return not set(plan.use_cases).isdisjoint(use_cases)


def _strike(stage: Stage, story: Story) -> None:
    stage.strike()
    story.cleaned()


def _demand_same_fleet(run: Run, plan: DrillPlan) -> None:
    """Refuse a plan that was made for another fleet file; once begun it goes by its plan."""
    if digest_of(run.ground.fleet) != plan.fleet_digest:
        raise PolicyRefused(
            "the fleet file is not the one that was planned",
            where=str(run.ground.fleet_file),
            mend="plan it again: ./fleet dr.drill",
        )
