"""A patch of hosts: approvals, wave after wave, a way back, and a report that tells the story."""

from typing import Any, Final

from pydantic import JsonValue

from gpufleet.core.approvals import digest_of
from gpufleet.core.freeze import Decision
from gpufleet.flows.approved import wait_approved
from gpufleet.flows.declared import LiveGround
from gpufleet.flows.durable import CancelledError, Run, flow
from gpufleet.flows.ground import Ground
from gpufleet.flows.patch_plan import decision_on, purpose_of
from gpufleet.flows.patch_story import Story
from gpufleet.flows.patch_wave import Patching, WaveRun
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import PolicyRefused, TargetMissed
from gpufleet.spec.patching import HostState, PatchPlan, PatchReport

PATCH: Final = "patch"
DONE: Final = "done"
ROLLED_BACK: Final = "rolled-back"
NOT_BEGUN: Final = "not-begun"
STOPPED: Final = "stopped"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"


@flow(PATCH)
def patch(run: Run, order: dict[str, Any]) -> dict[str, JsonValue]:
    """Patch hosts by a plan; each step finds what it has done before."""
    plan = PatchPlan.model_validate(order["plan"])
    story = Story(run, plan)
    patching = Patching(
        run,
        plan,
        purpose_of(plan),
        str(order.get("prometheus", "")),
        story,
        LiveGround(run.ground),
    )
    run.step("kept", story.begin)
    run.note(
        "patch.requested",
        plan=digest_of(plan),
        component=plan.order.component.value,
        part=plan.order.part.value,
        version=plan.order.version,
        hosts=len(plan.hosts),
        purpose=patching.purpose.value,
        why=plan.order.why,
        advisories=[advisory.id for advisory in plan.order.advisories],
    )
    try:
        run.step("as planned", lambda: _demand_same_fleet(patching))
        needed = load_fleet(run.ground.fleet_file).governance.approvals_required
        if needed:
            wait_approved(
                run,
                plan,
                needed=needed,
                event="patch.approved",
                again="./fleet patch.start --apply",
            )
            run.step("as approved", lambda: _demand_same_fleet(patching))
        stopped = ""
        for wave in plan.waves:
            if stopped := WaveRun(patching, wave).work():
                break
    except BaseException as error:
        # DBOS ends a cancelled flow by an error of its own that is no Exception.
        is_cancelled = isinstance(error, CancelledError) or not isinstance(error, Exception)
        outcome = CANCELLED if is_cancelled else FAILED
        run.note("patch.ended", outcome=outcome, detail=str(error))
        story.end(outcome)
        raise
    report = run.step("ended", lambda: _ended(run, story, stopped))
    return _result(run, PatchReport.model_validate(report), stopped)


def decisions(ground: Ground, flow_id: str, order: dict[str, Any]) -> dict[str, Decision]:
    """What the calendars say now of each site that a patch waits for, by its name."""
    plan = PatchPlan.model_validate(order["plan"])
    hosts: dict[str, list[str]] = {}
    for change in plan.hosts.values():
        hosts.setdefault(change.site, []).append(change.host)
    return {
        site: decision_on(ground, plan, site, names, purpose_of(plan), flow_id)
        for site, names in hosts.items()
    }


def _ended(run: Run, story: Story, stopped: str) -> dict[str, Any]:
    """Close the report."""
    told = run.ground.patches.report(run.id)
    outcome = outcome_of(told, stopped)
    run.note("patch.ended", outcome=outcome, detail=stopped)
    return story.end(outcome).model_dump(mode="json")


def outcome_of(report: PatchReport, stopped: str) -> str:
    """How a patch ended, by what came of its hosts."""
    if not stopped:
        return DONE
    if all(outcome.state is HostState.PENDING for outcome in report.hosts.values()):
        return NOT_BEGUN
    states = {outcome.state for outcome in report.waves[-1].hosts}
    gone_back = HostState.ROLLED_BACK in states and HostState.DONE not in states
    return ROLLED_BACK if gone_back else STOPPED


def _result(run: Run, report: PatchReport, stopped: str) -> dict[str, JsonValue]:
    if stopped:
        raise TargetMissed(
            f"was stopped in wave {report.waves[-1].number if report.waves else 1}: {stopped}",
            where=f"flow {run.id}",
            mend=f"./fleet patch.report --id {run.id} tells what came of each host",
        )
    found: dict[str, JsonValue] = report.model_dump(mode="json")
    return found


def _demand_same_fleet(patching: Patching) -> None:
    """Refuse a plan that was made for another fleet file; once begun it goes by its plan."""
    ground = patching.live.now()
    if digest_of(ground.fleet) != patching.plan.fleet_digest:
        raise PolicyRefused(
            "the fleet file is not the one that was planned and approved",
            where=str(ground.fleet_file),
            mend="plan it again: ./fleet patch.plan",
        )
