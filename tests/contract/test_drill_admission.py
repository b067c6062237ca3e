"""When production may be hit by a drill at all, on both kinds of database, with real keys."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpufleet.core.approvals import digest_of
from gpufleet.core.leases import DRILL_LEASE, ENVIRONMENT, lease_of
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.approvals import Question, Signer, ask, give
from gpufleet.flows.drills import for_real_admission, for_real_request
from gpufleet.flows.drills.for_real_admission import (
    demand_as_approved,
    demand_in_time,
    demand_open,
    demand_quiet,
    demand_same_fleet,
    demand_told,
)
from gpufleet.flows.drills.for_real_request import request_for_real
from gpufleet.flows.drills.requests import begin, planned
from gpufleet.flows.ground import Ground
from gpufleet.spec.approvals import Action, Scope
from gpufleet.spec.drills import (
    Cordoned,
    DrillPlan,
    DrillReport,
    DrillState,
    ForReal,
    Outlook,
    Placed,
)
from gpufleet.spec.errors import BadInput, PolicyRefused, Retryable
from gpufleet.spec.overrides import Override
from gpufleet.spec.records import Claim
from gpufleet.spec.reports import FreezeRow
from gpufleet.spec.windows import ChangeKind

if TYPE_CHECKING:
    from collections.abc import Callable

NOON = datetime(2026, 10, 20, 12, tzinfo=UTC)
FROZEN_NOON = datetime(2026, 9, 30, 12, tzinfo=UTC)
FREEZE = (
    "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\nBEGIN:VEVENT\r\nUID:1@test\r\n"
    "DTSTAMP:20260901T000000Z\r\nSUMMARY:Quarter end\r\nDTSTART:20260929T000000Z\r\n"
    "DTEND:20261002T000000Z\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
)


@pytest.fixture
def ground(workspace: Workspace, fleet_file: Path, keys: dict[str, Path]) -> Ground:
    """An environment with a freeze at the end of a quarter, and two people who may approve."""
    people = "".join(
        f"  {name}:\n    name: {name}\n    email: {name}@example.com\n    roles: [platform]\n"
        f"    ssh_keys: [{keys[name].with_suffix('.pub').read_text().strip()}]\n"
        for name in ("mara", "jonas")
    )
    text = fleet_file.read_text().replace("identities:\n", f"identities:\n{people}")
    text = text.replace(
        "freeze_calendars:\n",
        "freeze_calendars:\n  quarter: {file: quarter.ics, stale_after_s: 2y}\n",
    )
    fleet_file.write_text(text)
    (fleet_file.parent / "quarter.ics").write_text(FREEZE)
    return replace(Ground.open(workspace, fleet_file), clock=lambda: NOON)


def plan(ground: Ground, **more: object) -> DrillPlan:
    lost = Placed(
        pool="answers",
        site="main",
        node_group="h100",
        replicas=1,
        nodes_per_replica=1,
        gpus_per_node=1,
    )
    return DrillPlan(
        fleet=ground.fleet.fleet,
        environment=ground.fleet.environment,
        fleet_digest=digest_of(ground.fleet),
        scenario="gpu-lost",
        target="answers@main",
        use_cases=["answers"],
        lost=[lost],
        placed=[lost],
        unheld={},
        notes=[],
        outlook=Outlook(phases=[], recovered_s=1, rto_s=60, source="", remedies=[]),
        for_real=ForReal(at_most_s=600, approvals_needed=1),
    ).model_copy(update=more)


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the worker was handed."""
    orders: list[dict[str, Any]] = []
    monkeypatch.setattr(for_real_request, "submit", lambda *args: orders.append(args[-1]))
    return orders


def test_a_drill_for_real_is_signed_by_somebody_else_before_it_begins(
    ground: Ground, keys: dict[str, Path], submitted: list[dict[str, Any]]
) -> None:
    assert ground.fleet.governance.approvals_required == 0
    mara, jonas = (Signer(name, keys[name]) for name in ("mara", "jonas"))
    flow = request_for_real(ground, plan(ground), mara, "the yearly one")
    (order,) = submitted
    assert order["actor"] == "mara"
    request, _ = ground.approvals.request(flow)
    assert request.plan_digest == digest_of(DrillPlan.model_validate(order["plan"]))
    assert any("FOR REAL" in str(line) for line in request.summary["hits"])  # type: ignore[union-attr]
    with pytest.raises(PolicyRefused, match="nobody approves a request of their own"):
        give(ground, mara, flow)
    assert give(ground, jonas, flow).signer == "jonas"


def test_a_signature_for_a_drill_for_real_counts_for_an_hour(
    ground: Ground, keys: dict[str, Path], submitted: list[dict[str, Any]]
) -> None:
    mara, jonas = (Signer(name, keys[name]) for name in ("mara", "jonas"))
    flow = request_for_real(ground, plan(ground), mara)
    assert submitted
    soon = replace(ground, clock=lambda: NOON + timedelta(minutes=59))
    late = replace(ground, clock=lambda: NOON + timedelta(minutes=61))
    with pytest.raises(PolicyRefused, match="expired"):
        give(late, jonas, flow)
    assert give(soon, jonas, flow).expires_at == NOON + timedelta(hours=1)
    demand_in_time(soon, flow)
    # Signed in time, and admitted too late: its worker was away.
    with pytest.raises(PolicyRefused, match="has ended at 2026-10-20 13:00:00 UTC"):
        demand_in_time(late, flow)
    # Whatever a request says of itself, the worker counts from when it was asked for.
    scope = Scope(
        fleet=ground.fleet.fleet, environment=ground.fleet.environment, action=Action.DRILL
    )
    week = Question("drill-for-real-7", scope, digest_of(plan(ground)), {})
    ask(ground, mara, week)
    with pytest.raises(PolicyRefused, match="has ended"):
        demand_in_time(late, "drill-for-real-7")


def test_nobody_begins_a_drill_for_real_without_signing_it(ground: Ground) -> None:
    with pytest.raises(BadInput, match="somebody has to sign"):
        begin(ground, plan(ground), "", None)


def test_a_freeze_refuses_a_drill_for_real_and_nothing_is_asked(
    ground: Ground, keys: dict[str, Path], submitted: list[dict[str, Any]]
) -> None:
    frozen = replace(ground, clock=lambda: FROZEN_NOON)
    with pytest.raises(PolicyRefused, match="Quarter end"):
        request_for_real(frozen, plan(ground), Signer("mara", keys["mara"]))
    assert submitted == []
    assert ground.approvals.requests() == []
    # One that would not be given back before the freeze is refused as well.
    late = replace(ground, clock=lambda: datetime(2026, 9, 28, 23, 45, tzinfo=UTC))
    with pytest.raises(PolicyRefused, match="Quarter end"):
        demand_open(late, plan(ground))


def test_an_override_that_is_for_one_flow_lifts_no_freeze_for_a_drill(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = "drill-for-real-1"
    frozen = replace(ground, clock=lambda: FROZEN_NOON)
    override = Override(
        id="override-1",
        sites=["main"],
        changes=list(ChangeKind),
        begins_at=FROZEN_NOON - timedelta(hours=1),
        ends_at=FROZEN_NOON + timedelta(hours=8),
        why="the yearly one",
        requester="mara",
    )
    given: list[Override] = []
    monkeypatch.setattr(for_real_admission, "overrides_in_force", lambda _: given)
    monkeypatch.setattr(for_real_admission, "note_use", lambda *_args, **_more: None)
    # The site's cluster, which is told of no such override, would refuse what is taken.
    given[:] = [override.model_copy(update={"flow": flow})]
    with pytest.raises(PolicyRefused, match="Quarter end"):
        demand_open(frozen, plan(ground), actor="mara", flow=flow)
    given[:] = [override]
    demand_open(frozen, plan(ground), actor="mara", flow=flow)


def test_nothing_fails_where_a_cluster_is_frozen_or_does_not_know(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    rows: list[FreezeRow] = [FreezeRow(site="main", frozen=False, message="open")]

    def sync(_: Ground, sites: list[str]) -> list[FreezeRow]:
        asked.append(sites)
        return rows

    monkeypatch.setattr(for_real_admission, "sync", sync)
    demand_told(ground, plan(ground))
    assert asked == [["main"]]
    rows[:] = [FreezeRow(site="main", frozen=True, message="Quarter end")]
    with pytest.raises(PolicyRefused, match="Quarter end"):
        demand_told(ground, plan(ground))


def test_what_does_not_fit_any_more_as_it_was_approved_is_planned_again(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [plan(ground)]
    monkeypatch.setattr(for_real_admission, "plan_for_real", lambda *_: now[0])
    demand_as_approved(ground, plan(ground))
    (one,) = plan(ground).placed
    now[0] = plan(ground, placed=[one.model_copy(update={"node_group": "spare"})])
    with pytest.raises(PolicyRefused, match="something else than was approved") as refused:
        demand_as_approved(ground, plan(ground))
    assert "plan it again" in (refused.value.mend or "")


@pytest.mark.parametrize("target", [ENVIRONMENT, lease_of("main")])
def test_a_drill_for_real_is_refused_while_somebody_changes_what_it_hits(
    ground: Ground, target: str
) -> None:
    with (
        ground.holding(target, why="up"),
        pytest.raises(PolicyRefused, match="held by up by"),
    ):
        demand_quiet(ground, plan(ground))
    with ground.holding(lease_of("elsewhere"), why="patch"):
        demand_quiet(ground, plan(ground))


def hit(ground: Ground, flow: str = "drill-for-real-0") -> None:
    """Another drill has taken a replica at `main`, and has not given it back."""
    lost = Cordoned(
        site="main", node="n1", pool="answers", namespace="any", pod="a-1", uid="1", before=1
    )
    ground.drills.begin(
        DrillReport(
            flow=flow,
            scenario="gpu-lost",
            target="answers@main",
            actor="mara",
            state=DrillState.FAILED,
            begun_at=NOON,
            ended_at=NOON,
            outlook=plan(ground).outlook,
            for_real=ForReal(at_most_s=600, approvals_needed=1, cordoned=lost),
        )
    )


def given_back(report: DrillReport) -> DrillReport:
    return report.model_copy(update={"given_back_at": NOON})


def test_production_that_is_not_given_back_is_hit_by_no_other_drill(
    ground: Ground, keys: dict[str, Path], submitted: list[dict[str, Any]]
) -> None:
    hit(ground)
    told = "not given back yet after gpu-lost answers@main for real"
    with pytest.raises(PolicyRefused, match=told):
        request_for_real(ground, plan(ground), Signer("mara", keys["mara"]))
    assert submitted == []
    # One that was signed before is refused when it is admitted.
    with pytest.raises(PolicyRefused, match=told):
        demand_as_approved(ground, plan(ground))
    ground.drills.change("drill-for-real-0", given_back)
    request_for_real(ground, plan(ground), Signer("mara", keys["mara"]))


def test_until_production_is_given_back_nobody_changes_patches_or_drills_it(
    ground: Ground,
) -> None:
    hit(ground)
    targets = [ENVIRONMENT, DRILL_LEASE, lease_of("main")]
    for target in targets:
        with pytest.raises(Retryable, match="production is not given back yet"):
            ground.leases.acquire(Claim(target=target, owner="change-1", holder="mara"))
    # The drill itself goes on, and so does what it does not touch.
    for target, owner in (
        (ENVIRONMENT, "drill-for-real-0"),
        (lease_of("elsewhere"), "patch-1"),
        ("snapshot:answers", "snapshot-1"),
    ):
        ground.leases.release(
            ground.leases.acquire(Claim(target=target, owner=owner, holder="any"))
        )
    ground.drills.change("drill-for-real-0", given_back)
    for target in targets:
        ground.leases.acquire(Claim(target=target, owner="change-1", holder="mara"))


def test_a_use_case_that_would_be_down_refuses_a_drill_for_real(
    ground: Ground, keys: dict[str, Path], submitted: list[dict[str, Any]]
) -> None:
    mara = Signer("mara", keys["mara"])
    down = plan(ground, unheld={"answers": "no GPUs are free"})
    with pytest.raises(PolicyRefused, match="--accept-loss answers"):
        request_for_real(ground, down, mara)
    accepted = ForReal(at_most_s=600, approvals_needed=1, accepted=["answers"])
    request_for_real(ground, down.model_copy(update={"for_real": accepted}), mara)
    assert len(submitted) == 1


def test_a_fleet_file_that_was_changed_since_refuses_what_was_signed(ground: Ground) -> None:
    approved = plan(ground)
    demand_same_fleet(ground, approved)
    text = ground.fleet_file.read_text()
    ground.fleet_file.write_text(text.replace("pue: 1.3", "pue: 1.4"))
    with pytest.raises(PolicyRefused, match="not the one that was planned and approved"):
        demand_same_fleet(ground, approved)


def test_a_drill_for_real_names_what_it_hits_and_what_can_be_given_back(ground: Ground) -> None:
    asked: list[tuple[Callable[[], object], str]] = [
        (lambda: planned(ground, "gpu-lost", for_real=True), "names what it hits"),
        (lambda: planned(ground, "bad-snapshot", "answers@main", for_real=True), "not drilled"),
        (lambda: planned(ground, "gpu-lost", "answers@moon", for_real=True), "no such"),
        (lambda: planned(ground, "gpu-lost", accept_loss="answers"), "in isolation"),
    ]
    for plan_it, told in asked:
        with pytest.raises(BadInput, match=told):
            plan_it()
