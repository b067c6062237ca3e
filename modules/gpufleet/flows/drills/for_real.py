"""A drill of production itself, as a durable flow: approved, admitted, played, given back."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import Any, Final

from pydantic import JsonValue

from gpufleet.core.approvals import digest_of, needed_for
from gpufleet.core.drills.words import words
from gpufleet.flows.approved import wait_approved
from gpufleet.flows.drills.drilling import DRILL
from gpufleet.flows.drills.for_real_admission import (
    demand_as_approved,
    demand_in_time,
    demand_open,
    demand_same_fleet,
    leases_of,
)
from gpufleet.flows.drills.for_real_play import ForRealPlay
from gpufleet.flows.drills.for_real_scripts import for_real_script
from gpufleet.flows.drills.play import STEADY_WITHIN_S
from gpufleet.flows.drills.production_stage import ProductionStage
from gpufleet.flows.drills.returning import Returning
from gpufleet.flows.drills.stage import wait_until
from gpufleet.flows.drills.story import Story
from gpufleet.flows.durable import CancelledError, Run, flow
from gpufleet.flows.gateway_answers import asked_with
from gpufleet.spec import load_fleet
from gpufleet.spec.approvals import Action
from gpufleet.spec.drills import DrillPlan, DrillState
from gpufleet.spec.errors import BadInput, Failed, FleetError, PolicyRefused, Retryable

FOR_REAL: Final = "drill-for-real"
"""The flow's kind."""
RATE_RPM: Final = 600
"""Most requests of a drill's own key in a minute: it asks, it does no load."""
BACK_WITHIN_S: Final = 900.0
"""So long a drill waits for what was lost to be ready; then the worker's chore goes on."""
_WAITS_FOR_OTHERS: Final = timedelta(minutes=10)
_LOOK_EVERY_S: Final = 1.0


@flow(FOR_REAL)
def drill_for_real(run: Run, order: dict[str, Any]) -> dict[str, JsonValue]:
    """Drill production by a plan that others have signed; each step finds what it has done."""
    plan = DrillPlan.model_validate(order["plan"])
    run.note("drill.requested", target=plan.target, plan=digest_of(plan), hits=list(words(plan)))
    why = str(order.get("why", ""))
    with ExitStack() as held:
        with _noting(run, plan, why):
            wait_approved(
                run,
                plan,
                needed=_approvals_needed(run, plan),
                event="drill.approved",
                again="./fleet dr.drill --for-real --apply",
            )
            for target in (DRILL, *leases_of(plan)):
                # One that hits production already waits for nobody: it gives it back.
                within = timedelta() if _is_announced(run) else _WAITS_FOR_OTHERS
                held.enter_context(run.holding(target, within=within))
            run.step("admitted", lambda: _demand_admitted(run, plan))
        return _drill(run, plan, why)


@contextmanager
def _noting(run: Run, plan: DrillPlan, why: str) -> Iterator[None]:
    """Journal why nothing was drilled; one that may have hit something gives it back."""
    try:
        yield
    except FleetError as error:
        if _is_announced(run):
            _break_off(run, plan, Story(run, plan, why), DrillState.FAILED, str(error))
        else:
            run.note("drill.refused", target=plan.target, detail=str(error))
        raise


def _is_announced(run: Run) -> bool:
    """Whether a worker before this one has begun it, and may have hit production."""
    return any(each.flow == run.id for each in run.ground.drills.reports(only_open=True))


def _break_off(run: Run, plan: DrillPlan, story: Story, state: DrillState, why: str) -> None:
    """Tell that it goes on no more, and give back what can be given back now."""
    kept = story.broken(state, why)
    run.note("drill.ended", target=plan.target, outcome=kept.state.value, detail=why)
    # What is left after this the worker's chore gives back.
    with suppress(FleetError):
        _give_back(run, story)


def _drill(run: Run, plan: DrillPlan, why: str) -> dict[str, JsonValue]:
    story = Story(run, plan, why)
    run.step("announced", lambda: _announce(run, story))
    run.note("drill.announced", target=plan.target, scenario=plan.scenario, for_real=True)
    story.visited()
    _demand_not_ended(run, story)
    try:
        _play(run, plan, story)
        # First: how it went is known, however long the way back takes.
        run.step("ended", lambda: story.ended().model_dump(mode="json"))
        run.step("given back", lambda: _give_back(run, story))
    except BaseException as error:
        # DBOS ends a cancelled flow by an error of its own that is no Exception.
        is_cancelled = isinstance(error, CancelledError) or not isinstance(error, Exception)
        state = DrillState.CANCELLED if is_cancelled else DrillState.FAILED
        _break_off(run, plan, story, state, str(error))
        raise
    report = story.report()
    run.note(
        "drill.ended",
        target=plan.target,
        outcome=report.state.value,
        recovered_s=report.recovered_s,
        rto_s=report.rto_s,
        for_real=True,
    )
    found: dict[str, JsonValue] = report.model_dump(mode="json")
    return found


def _approvals_needed(run: Run, plan: DrillPlan) -> int:
    """How many have to sign, as the worker's own fleet file says: at least one.

    Raises:
        BadInput: the plan is for isolation.
        PolicyRefused: the plan asks for fewer.
    """
    if plan.for_real is None:
        raise BadInput("the plan is for isolation", where=f"flow {run.id}")
    needed = needed_for(Action.DRILL, load_fleet(run.ground.fleet_file).governance)
    if plan.for_real.approvals_needed < needed:
        raise PolicyRefused(
            f"the plan asks for {plan.for_real.approvals_needed} approvals, not for {needed}",
            where=f"flow {run.id}",
            mend="plan it again: ./fleet dr.drill --for-real",
        )
    return needed


def _demand_not_ended(run: Run, story: Story) -> None:
    """Refuse to go on with what was cut short: production was given back, or is being so.

    Raises:
        Failed: what was signed is used up.
    """
    report = story.report()
    if report.ended_at is not None and report.state not in {DrillState.MET, DrillState.MISSED}:
        raise Failed(
            "has ended, and does not hit production a second time",
            where=f"flow {run.id}",
            mend="ask anew: ./fleet dr.drill --for-real --apply",
        )


def _demand_admitted(run: Run, plan: DrillPlan) -> None:
    demand_in_time(run.ground, run.id)
    demand_same_fleet(run.ground, plan)
    demand_open(run.ground, plan, actor=run.actor, flow=run.id)
    demand_as_approved(run.ground, plan)


def _announce(run: Run, story: Story) -> None:
    story.begin()
    fleet = load_fleet(run.ground.fleet_file)
    good, _ = run.ground.approvals.approvals(run.id, fleet.identities)
    story.approved([each.signer for each in good])


def _play(run: Run, plan: DrillPlan, story: Story) -> None:
    """Play the scenario, with keys of its own that open what is hit and nothing else."""
    longest_s = plan.for_real.at_most_s if plan.for_real else 0.0
    stage = ProductionStage(run.ground, run.id, plan.scenario)
    with asked_with(
        run.ground,
        plan.use_cases,
        lasts_s=longest_s + STEADY_WITHIN_S,
        rate_rpm=RATE_RPM,
        on_issued=story.issued,
    ) as asking:
        script = for_real_script(run.ground, plan, stage, story)
        ForRealPlay(run, plan, story, stage, asking, script).perform()


def _give_back(run: Run, story: Story) -> None:
    """Give production back, in the order in which it never lacks what serves.

    Raises:
        Retryable: what was lost is not ready again in time; the worker's chore goes on.
    """
    back = Returning.of(run.ground, story.report())
    if back is None:
        return
    waits = ""

    def is_back() -> bool:
        nonlocal waits
        waits = back.proceed()
        return not waits

    if not wait_until(is_back, BACK_WITHIN_S, _LOOK_EVERY_S):
        raise Retryable(waits or "a site does not answer", where=f"flow {run.id}")
    run.note("drill.given_back", target=story.report().target)
    story.given_back()
    back.clean()
    story.cleaned()
