"""Asking for a drill of production: planned in words, signed by others, handed to the worker."""

from typing import Any

from gpufleet.core.approvals import digest_of
from gpufleet.core.drills.production import SIGNED_WITHIN, demand_held
from gpufleet.core.drills.words import words
from gpufleet.flows import approvals
from gpufleet.flows.approvals import Question, Signer
from gpufleet.flows.drills.for_real import FOR_REAL
from gpufleet.flows.drills.for_real_admission import demand_open, demand_quiet
from gpufleet.flows.ground import Ground
from gpufleet.flows.operations import new_id, submit
from gpufleet.spec.approvals import Action, Scope
from gpufleet.spec.drills import DrillPlan


def request_for_real(ground: Ground, plan: DrillPlan, signer: Signer, why: str = "") -> str:
    """Ask others to sign a drill of production, and hand it to the worker, which waits for them.

    Returns:
        The flow's id.

    Raises:
        BadInput: the identity or the key.
        PolicyRefused: a use case would not be held that nobody has accepted to be down; a site is
            frozen; somebody changes the environment; or the key is not one of the identity's.
    """
    demand_held(plan)
    demand_open(ground, plan)
    demand_quiet(ground, plan)
    flow = new_id(FOR_REAL, ground.clock())
    scope = Scope(
        fleet=plan.fleet,
        environment=plan.environment,
        action=Action.DRILL,
        targets=[plan.target],
    )
    summary: dict[str, Any] = {"scenario": plan.scenario, "why": why, "hits": list(words(plan))}
    ends = ground.clock() + SIGNED_WITHIN
    approvals.ask(ground, signer, Question(flow, scope, digest_of(plan), summary, ends))
    order: dict[str, Any] = {
        "actor": signer.identity,
        "plan": plan.model_dump(mode="json"),
        "why": why,
    }
    submit(ground, FOR_REAL, flow, order)
    return flow
