"""Submitting a planned change to the worker."""

from typing import Any

from gpufleet.core.approvals import digest_of
from gpufleet.core.cluster_worker import worker_site
from gpufleet.edges.declared_files import read_declared
from gpufleet.flows import approvals
from gpufleet.flows.approvals import Question, Signer
from gpufleet.flows.change import CHANGE
from gpufleet.flows.ground import Ground, whoami
from gpufleet.flows.operations import new_id, submit
from gpufleet.spec.changes import ChangePlan
from gpufleet.spec.errors import BadInput


def request_change(ground: Ground, plan: ChangePlan, signer: Signer | None) -> str:
    """Hand a plan to the worker, asking for approvals where the environment wants them.

    Returns:
        The flow's id.

    Raises:
        BadInput: approvals are needed, and nobody signs the request.
        PolicyRefused: the key is not one of the identity's.
    """
    flow = new_id(CHANGE, ground.clock())
    if plan.approvals_needed:
        if signer is None:
            raise BadInput(
                f"this environment wants {plan.approvals_needed} approvals of a change",
                where="--identity",
                mend="say who asks: --identity NAME --key ~/.ssh/id_ed25519",
            )
        scope = approvals.change_scope(ground)
        question = Question(flow, scope, digest_of(plan), plan.summary())
        approvals.ask(ground, signer, question)
    order: dict[str, Any] = {
        "actor": signer.identity if signer else whoami(),
        "plan": plan.model_dump(mode="json"),
        "fleet_file": str(ground.fleet_file),
    }
    if worker_site(ground.fleet):
        # A worker on a cluster does not see this clone.
        order["declared"] = read_declared(ground.fleet, ground.fleet_file)
    submit(ground, CHANGE, flow, order)
    return flow
