"""Waiting until enough others have signed a flow's plan."""

from gpufleet.core.approvals import digest_of, standing
from gpufleet.edges.approval_table import demand_signed_request
from gpufleet.flows.durable import Run
from gpufleet.spec import load_fleet
from gpufleet.spec.approvals import ApprovalRequest
from gpufleet.spec.changes import ChangePlan
from gpufleet.spec.drills import DrillPlan
from gpufleet.spec.errors import PolicyRefused
from gpufleet.spec.patching import PatchPlan

Plan = ChangePlan | PatchPlan | DrillPlan


def wait_approved(run: Run, plan: Plan, *, needed: int, event: str, again: str) -> None:
    """Wait for the signatures; the journal then names who gave them.

    Args:
        run: the flow, whose id is that of the request.
        plan: what was to be signed.
        needed: how many others have to.
        event: name of the fact in the journal.
        again: the command that asks anew.

    Raises:
        PolicyRefused: they did not come in time, or the request itself does not count.
    """
    ground = run.ground

    def lacking() -> str:
        return _missing(run, plan, needed, event)

    run.wait(
        "approvals",
        lacking,
        within=ground.approvals.request(run.id)[0].expires_at - ground.clock(),
        late=lambda: PolicyRefused(
            f"was not approved in time: {lacking()}",
            where=f"flow {run.id}",
            mend=f"ask again: {again}",
        ),
    )


def _missing(run: Run, plan: Plan, needed: int, event: str) -> str:
    """What the approvals still lack; empty where there are enough.

    Judged by the identities of the worker's own fleet file, never by those of a file sent along.

    Raises:
        PolicyRefused: the request itself does not count.
    """
    fleet = load_fleet(run.ground.fleet_file)
    request, signed = run.ground.approvals.request(run.id)
    demand_signed_request(request, signed, fleet.identities)
    _demand_about(request, plan)
    good, bad = run.ground.approvals.approvals(run.id, fleet.identities)
    found = standing(request, good, fleet.identities, needed=needed, now=run.ground.clock())
    if found.is_granted:
        run.note(event, by=list(found.valid))
        return ""
    refused = "".join(f"; {fault}" for fault in (*bad, *found.refused))
    return (
        f"{len(found.valid)} of {found.needed} approvals{refused} (./fleet approve.sign {run.id})"
    )


def _demand_about(request: ApprovalRequest, plan: Plan) -> None:
    scope = request.scope
    if request.plan_digest != digest_of(plan) or (scope.fleet, scope.environment) != (
        plan.fleet,
        plan.environment,
    ):
        raise PolicyRefused("is for another plan", where=f"request {request.id}")
