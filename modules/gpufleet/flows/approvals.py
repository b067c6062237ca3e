"""Asking for approvals, giving them, and how requests stand."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from gpufleet.core.approvals import demand_signable, needed_for, standing, statement_of
from gpufleet.edges.approval_table import is_by
from gpufleet.edges.ssh_signatures import sign
from gpufleet.flows.ground import Ground
from gpufleet.flows.operations import new_id
from gpufleet.spec import forms
from gpufleet.spec.approvals import (
    APPROVAL,
    REQUEST,
    Action,
    Approval,
    ApprovalRequest,
    Scope,
    Signed,
    Standing,
)
from gpufleet.spec.errors import BadInput, PolicyRefused

EXPIRES_WITHIN: Final = timedelta(days=7)


@dataclass(frozen=True)
class Signer:
    """Who signs, and with which key."""

    identity: str
    key: Path


@dataclass(frozen=True)
class Question:
    """What others are asked to sign."""

    flow: str
    scope: Scope
    plan_digest: str
    summary: dict[str, JsonValue]
    expires_at: datetime | None = None
    """When approvals end to count; after `EXPIRES_WITHIN` where it is not given."""


def ask(ground: Ground, signer: Signer, question: Question) -> ApprovalRequest:
    """Ask others to sign a plan; whoever asks signs the request.

    Raises:
        BadInput: the identity or the key.
        PolicyRefused: the key is not one of the identity's.
    """
    now = ground.clock()
    request = ApprovalRequest(
        id=question.flow,
        scope=question.scope,
        plan_digest=question.plan_digest,
        summary=question.summary,
        requester=signer.identity,
        requested_at=now,
        expires_at=question.expires_at or now + EXPIRES_WITHIN,
    )
    signed = _signed(ground, signer, statement_of(request), REQUEST)
    ground.approvals.ask(request, signed)
    ground.note(
        "approval.requested",
        actor=signer.identity,
        target=request.id,
        plan=request.plan_digest,
    )
    return request


def ask_for(
    ground: Ground, signer: Signer, *, action: str, plan: str, targets: list[str]
) -> ApprovalRequest:
    """Ask others for an action that is done later, by the digest of its plan.

    Raises:
        BadInput: the action, the digest, the identity or the key.
        PolicyRefused: the key is not one of the identity's.
    """
    if action not in list(Action):
        known = ", ".join(Action)
        raise BadInput(f"there is no action `{action}`", where="--action", mend=f"one of {known}")
    if not re.match(forms.DIGEST, plan):
        raise BadInput("is not a digest", where="--plan", mend=forms.MEANINGS[forms.DIGEST])
    fleet = ground.fleet
    scope = Scope(
        fleet=fleet.fleet,
        environment=fleet.environment,
        action=Action(action),
        targets=sorted(targets),
    )
    flow = new_id(action, ground.clock())
    return ask(ground, signer, Question(flow, scope, plan, {}))


def give(ground: Ground, signer: Signer, request_id: str) -> Approval:
    """Sign a request of somebody else.

    Raises:
        BadInput: the request, the identity or the key.
        PolicyRefused: this identity cannot approve it: their own, another role, expired.
    """
    request, _ = ground.approvals.request(request_id)
    _known(ground, signer.identity)
    now = ground.clock()
    demand_signable(request, signer.identity, ground.fleet.identities, now)
    approval = Approval(
        request=request.id,
        scope=request.scope,
        plan_digest=request.plan_digest,
        signer=signer.identity,
        signed_at=now,
        expires_at=request.expires_at,
    )
    signed = _signed(ground, signer, statement_of(approval), APPROVAL)
    ground.approvals.give(approval, signed)
    ground.note(
        "approval.given",
        actor=signer.identity,
        target=request.id,
        plan=request.plan_digest,
        signature=signed.signature,
    )
    return approval


def stands(ground: Ground) -> list[tuple[ApprovalRequest, Standing]]:
    """Every request with how it stands, newest first."""
    found = []
    for request in ground.approvals.requests():
        good, bad = ground.approvals.approvals(request.id, ground.fleet.identities)
        now = ground.clock()
        needed = needed_for(request.scope.action, ground.fleet.governance)
        judged = standing(request, good, ground.fleet.identities, needed=needed, now=now)
        judged = judged.model_copy(update={"refused": [*bad, *judged.refused]})
        found.append((request, judged))
    return found


def change_scope(ground: Ground) -> Scope:
    """A change of the whole environment."""
    fleet = ground.fleet
    return Scope(fleet=fleet.fleet, environment=fleet.environment, action=Action.CHANGE)


def _signed(ground: Ground, signer: Signer, statement: str, namespace: str) -> Signed:
    _known(ground, signer.identity)
    signed = Signed(statement=statement, signature=sign(statement.encode(), signer.key, namespace))
    if not is_by(signer.identity, signed, ground.fleet.identities, namespace):
        raise PolicyRefused(
            f"{signer.key} is not a declared key of {signer.identity}",
            where=f"identities.{signer.identity}.ssh_keys",
            mend="sign with the key that the fleet file declares, or declare this one",
        )
    return signed


def _known(ground: Ground, identity: str) -> None:
    if identity not in ground.fleet.identities:
        known = ", ".join(sorted(ground.fleet.identities)) or "none"
        raise BadInput(
            f"there is no identity `{identity}`", where="--identity", mend=f"there are: {known}"
        )
