"""Whether enough other people have signed a plan: the one place that decides it.

An approval counts if it is for this very request, plan and scope, by another identity than the one
who asked, who has a role for it, signed after the request and before both have expired. The
signatures themselves are checked by the caller, with the keys that the fleet file declares.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import BaseModel

from gpufleet.spec.approvals import ROLES, Action, Approval, ApprovalRequest, Standing
from gpufleet.spec.errors import PolicyRefused
from gpufleet.spec.governance import Governance, Identity

CLOCK_SKEW: Final = timedelta(minutes=5)


def statement_of(content: BaseModel) -> str:
    """The canonical JSON that is signed: sorted keys, no spaces, moments in UTC."""
    return json.dumps(
        content.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True
    )


def digest_of(content: BaseModel) -> str:
    """`sha256:` and the digest of the canonical JSON."""
    return f"sha256:{hashlib.sha256(statement_of(content).encode()).hexdigest()}"


def needed_for(action: Action, governance: Governance) -> int:
    """How many others have to sign.

    An override is always signed by one; what it lets through still needs its own approvals. A drill
    that hits production is signed by one at least.
    """
    if action is Action.OVERRIDE:
        return 1
    least = 1 if action is Action.DRILL else 0
    return max(least, governance.approvals_required)


def standing(
    request: ApprovalRequest,
    approvals: Iterable[Approval],
    identities: Mapping[str, Identity],
    *,
    needed: int,
    now: datetime,
) -> Standing:
    """How a request stands with the approvals whose signatures were found to be good."""
    valid: list[str] = []
    refused: list[str] = []
    for approval in approvals:
        fault = _fault(request, approval, identities, now)
        if fault:
            refused.append(f"{approval.signer}: {fault}")
        elif approval.signer not in valid:
            valid.append(approval.signer)
    return Standing(valid=valid, needed=needed, refused=refused)


def demand_signable(
    request: ApprovalRequest, signer: str, identities: Mapping[str, Identity], now: datetime
) -> None:
    """Refuse a signature that would not count, before anybody signs.

    Raises:
        PolicyRefused: says why.
    """
    approval = Approval(
        request=request.id,
        scope=request.scope,
        plan_digest=request.plan_digest,
        signer=signer,
        signed_at=now,
        expires_at=request.expires_at,
    )
    if fault := _fault(request, approval, identities, now):
        raise PolicyRefused(f"{signer} cannot approve this: {fault}", where=f"request {request.id}")


def _fault(
    request: ApprovalRequest,
    approval: Approval,
    identities: Mapping[str, Identity],
    now: datetime,
) -> str:
    """Why an approval does not count; empty if it does."""
    identity = identities.get(approval.signer)
    roles = ROLES[request.scope.action]
    faults = {
        "it is for another request": approval.request != request.id,
        "it is for another plan": approval.plan_digest != request.plan_digest,
        "it is for another scope": approval.scope != request.scope,
        "nobody approves a request of their own": approval.signer == request.requester,
        "the fleet file declares no such identity": identity is None,
        f"needs one of the roles {', '.join(sorted(roles))}": (
            identity is not None and roles.isdisjoint(identity.roles)
        ),
        "it was signed before the request": (
            _utc(approval.signed_at) < _utc(request.requested_at) - CLOCK_SKEW
        ),
        "it is dated in the future": _utc(approval.signed_at) > _utc(now) + CLOCK_SKEW,
        "it has expired": _utc(approval.expires_at) <= _utc(now),
        "the request has expired": _utc(request.expires_at) <= _utc(now),
    }
    return next((fault for fault, holds in faults.items() if holds), "")


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
