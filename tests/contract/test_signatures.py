"""Approvals with real keys and the real ssh-keygen, on both kinds of database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.conftest import small_fleet

from gpufleet.core.approvals import standing, statement_of
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import Database
from gpufleet.edges.ssh_signatures import is_signed, sign
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows.approvals import Question, Signer, ask, give, stands
from gpufleet.flows.ground import Ground
from gpufleet.spec.approvals import APPROVAL, REQUEST, Action, Approval, Scope, Signed
from gpufleet.spec.errors import BadInput, Failed, PolicyRefused
from gpufleet.spec.governance import Governance, Identity, Role

PLAN = f"sha256:{'1' * 64}"


@pytest.fixture
def ground(database: Database, keys: dict[str, Path], tmp_path: Path) -> Ground:
    """A fleet in which mara, jonas and eve have keys, and one approval is needed."""
    identities = {
        name: Identity(
            name=name,
            email=f"{name}@example.com",
            roles=[Role.PLATFORM],
            ssh_keys=[key.with_suffix(".pub").read_text().strip()],
        )
        for name, key in keys.items()
    }
    fleet = small_fleet("solo").model_copy(
        update={"identities": identities, "governance": Governance(approvals_required=1)}
    )
    state = EnvironmentDir(tmp_path / "state").make()
    return Ground(
        Workspace(PROJECT_ROOT), tmp_path / "fleet.yaml", fleet, state, database, system_clock
    )


def asked(ground: Ground, keys: dict[str, Path], flow: str = "change-1") -> str:
    scope = Scope(fleet="small", environment="production", action=Action.CHANGE)
    return ask(ground, Signer("jonas", keys["jonas"]), Question(flow, scope, PLAN, {})).id


def test_an_approval_by_another_person_grants(ground: Ground, keys: dict[str, Path]) -> None:
    request = asked(ground, keys)
    give(ground, Signer("mara", keys["mara"]), request)
    [(found, standing_)] = stands(ground)
    assert found.id == request
    assert standing_.is_granted
    events = [record.event for record in ground.journal.records()]
    assert events == ["approval.requested", "approval.given"]


def test_a_self_approval_is_refused(ground: Ground, keys: dict[str, Path]) -> None:
    request = asked(ground, keys)
    with pytest.raises(PolicyRefused, match="nobody approves a request of their own"):
        give(ground, Signer("jonas", keys["jonas"]), request)
    assert not stands(ground)[0][1].is_granted


def test_a_self_approval_that_was_put_into_the_table_does_not_count(
    ground: Ground, keys: dict[str, Path]
) -> None:
    request, _ = ground.approvals.request(asked(ground, keys))
    approval = Approval(
        request=request.id,
        scope=request.scope,
        plan_digest=request.plan_digest,
        signer="jonas",
        signed_at=system_clock(),
        expires_at=request.expires_at,
    )
    statement = statement_of(approval)
    signature = sign(statement.encode(), keys["jonas"], APPROVAL)
    ground.approvals.give(approval, Signed(statement=statement, signature=signature))
    [(_, found)] = stands(ground)
    assert not found.is_granted
    assert "of their own" in found.refused[0]


def test_a_request_in_another_name_is_refused(ground: Ground, keys: dict[str, Path]) -> None:
    scope = Scope(fleet="small", environment="production", action=Action.CHANGE)
    with pytest.raises(PolicyRefused, match="not a declared key of mara"):
        ask(ground, Signer("mara", keys["jonas"]), Question("change-1", scope, PLAN, {}))
    assert ground.approvals.requests() == []


def test_a_signature_with_an_unknown_key_is_refused(ground: Ground, keys: dict[str, Path]) -> None:
    request = asked(ground, keys)
    with pytest.raises(PolicyRefused, match="not a declared key of mara"):
        give(ground, Signer("mara", keys["eve"]), request)


def test_an_approval_of_one_flow_is_not_one_of_another(
    ground: Ground, keys: dict[str, Path]
) -> None:
    first, second = asked(ground, keys, "change-1"), asked(ground, keys, "change-2")
    give(ground, Signer("mara", keys["mara"]), first)
    good, _ = ground.approvals.approvals(first, ground.fleet.identities)
    request, _ = ground.approvals.request(second)
    found = standing(request, good, ground.fleet.identities, needed=1, now=system_clock())
    assert found.refused == ["mara: it is for another request"]


def test_a_statement_that_was_changed_after_it_was_signed_does_not_count(
    ground: Ground, keys: dict[str, Path]
) -> None:
    request = asked(ground, keys)
    given = give(ground, Signer("mara", keys["mara"]), request)
    longer = given.model_copy(update={"expires_at": given.expires_at + timedelta(days=365)})
    good_signature = sign(statement_of(given).encode(), keys["mara"], APPROVAL)
    forged = Signed(statement=statement_of(longer), signature=good_signature)
    ground.approvals.give(longer, forged)
    [(_, found)] = stands(ground)
    assert found.valid == []
    assert "not by a declared key" in found.refused[0]


def test_a_request_that_has_expired_cannot_be_signed(ground: Ground, keys: dict[str, Path]) -> None:
    request = asked(ground, keys)
    later = replace(ground, clock=lambda: datetime.now(UTC) + timedelta(days=8))
    with pytest.raises(PolicyRefused, match="has expired"):
        give(later, Signer("mara", keys["mara"]), request)


def test_a_signature_for_one_purpose_never_passes_for_another(keys: dict[str, Path]) -> None:
    public = keys["mara"].with_suffix(".pub").read_text().strip()
    signature = sign(b"text", keys["mara"], REQUEST)
    check = {"keys": [public], "identity": "mara"}
    assert is_signed(b"text", signature, namespace=REQUEST, **check)  # type: ignore[arg-type]
    assert not is_signed(b"text", signature, namespace=APPROVAL, **check)  # type: ignore[arg-type]
    assert not is_signed(b"text!", signature, namespace=REQUEST, **check)  # type: ignore[arg-type]
    assert not is_signed(b"text", "nonsense", namespace=REQUEST, **check)  # type: ignore[arg-type]


def test_an_agent_signs_with_a_key_whose_private_part_is_not_on_disk(
    keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch, ssh_agent: str
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", ssh_agent)
    public = keys["mara"].with_suffix(".pub")
    keys["mara"].unlink()
    signature = sign(b"text", public, APPROVAL)
    assert is_signed(
        b"text", signature, keys=[public.read_text().strip()], namespace=APPROVAL, identity="mara"
    )


def test_a_key_that_is_missing_or_no_key_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such key file"):
        sign(b"text", tmp_path / "none", APPROVAL)
    (tmp_path / "text").write_text("not a key")
    with pytest.raises(Failed, match="could not sign"):
        sign(b"text", tmp_path / "text", APPROVAL)
