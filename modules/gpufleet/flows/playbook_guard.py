"""What a playbook asks before it changes anything: the same decisions as a flow's, in one place.

Playbooks run by hand and playbooks of a flow pass through it; it is called by the action plugins
below `playbooks/plugins`.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

from pydantic import JsonValue

from gpufleet.core.freeze import Purpose, refusal
from gpufleet.core.leases import lease_of
from gpufleet.core.patching.by_hand import breaker_refusal, hosts_refusal
from gpufleet.core.patching.hosts import STATES, Host, demand_patchable
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.ground import Ground, whoami
from gpufleet.flows.hosts import read_inventory
from gpufleet.flows.lease_keeper import hold_for_process
from gpufleet.flows.overrides import note_use, overrides_in_force
from gpufleet.flows.pool_load import load_of
from gpufleet.flows.windows import decision_at
from gpufleet.spec.errors import BadInput, PolicyRefused, Retryable
from gpufleet.spec.fence import Fence
from gpufleet.spec.records import Claim, Fact
from gpufleet.spec.windows import ChangeKind

BY_HAND: Final = "hand"
"""Begins the name of a flow that nobody submitted: a playbook that somebody has started."""


@dataclass(frozen=True)
class GuardOrder:
    """What a playbook is about to do."""

    hosts: Sequence[str]
    change: ChangeKind
    purpose: Purpose
    needs_s: float
    """Time that a batch takes with its rollback, s."""
    process: int
    """Id of ansible-playbook's process."""
    playbook: str = ""
    version: str = ""
    flow: str = ""
    """Id of the flow that runs it; empty by hand."""
    fence: int | None = None
    """Token of the lease that the flow holds; none by hand."""
    fences: Mapping[str, int] = field(default_factory=dict)
    """By site, tokens that an earlier guard of the same run by hand was given."""
    actor: str = ""
    returns: bool = False
    """Whether hosts are to leave quarantine: that waits for whoever patches the site."""
    changes: bool = True
    """Whether it changes anything; what only looks needs neither window nor lease."""
    named: bool = True
    """Whether somebody has said which hosts: a playbook alone would take all of the fleet."""
    together: bool = False
    """Whether its hosts are one batch, which goes out of service at once."""
    failed: Sequence[str] = ()
    """Hosts of earlier batches of a run by hand that did not get there."""
    failures_allowed: int = 0
    check: bool = False
    """Ansible's check mode: nothing is taken or written, and refusals are told all the same."""


@dataclass(frozen=True)
class Guarded:
    """What a playbook goes on with."""

    flow: str
    fences: dict[str, int]
    """Token by site; empty where nothing is changed."""
    actor: str
    mark: str
    """Owner mark of the nodes that it cordons."""
    purpose: str = Purpose.CHANGE.value
    """What it is run for."""


@contextmanager
def opened(variables: Mapping[str, Any] | None) -> Iterator[Ground]:
    """The environment that a playbook acts on, for as long as a task needs it.

    Args:
        variables: the task's; `gpufleet_fleet_file` is as the inventory names it, and the default
            one is taken where it is not there.

    Raises:
        FleetError: as `Ground.open`.
    """
    workspace = Workspace.here()
    named = str((variables or {}).get("gpufleet_fleet_file", ""))
    ground = Ground.open(workspace, workspace.find_fleet(named or None))
    try:
        yield ground
    finally:
        ground.close()


def admit(ground: Ground, order: GuardOrder) -> Guarded:
    """Let a playbook begin, or its next batch.

    Raises:
        BadInput: a host is not one that can be patched.
        PolicyRefused: a site is frozen; names the freeze and the next opening. Or hosts of earlier
            batches have failed.
        LeaseLost: another flow has taken over.
        Retryable: somebody else patches the site; a pool has nothing to spare now; or the database
            or a cluster does not answer.
    """
    _demand_named(order)
    hosts = _hosts(ground, order)
    named = replace(
        order,
        flow=order.flow or f"{BY_HAND}-{uuid.uuid4().hex[:12]}",
        actor=order.actor or whoami(),
    )
    fences: dict[str, int] = {}
    if order.changes:
        sites = sorted({host.site for host in hosts})
        for site in sites:
            _demand_open(ground, named, site, hosts)
        for site in sites:
            fences.update(_held(ground, named, site))
        if order.together and order.fence is None:
            _demand_room(ground, order, hosts)
        _note_begin(ground, named)
    mark = f"patch/{named.flow}"
    return Guarded(named.flow, fences, named.actor, mark, named.purpose.value)


def demand_held(ground: Ground, site: str, flow: str, fence: int) -> None:
    """Make sure that a playbook still has the lease of a site.

    Raises:
        LeaseLost: another flow has taken over.
    """
    ground.leases.check(Fence(lease_of(site), flow, fence))


def note(  # noqa: PLR0913 - a fact has that many parts
    ground: Ground,
    event: str,
    *,
    flow: str,
    actor: str,
    target: str,
    body: Mapping[str, JsonValue],
) -> None:
    """Write a fact of a playbook into the journal, once for each flow, event and target."""
    ground.journal.append(
        Fact(
            id=f"{flow}:{event}:{target}",
            event=event,
            actor=actor or whoami(),
            flow=flow,
            target=target,
            body=dict(body),
        )
    )


def remember(  # noqa: PLR0913 - what of whom, and who says so, why
    ground: Ground, host: str, state: str, *, reason: str, flow: str, actor: str
) -> bool:
    """Remember a host's state, and write it into the journal; False where it was so already.

    Raises:
        BadInput: there is no such state or host.
    """
    if state not in STATES:
        mend = f"one of {', '.join(STATES)}"
        raise BadInput(f"there is no state `{state}`", where=f"host {host}", mend=mend)
    if not ground.hosts.keep(host, state, reason=reason, flow=flow):
        return False
    ground.journal.append(
        Fact(
            event=f"host.{state}",
            actor=actor or whoami(),
            flow=flow,
            target=host,
            body={"reason": reason},
        )
    )
    return True


def _demand_named(order: GuardOrder) -> None:
    """A flow names its hosts; a person may have forgotten to."""
    if order.changes and not order.named and order.fence is None:
        raise BadInput(
            "nobody has said which hosts, and it would be all of the fleet",
            where=order.playbook,
            mend="say -e wave=1, or --limit with a host, a rack or a pool",
        )


def _demand_room(ground: Ground, order: GuardOrder, hosts: Sequence[Host]) -> None:
    """What a flow asks before each of its batches, for a batch by hand."""
    if why := breaker_refusal(order.failed, order.failures_allowed):
        mend = "see why; then go on with --limit, or allow more by -e gpufleet_failures"
        raise PolicyRefused(why, where=order.playbook, mend=mend)
    load = load_of(ground, {host.site for host in hosts if host.pools})
    batch = [host.change for host in hosts]
    if why := hosts_refusal(batch, load, is_rollback=order.purpose is Purpose.ROLLBACK):
        shown = ", ".join(host.name for host in hosts[:8])
        mend = "name fewer hosts, or a smaller gpufleet_batch" if len(hosts) > 1 else ""
        raise Retryable(why, where=f"batch of {shown}", mend=mend)


def _hosts(ground: Ground, order: GuardOrder) -> list[Host]:
    if not order.hosts:
        mend = "see --limit and wave"
        raise BadInput("no host is left to act on", where=order.playbook, mend=mend)
    known = read_inventory(ground.workspace, ground.fleet_file).hosts
    if order.purpose is not Purpose.QUARANTINE and order.fence is None:
        # By hand: the plan of a flow has left out what cannot be patched.
        demand_patchable(known, set(order.hosts))
    for name in order.hosts:
        if name not in known:
            raise BadInput("is not in the fleet file", where=f"host {name}")
    return [known[name] for name in order.hosts]


def _demand_open(ground: Ground, order: GuardOrder, site: str, hosts: Sequence[Host]) -> None:
    pools = sorted({pool for host in hosts if host.site == site for pool in host.pools})
    decision = decision_at(
        ground.fleet,
        ground.fleet_file,
        site,
        ground.clock(),
        needs=timedelta(seconds=order.needs_s),
        purpose=order.purpose,
        change=order.change,
        pools=pools,
        node_groups=sorted({host.node_group for host in hosts if host.site == site}),
        flow=order.flow,
        overrides=lambda: overrides_in_force(ground),
    )
    if not decision.admitted:
        raise refusal(site, decision)
    if not order.check:
        note_use(ground, decision, actor=order.actor, target=site, flow=order.flow)
    if decision.exempt and not order.check:
        note(
            ground,
            "freeze.exempted",
            flow=order.flow,
            actor=order.actor,
            target=site,
            body={
                "purpose": order.purpose.value,
                "freeze": decision.reason,
                "change": order.change.value,
                "hosts": list(order.hosts),
            },
        )


def _held(ground: Ground, order: GuardOrder, site: str) -> dict[str, int]:
    """The token of a site's lease: the flow's own, that of an earlier guard, or a new one."""
    token = order.fence if order.fence is not None else order.fences.get(site)
    if token is not None:
        demand_held(ground, site, order.flow, token)
        return {site: token}
    if order.check or (order.purpose is Purpose.QUARANTINE and not order.returns):
        # A broken node is taken out at once, beside whatever patch is under way.
        return {}
    holder = f"{order.playbook or 'ansible-playbook'} by {order.actor}"
    claim = Claim(target=lease_of(site), owner=order.flow, holder=holder)
    return {site: hold_for_process(ground, claim, order.process).token}


def _note_begin(ground: Ground, order: GuardOrder) -> None:
    """Once for each run by hand; a flow has written its own."""
    if order.check or order.fence is not None or order.fences:
        return
    note(
        ground,
        "playbook.begun",
        flow=order.flow,
        actor=order.actor,
        target=order.playbook,
        body={
            "change": order.change.value,
            "version": order.version,
            "purpose": order.purpose.value,
            "hosts": list(order.hosts),
        },
    )
