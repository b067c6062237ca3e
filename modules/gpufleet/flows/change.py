"""A change of an environment: plan, approvals, window, updates site by site, proof, journal."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from gpufleet.core.approvals import digest_of
from gpufleet.core.changes import expected_s, pool_changes
from gpufleet.core.freeze import Decision, refusal
from gpufleet.core.leases import ENVIRONMENT
from gpufleet.edges.declared_files import write_declared
from gpufleet.flows.approved import wait_approved
from gpufleet.flows.durable import WINDOW, Run, flow
from gpufleet.flows.environment import Environment, OnProgress
from gpufleet.flows.ground import Ground
from gpufleet.flows.outlook import outlook
from gpufleet.flows.overrides import note_use, overrides_in_force
from gpufleet.flows.provision import previews, update_site
from gpufleet.flows.readiness import wait_ready
from gpufleet.flows.stacks import stacks_of
from gpufleet.flows.state_backup import back_up
from gpufleet.flows.windows import decision_at
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.changes import ChangePlan, ChangeReport, Opening
from gpufleet.spec.errors import PolicyRefused

CHANGE: Final = "change"
_LEASE_WITHIN: Final = timedelta(hours=1)
_WINDOW_WITHIN: Final = timedelta(days=400)
_UPDATE_PATIENCE: Final = timedelta(minutes=30)
"""An update that a killed worker left behind goes on, and is waited for."""


def plan_change(ground: Ground, on_progress: OnProgress) -> ChangePlan:
    """What the fleet file, as it is now, would change; changes nothing.

    Raises:
        FleetError: says what to do.
    """
    environment = Environment.load(ground.workspace, ground.fleet_file, on_progress)
    environment.platform.up(on_progress)
    cli = environment.cli
    cli.prepare()
    fleet = environment.fleet
    last = ground.applied.last()
    expected = expected_s(ground.applied.durations_s())
    decided = {site: _decision(ground, fleet, site, expected, "") for site in fleet.sites}
    return ChangePlan(
        fleet=fleet.fleet,
        environment=fleet.environment,
        fleet_digest=digest_of(fleet),
        pools=pool_changes(last[1] if last else None, fleet),
        stacks=previews(environment, cli, stacks_of(fleet, ground.state), on_progress),
        openings=[
            Opening(
                site=site,
                open=decision.admitted,
                reason=decision.reason,
                opens=decision.opens.isoformat() if decision.opens else "",
            )
            for site, decision in decided.items()
        ],
        expected_s=expected,
        rollback_s=expected,
        approvals_needed=fleet.governance.approvals_required,
        capacity=outlook(last[1] if last else None, fleet, ground.fleet_file),
    )


@flow(CHANGE)
def change(run: Run, order: dict[str, Any]) -> dict[str, JsonValue]:
    """Apply a plan; each step finds what it has done before."""
    ground = run.ground
    plan = ChangePlan.model_validate(order["plan"])
    fleet_file = _fleet_file(run, order)
    run.note("change.requested", plan=digest_of(plan), changes=plan.changes)
    try:
        _demand_as_many_approvals(ground, plan)
        if plan.approvals_needed:
            wait_approved(
                run,
                plan,
                needed=plan.approvals_needed,
                event="change.approved",
                again="./fleet change --apply",
            )
        run.wait(
            WINDOW,
            lambda: _closed(run, load_fleet(fleet_file), plan),
            within=_WINDOW_WITHIN,
            late=lambda: PolicyRefused("no window has opened in 400 days", where=f"flow {run.id}"),
        )
        with run.holding(ENVIRONMENT, within=_LEASE_WITHIN):
            report = _apply(run, plan, fleet_file)
    except Exception as error:
        run.note("change.ended", outcome=type(error).__name__, detail=str(error))
        raise
    run.note("change.ended", outcome="done", seconds=report.seconds)
    return report.model_dump(mode="json")


def _fleet_file(run: Run, order: dict[str, Any]) -> Path:
    """In this clone; or, where the worker runs on a cluster, as it was sent along."""
    given = Path(order["fleet_file"])
    if "declared" not in order:
        return given
    folder = run.ground.state.root / "declared" / run.id
    write_declared(order["declared"], folder)
    return folder / given.name


def _apply(run: Run, plan: ChangePlan, fleet_file: Path) -> ChangeReport:
    clock = run.ground.clock
    environment = _same_environment(run, plan, fleet_file)
    begun = datetime.fromisoformat(run.step("begun", lambda: clock().isoformat()))
    stacks: list[JsonValue] = []
    for site in environment.fleet.sites:
        stacks += run.step(
            f"update {site}",
            lambda: _update(run, plan, fleet_file, site),  # noqa: B023 - run at once
            patience=_UPDATE_PATIENCE,
        )
    pools = run.step("every replica ready", lambda: _ready(run, environment))
    seconds = run.step("time", lambda: round((clock() - begun).total_seconds(), 1))
    run.ground.applied.keep(run.id, plan.fleet_digest, environment.fleet, seconds)
    run.step("state kept", lambda: back_up(run.ground))
    return ChangeReport.of({"flow": run.id, "stacks": stacks, "pools": pools, "seconds": seconds})


def _ready(run: Run, environment: Environment) -> list[JsonValue]:
    return [row.model_dump(mode="json") for row in wait_ready(environment, run.tell)]


def _update(run: Run, plan: ChangePlan, fleet_file: Path, site: str) -> list[JsonValue]:
    """One site's stacks, if it is still the fleet file that was planned, and still allowed."""
    environment = _same_environment(run, plan, fleet_file)
    if closed := _closed(run, environment.fleet, plan, only=site):
        raise PolicyRefused(closed, where=f"site {site}", mend="the sites before it are changed")
    environment.platform.declare_engines()
    cli = environment.cli
    cli.prepare()
    for stack in stacks_of(environment.fleet, environment.state):
        cli.ensure(stack, fleet_file)
    fence = run.fences[ENVIRONMENT]
    results = update_site(run.ground, environment, cli, site, run.tell, fence)
    for result in results:
        run.note("stack.updated", target=result.stack, **result.model_dump(exclude={"stack"}))
    return [result.model_dump(mode="json") for result in results]


def _same_environment(run: Run, plan: ChangePlan, fleet_file: Path) -> Environment:
    """The environment, if its fleet file is the one that was planned.

    Raises:
        PolicyRefused: it was changed since.
    """
    environment = Environment.load(run.ground.workspace, fleet_file, run.tell)
    if digest_of(environment.fleet) != plan.fleet_digest:
        raise PolicyRefused(
            "the fleet file is not the one that was planned and approved",
            where=str(fleet_file),
            mend="plan it again: ./fleet change",
        )
    return environment


def _demand_as_many_approvals(ground: Ground, plan: ChangePlan) -> None:
    """Refuse a plan that lowers the number of its own approvals.

    Raises:
        PolicyRefused: what the worker stands on asks for more.
    """
    needed = load_fleet(ground.fleet_file).governance.approvals_required
    if plan.approvals_needed < needed:
        raise PolicyRefused(
            f"the plan asks for {plan.approvals_needed} approvals, the environment for {needed}",
            where=str(ground.fleet_file),
            mend="./fleet up by an administrator lowers it",
        )


def decisions(ground: Ground, flow_id: str, order: dict[str, Any]) -> dict[str, Decision]:
    """What the calendars say now of each site that a change waits for, by its name."""
    plan = ChangePlan.model_validate(order["plan"])
    given = Path(order["fleet_file"])
    fleet = load_fleet(given) if given.is_file() else ground.fleet
    return {site: _decision(ground, fleet, site, plan.expected_s, flow_id) for site in fleet.sites}


def _closed(run: Run, fleet: Fleet, plan: ChangePlan, only: str = "") -> str:
    """Why a site may not change now; empty where all may."""
    for site in fleet.sites:
        decision = _decision(run.ground, fleet, site, plan.expected_s, run.id)
        if not decision.admitted and only in {"", site}:
            return str(refusal(site, decision)).replace("\n ", ";")
        if site == only:
            note_use(run.ground, decision, actor=run.actor, target=site, flow=run.id)
    return ""


def _decision(ground: Ground, fleet: Fleet, site: str, takes_s: float, flow_id: str) -> Decision:
    """Whether a site may change now, with the time to go back before the next freeze."""
    return decision_at(
        fleet,
        ground.fleet_file,
        site,
        ground.clock(),
        needs=timedelta(seconds=2 * takes_s),
        flow=flow_id,
        overrides=lambda: overrides_in_force(ground),
    )
