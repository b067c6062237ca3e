"""Provisioning: platform, and stacks site by site."""

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final, TypeVar

from gpufleet.core.approvals import digest_of
from gpufleet.core.freeze import Purpose, refusal_of_update
from gpufleet.core.leases import ENVIRONMENT
from gpufleet.edges.pulumi import PulumiCli
from gpufleet.edges.stack_states import PLATFORM, Stack, StackStates
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.awaited import awaited_clusters
from gpufleet.flows.environment import Environment, OnProgress
from gpufleet.flows.exemptions import exempted
from gpufleet.flows.freeze_sync import sync
from gpufleet.flows.gateway_answers import address_of, ask_each, use_cases_at_rest
from gpufleet.flows.ground import Ground, whoami
from gpufleet.flows.lost_objects import lost_objects
from gpufleet.flows.node_volumes import free_volumes
from gpufleet.flows.overrides import overrides_in_force
from gpufleet.flows.pending_objects import settle_pending
from gpufleet.flows.readiness import wait_ready
from gpufleet.flows.stacks import inputs_of, stacks_of
from gpufleet.flows.windows import decision_at
from gpufleet.local.platform import down, tell_rules
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import PolicyRefused
from gpufleet.spec.fence import Fence
from gpufleet.spec.load import outdated
from gpufleet.spec.reports import PreviewReport, StackPreview, StackResult, UpReport

S = TypeVar("S")
T = TypeVar("T")
_AT_ONCE: Final = 8
"""Each update is four processes with 0.5 GiB together."""


def up(workspace: Workspace, fleet_file: Path, on_progress: OnProgress) -> UpReport:
    """Make everything that the fleet file declares.

    Every step finds what an earlier run has done: an interrupted `up` is finished by the next.

    Raises:
        PolicyRefused: a site is frozen and something would change; then nothing is changed at all.
        TargetMissed: the stacks are made, and replicas are not ready in time, or the gateway does
            not answer for a use case.
        FleetError: any other; it says what to do.
    """
    started = time.monotonic()
    environment = Environment.load(workspace, fleet_file, on_progress)
    # Before the worker is started: a database that cannot be had is told here.
    ground = Ground.open(workspace, fleet_file)
    environment.platform.up(on_progress)
    cli = environment.cli
    cli.prepare()
    with ground.holding(ENVIRONMENT, why="up") as fence:
        results = _update_all(ground, environment, cli, on_progress, fence)
        rows = wait_ready(environment, on_progress)
        answers = ask_each(ground, on_progress, environment.platform.gateway_failure())
        seconds = round(time.monotonic() - started, 1)
        _remember(ground, environment.fleet, results, seconds)
    ground.close()
    return UpReport(
        fleet=environment.fleet.fleet,
        environment=environment.fleet.environment,
        pools=rows,
        answers=answers,
        stacks=results,
        seconds=seconds,
        next_steps=_next_steps(environment),
    )


def preview(workspace: Workspace, fleet_file: Path, on_progress: OnProgress) -> PreviewReport:
    """What `up` would change; changes nothing but heals the embedded platform.

    Raises:
        FleetError: says what to do.
    """
    environment = Environment.load(workspace, fleet_file, on_progress)
    environment.platform.up(on_progress)
    cli = environment.cli
    cli.prepare()
    stacks = stacks_of(environment.fleet, environment.state)
    return PreviewReport(
        fleet=environment.fleet.fleet,
        environment=environment.fleet.environment,
        stacks=previews(environment, cli, stacks, on_progress),
        warnings=[told] if (told := outdated(fleet_file)) else [],
    )


def stop(workspace: Workspace, fleet_file: Path, *, purge: bool) -> None:
    """Stop the embedded platform; with `purge` also remove its state."""
    down(workspace.for_fleet(load_fleet(fleet_file)), purge=purge)


def hold_in_freeze(
    ground: Ground,
    environment: Environment,
    cli: PulumiCli,
    stacks: list[Stack],
    on_progress: OnProgress,
) -> None:
    """Refuse before anything is changed anywhere, if a frozen site would change.

    Raises:
        PolicyRefused: names the window and the next opening.
    """
    now = ground.clock()
    for site in environment.fleet.sites:
        decision = decision_at(
            environment.fleet,
            environment.fleet_file,
            site,
            now,
            overrides=lambda: overrides_in_force(ground),
        )
        if not decision.admitted and _changes(environment, cli, stacks, site, on_progress):
            raise refusal_of_update(site, decision)


def demand_approved(
    ground: Ground,
    environment: Environment,
    cli: PulumiCli,
    stacks: list[Stack],
    on_progress: OnProgress,
) -> None:
    """Refuse a change that the environment wants others to sign: `change` asks them.

    Raises:
        PolicyRefused: something would change that was provisioned before.
    """
    needed = environment.fleet.governance.approvals_required
    last = ground.applied.last()
    if not needed or last is None or last[0] == digest_of(environment.fleet):
        return
    for site in environment.fleet.sites:
        if _changes(environment, cli, stacks, site, on_progress):
            raise PolicyRefused(
                f"a change of this environment needs {needed} approvals",
                where=f"site {site}",
                mend="./fleet change --apply asks for them; ./fleet change shows what would change",
            )


def _changes(
    environment: Environment,
    cli: PulumiCli,
    stacks: list[Stack],
    site: str,
    on_progress: OnProgress,
) -> bool:
    """Whether an update would change something at a site that was provisioned before."""
    states = StackStates(environment.state)
    made = [stack for stack in stacks if stack.site == site and states.resources(stack)]
    found = previews(environment, cli, made, on_progress)
    return any(preview.changes and not preview.is_first for preview in found)


def _update_all(
    ground: Ground,
    environment: Environment,
    cli: PulumiCli,
    on_progress: OnProgress,
    fence: Fence,
) -> list[StackResult]:
    stacks = stacks_of(environment.fleet, environment.state)
    for stack in stacks:
        cli.ensure(stack, environment.fleet_file)
    sync(ground)
    hold_in_freeze(ground, environment, cli, stacks, on_progress)
    demand_approved(ground, environment, cli, stacks, on_progress)
    results = side_by_side(
        cli,
        list(environment.fleet.sites),
        lambda site: update_site(ground, environment, cli, site, on_progress, fence),
    )
    return [result for site in results for result in site]


def _remember(ground: Ground, fleet: Fleet, results: list[StackResult], seconds: float) -> None:
    """Journal what was changed, and keep the fleet as it stands."""
    changed = [result for result in results if result.changed]
    last = ground.applied.last()
    digest = digest_of(fleet)
    if changed:
        ground.note(
            "up.done",
            actor=whoami(),
            target=fleet.slug,
            fleet=digest,
            stacks=[result.model_dump(mode="json") for result in changed],
        )
    if last is None or last[0] != digest:
        ground.applied.keep(f"up-{uuid.uuid4().hex}", digest, fleet, seconds)


def update_site(  # noqa: PLR0913, PLR0917 - what acts, on what, and whom it tells
    ground: Ground,
    environment: Environment,
    cli: PulumiCli,
    site: str,
    on_progress: OnProgress,
    fence: Fence,
) -> list[StackResult]:
    """Update a site's stacks, those of its pools side by side, after the platform's.

    What was deleted behind their back is made again.

    In a freeze only what is exempt gets here: a first provisioning, and healing.

    Raises:
        FleetError: an update was refused or failed; what it did is kept.
    """
    if site in environment.reachable:
        settle_pending(environment, site)
        _free_volumes(environment, site)
    lost = lost_objects(environment, site)
    states = StackStates(environment.state)
    inputs: dict[Stack, str] = {}

    def update(stack: Stack) -> StackResult:
        inputs[stack] = inputs_of(environment, stack)
        purpose = _purpose(is_new=not states.resources(stack), is_lost=bool(lost.get(stack)))
        if lost.get(stack):
            cli.refresh(stack, on_progress)
        with exempted(ground, environment, site, purpose, fence.owner) as variables:
            return cli.up(stack, on_progress, fence, inputs[stack], variables)

    stacks = [s for s in stacks_of(environment.fleet, environment.state) if s.site == site]
    results = [update(stack) for stack in stacks if stack.project == PLATFORM]
    # Whoever comes next meets policies that know whether a freeze holds.
    sync(ground, [site])
    results += side_by_side(cli, [s for s in stacks if s.project != PLATFORM], update)
    tell_rules(environment.fleet, environment.state, site)
    # The programs have read the fleet file themselves: not if somebody changed it in between.
    if digest_of(load_fleet(environment.fleet_file)) == digest_of(environment.fleet):
        for stack, digest in inputs.items():
            cli.remember(stack, digest)
    return results


def _free_volumes(environment: Environment, site: str) -> None:
    cluster = environment.cluster(site)
    try:
        free_volumes(cluster)
    finally:
        cluster.close()


def _purpose(*, is_new: bool, is_lost: bool) -> Purpose:
    if is_new:
        return Purpose.FIRST_PROVISIONING
    return Purpose.SELF_HEALING if is_lost else Purpose.CHANGE


def previews(
    environment: Environment, cli: PulumiCli, stacks: list[Stack], on_progress: OnProgress
) -> list[StackPreview]:
    """What an update of each stack would change."""
    for stack in stacks:
        cli.ensure(stack, environment.fleet_file)
    return side_by_side(
        cli, stacks, lambda stack: cli.preview(stack, on_progress, inputs_of(environment, stack))
    )


def side_by_side(cli: PulumiCli, things: list[S], work: Callable[[S], T]) -> list[T]:
    """Do the same for all at once; the first failure is raised after all have ended.

    Ctrl-C reaches this thread only: the updates are told, and end what they have begun.
    """
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        futures = [threads.submit(work, thing) for thing in things]
        try:
            wait(futures)
        except BaseException:
            cli.interrupt()
            raise
    return [future.result() for future in futures]


def _asking(environment: Environment, option: str) -> list[str]:
    """How the embedded gateway is asked."""
    if not environment.platform.sites:
        return []
    address, use_cases = address_of(environment.state), environment.fleet.use_cases
    name, use_case = next(iter(use_cases.items()))
    issue = f"./fleet access.issue{option} --team {use_case.team} --use-cases {name} --apply"
    return [
        f'./fleet gateway.ask{option} --use-case {name} "Hello"',
        f"{issue}   # a key for {address.url}/v1; clients trust {address.authority}",
    ]


def _next_steps(environment: Environment) -> list[str]:
    root = environment.workspace.root
    shown = environment.fleet_file
    shown = shown.relative_to(root) if shown.is_relative_to(root) else shown
    option = (
        "" if environment.fleet_file == environment.workspace.default_fleet else f" --fleet {shown}"
    )
    site = next(iter(environment.fleet.sites))
    return [
        *awaited_clusters(environment.fleet),
        *(
            f"use case {name} was not asked: no replica of it is steady; ./fleet prewarm.schedule"
            for name in use_cases_at_rest(environment.fleet)
        ),
        *_asking(environment, option),
        f'eval "$(./fleet env{option})"   # then plain pulumi, kubectl and ansible-playbook work',
        f"kubectl --context {site} get deploy,leaderworkerset -A",
        f"$EDITOR {shown} && ./fleet preview{option}   # change the fleet, see the difference",
        f"./fleet status{option}",
    ]
