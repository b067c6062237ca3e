"""What people do with drills: submit one, read its story, and see how they go over time."""

from typing import Any

from gpufleet.core.drills.verdict import trends
from gpufleet.flows.approvals import Signer
from gpufleet.flows.drills.drilling import DRILL
from gpufleet.flows.drills.for_real_plan import plan_for_real
from gpufleet.flows.drills.for_real_request import request_for_real
from gpufleet.flows.drills.planning import plan_drill
from gpufleet.flows.ground import Ground, whoami
from gpufleet.flows.operations import new_id, submit
from gpufleet.spec.drills import DrillPlan, DrillReport, Trend
from gpufleet.spec.errors import BadInput


def planned(
    ground: Ground,
    scenario: str,
    target: str = "",
    *,
    for_real: bool = False,
    accept_loss: str = "",
) -> DrillPlan:
    """What a drill would do, in isolation or for real; changes nothing.

    Args:
        ground: the environment.
        scenario: name of it.
        target: what is lost.
        for_real: whether production itself is hit.
        accept_loss: use cases that may be down then, with commas.

    Raises:
        BadInput: as `plan_drill` and `plan_for_real`.
        Retryable: a site does not answer.
    """
    if for_real:
        accepted = [name.strip() for name in accept_loss.split(",") if name.strip()]
        return plan_for_real(ground, scenario, target, accepted)
    if accept_loss:
        what = "in isolation nothing of production is lost"
        raise BadInput(what, where="--accept-loss", mend="leave it out, or give --for-real")
    return plan_drill(ground, scenario, target)


def begin(ground: Ground, plan: DrillPlan, why: str, signer: Signer | None) -> str:
    """Hand a plan to the worker; one for real waits there for the signatures of others.

    Returns:
        The flow's id.

    Raises:
        BadInput: nobody signs what hits production.
        FleetError: as `request_for_real`.
    """
    if plan.for_real is None:
        return request_drill(ground, plan, why)
    if signer is None:
        raise BadInput("somebody has to sign", where="--identity")
    return request_for_real(ground, plan, signer, why)


def request_drill(ground: Ground, plan: DrillPlan, why: str = "") -> str:
    """Hand a plan to the worker.

    Returns:
        The flow's id.
    """
    flow = new_id(DRILL, ground.clock())
    order: dict[str, Any] = {
        "actor": whoami(),
        "plan": plan.model_dump(mode="json"),
        "why": why,
    }
    submit(ground, DRILL, flow, order)
    return flow


def reports(ground: Ground, flow: str = "", scenario: str = "") -> list[DrillReport]:
    """The stories of drills, newest first; or that of one.

    Raises:
        BadInput: there is no such drill.
    """
    return [ground.drills.report(flow)] if flow else ground.drills.reports(scenario)


def latest(ground: Ground, flow: str = "", scenario: str = "") -> DrillReport:
    """The story of one drill: the newest, where none is named.

    Raises:
        BadInput: there is no such drill, or none yet.
    """
    found = reports(ground, flow, scenario)
    if not found:
        raise BadInput(
            "there was no drill yet", where=ground.fleet.slug, mend="./fleet dr.drill begins one"
        )
    return found[0]


def history(ground: Ground, report: DrillReport) -> tuple[list[DrillReport], list[Trend]]:
    """Drills of the same scenario and target, oldest first, and how they go.

    Those for real are compared with those for real.
    """
    same = [
        each
        for each in ground.drills.reports(report.scenario, report.target)
        if (each.for_real is None) == (report.for_real is None)
    ]
    return sorted(same, key=lambda each: each.begun_at), trends(same)
