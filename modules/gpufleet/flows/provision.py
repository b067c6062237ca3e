"""Provisioning: platform, stacks site by site, and the proof that every replica is ready."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from gpufleet.core.freeze import decide, refusal
from gpufleet.core.observed import pool_rows
from gpufleet.core.vocabulary import POOL
from gpufleet.edges import pulumi
from gpufleet.edges.calendars import read_calendars
from gpufleet.edges.pulumi import PulumiCli, Stack
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.environment import Environment, OnProgress
from gpufleet.flows.lost_objects import lost_objects
from gpufleet.local.platform import down
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import TargetMissed
from gpufleet.spec.progress import ReplicaProgress
from gpufleet.spec.reports import PoolRow, PreviewReport, StackPreview, StackResult, UpReport

T = TypeVar("T")
READY_WITHIN_S: Final = 300
_POLL_S: Final = 0.5


def up(workspace: Workspace, fleet_file: Path, on_progress: OnProgress) -> UpReport:
    """Make everything that the fleet file declares.

    Every step finds what an earlier run has done: an interrupted `up` is finished by the next.

    Raises:
        PolicyRefused: a site is frozen and something would change; then nothing is changed at all.
        TargetMissed: the stacks are made, and replicas are not ready in time.
        FleetError: any other; it says what to do.
    """
    started = time.monotonic()
    environment = Environment.load(workspace, fleet_file, on_progress)
    environment.platform.up(on_progress)
    cli = environment.cli
    cli.prepare()
    stacks = pulumi.stacks_of(environment.fleet)
    for stack in stacks:
        cli.ensure(stack, fleet_file)
    hold_in_freeze(environment, cli, stacks, on_progress)
    results = _each_site(
        cli, environment.fleet, lambda site: _update(environment, cli, site, on_progress)
    )
    rows = wait_ready(environment, on_progress)
    return UpReport(
        fleet=environment.fleet.fleet,
        environment=environment.fleet.environment,
        pools=rows,
        stacks=[result for site in results for result in site],
        seconds=round(time.monotonic() - started, 1),
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
    return PreviewReport(
        fleet=environment.fleet.fleet,
        environment=environment.fleet.environment,
        stacks=_previews(environment, cli, pulumi.stacks_of(environment.fleet), on_progress),
    )


def stop(workspace: Workspace, fleet_file: Path, *, purge: bool) -> None:
    """Stop the embedded platform; with `purge` also remove its state."""
    down(workspace.for_fleet(load_fleet(fleet_file)), purge=purge)


def hold_in_freeze(
    environment: Environment, cli: PulumiCli, stacks: list[Stack], on_progress: OnProgress
) -> None:
    """Refuse before anything is changed anywhere, if a frozen site would change.

    Raises:
        PolicyRefused: names the window and the next opening.
    """
    now = datetime.now(UTC)
    for site in environment.fleet.sites:
        calendars = read_calendars(environment.fleet, environment.fleet_file, site, now)
        required = environment.fleet.governance.calendar_required
        decision = decide(calendars, now, required=required)
        if decision.admitted:
            continue
        made = [stack for stack in stacks if stack.site == site and cli.resources(stack)]
        for found in _previews(environment, cli, made, on_progress):
            if found.changes and not found.is_first:
                raise refusal(site, decision)


def wait_ready(environment: Environment, on_progress: OnProgress) -> list[PoolRow]:
    """Wait until every replica is ready: Pulumi stops waiting at a Deployment's minimum.

    Raises:
        TargetMissed: names the pools that are not.
    """
    started = time.monotonic()
    clusters = {site: environment.cluster(site) for site in environment.fleet.sites}
    while True:
        rows: list[PoolRow] = []
        for site, cluster in clusters.items():
            found = pool_rows(environment.fleet, site, cluster.items("/api/v1/pods", labels=POOL))
            ready, wanted = (
                sum(row.replicas_ready for row in found),
                sum(row.replicas_wanted for row in found),
            )
            on_progress(ReplicaProgress(site, ready, wanted, time.monotonic() - started))
            rows += found
        late = [row for row in rows if not row.is_ready]
        if not late:
            return rows
        if time.monotonic() - started > READY_WITHIN_S:
            names = ", ".join(
                f"{row.pool} at {row.site} ({row.replicas_ready} of {row.replicas_wanted})"
                for row in late
            )
            raise TargetMissed(
                f"after {READY_WITHIN_S} s replicas are not ready: {names}",
                mend='look: eval "$(./fleet env)"; kubectl get pods -A -l gpufleet.dev/pool',
            )
        time.sleep(_POLL_S)


def _update(
    environment: Environment, cli: PulumiCli, site: str, on_progress: OnProgress
) -> list[StackResult]:
    """Update a site's stacks in order; what was deleted behind their back is made again."""
    cluster = environment.cluster(site)
    lost = lost_objects(environment, cluster, site)
    cluster.close()
    results = []
    for stack in pulumi.stacks_of(environment.fleet):
        if stack.site == site:
            if lost.get(stack):
                cli.refresh(stack, on_progress)
            results.append(cli.up(stack, on_progress))
    return results


def _previews(
    environment: Environment, cli: PulumiCli, stacks: list[Stack], on_progress: OnProgress
) -> list[StackPreview]:
    for stack in stacks:
        cli.ensure(stack, environment.fleet_file)
    found = _each_site(
        cli,
        environment.fleet,
        lambda site: [cli.preview(stack, on_progress) for stack in stacks if stack.site == site],
    )
    return [preview for site in found for preview in site]


def _each_site(cli: PulumiCli, fleet: Fleet, work: Callable[[str], list[T]]) -> list[list[T]]:
    """Do the same for every site side by side; the first failure is raised after all have ended.

    Ctrl-C reaches this thread only: the updates are told, and end what they have begun.
    """
    with ThreadPoolExecutor(len(fleet.sites)) as threads:
        futures = [threads.submit(work, site) for site in fleet.sites]
        try:
            wait(futures)
        except BaseException:
            cli.interrupt()
            raise
    return [future.result() for future in futures]


def _next_steps(environment: Environment) -> list[str]:
    root = environment.workspace.root
    shown = environment.fleet_file
    shown = shown.relative_to(root) if shown.is_relative_to(root) else shown
    option = (
        "" if environment.fleet_file == environment.workspace.default_fleet else f" --fleet {shown}"
    )
    site = next(iter(environment.fleet.sites))
    return [
        f'eval "$(./fleet env{option})"   # then plain pulumi, kubectl and ansible-playbook work',
        f"kubectl --context {site} get deploy,leaderworkerset -A",
        f"$EDITOR {shown} && ./fleet preview{option}   # change the fleet, see the difference",
        f"./fleet status{option}",
    ]
