from datetime import UTC, datetime, timedelta

import pytest

from gpufleet.core.approvals import demand_signable, digest_of, standing
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.approvals import Action, Approval, ApprovalRequest, Scope
from gpufleet.spec.errors import PolicyRefused

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
IDENTITIES = load_fleet(PROJECT_ROOT / "fleets" / "sample" / "production.yaml").identities
SCOPE = Scope(fleet="sample", environment="production", action=Action.CHANGE)
PLAN = f"sha256:{'1' * 64}"
REQUEST = ApprovalRequest(
    id="change-1",
    scope=SCOPE,
    plan_digest=PLAN,
    requester="jonas",
    requested_at=NOON,
    expires_at=NOON + timedelta(days=7),
)
GOOD = Approval(
    request="change-1",
    scope=SCOPE,
    plan_digest=PLAN,
    signer="mara",
    signed_at=NOON + timedelta(minutes=5),
    expires_at=NOON + timedelta(days=7),
)
LATER = NOON + timedelta(hours=1)


def test_an_approval_by_another_counts() -> None:
    found = standing(REQUEST, [GOOD], IDENTITIES, needed=1, now=LATER)
    assert found.is_granted
    assert found.valid == ["mara"]


def test_one_signer_counts_once() -> None:
    assert not standing(REQUEST, [GOOD, GOOD], IDENTITIES, needed=2, now=LATER).is_granted


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"signer": "jonas"}, "of their own"),
        ({"signer": "nobody"}, "no such identity"),
        ({"request": "change-2"}, "another request"),
        ({"plan_digest": f"sha256:{'2' * 64}"}, "another plan"),
        ({"scope": SCOPE.model_copy(update={"environment": "staging"})}, "another scope"),
        ({"scope": SCOPE.model_copy(update={"action": Action.OVERRIDE})}, "another scope"),
        ({"scope": SCOPE.model_copy(update={"targets": ["fra1"]})}, "another scope"),
        ({"expires_at": LATER}, "has expired"),
        ({"signed_at": NOON - timedelta(hours=1)}, "before the request"),
        ({"signed_at": LATER + timedelta(hours=1)}, "in the future"),
    ],
)
def test_an_approval_that_is_not_for_this_does_not_count(
    changed: dict[str, object], why: str
) -> None:
    approval = GOOD.model_copy(update=changed)
    found = standing(REQUEST, [approval], IDENTITIES, needed=1, now=LATER)
    assert not found.is_granted
    assert why in found.refused[0]


def test_an_identity_without_a_role_for_it_does_not_count() -> None:
    finance = next(
        name
        for name, found in IDENTITIES.items()
        if [role.value for role in found.roles] == ["finance"]
    )
    approval = GOOD.model_copy(update={"signer": finance})
    found = standing(REQUEST, [approval], IDENTITIES, needed=1, now=LATER)
    assert "needs one of the roles" in found.refused[0]


def test_nothing_counts_once_the_request_has_expired() -> None:
    now = REQUEST.expires_at
    kept = GOOD.model_copy(update={"expires_at": now + timedelta(days=1)})
    assert (
        "request has expired" in standing(REQUEST, [kept], IDENTITIES, needed=1, now=now).refused[0]
    )


def test_nobody_is_let_sign_what_would_not_count() -> None:
    with pytest.raises(PolicyRefused, match="of their own"):
        demand_signable(REQUEST, "jonas", IDENTITIES, LATER)
    demand_signable(REQUEST, "mara", IDENTITIES, LATER)


def test_a_digest_tells_one_fleet_from_another() -> None:
    fleet = load_fleet(PROJECT_ROOT / "fleets" / "sample" / "production.yaml")
    other = fleet.model_copy(update={"currency": "USD"})
    assert digest_of(fleet) == digest_of(fleet.model_copy())
    assert digest_of(fleet) != digest_of(other)
