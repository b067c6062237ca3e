"""What a patch would do: hosts, versions, waves, gates; and when it could begin."""

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Final

from gpufleet.core.approvals import digest_of
from gpufleet.core.freeze import Decision, Purpose, refusal
from gpufleet.core.inventory import Node, expand
from gpufleet.core.patching.compatibility import demand_order_compatible
from gpufleet.core.patching.durations import batch_s, rollback_s
from gpufleet.core.patching.gates import gates_of
from gpufleet.core.patching.hosts import QUARANTINED
from gpufleet.core.patching.outcomes import FORWARD_ONLY
from gpufleet.core.patching.waves import plan_waves
from gpufleet.edges.host_version_table import PINNED
from gpufleet.flows.cordons import cordoned_by_others
from gpufleet.flows.durable import Run
from gpufleet.flows.ground import Ground
from gpufleet.flows.overrides import note_use, overrides_in_force
from gpufleet.flows.pool_load import load_of
from gpufleet.flows.windows import decision_at
from gpufleet.spec.changes import Opening
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.governance import PatchTarget
from gpufleet.spec.hardware import NodeGroup
from gpufleet.spec.patching import PARTS, HostChange, Part, PatchOrder, PatchPlan
from gpufleet.spec.windows import ChangeKind

_PINS: Final[Mapping[Part, str]] = {
    Part.DRIVER: "driver",
    Part.BMC: "bmc",
    Part.VBIOS: "vbios",
    Part.CONTAINERD: "containerd",
    Part.TOOLKIT: "container_toolkit",
    Part.KERNEL: "kernel",
}


def plan_patch(
    ground: Ground, order: PatchOrder, *, only: Mapping[str, str] | None = None
) -> PatchPlan:
    """Plan a patch by what the clusters have now; changes nothing.

    Args:
        ground: the environment.
        order: what is to be installed where.
        only: hosts that may be planned, as long as each was last seen with its version; every
            one of the order where it is not given.

    Raises:
        BadInput: the order names something that is not there, or a version that does not go with
            the rest of a host.
        Retryable: a cluster does not answer.
    """
    fleet = ground.fleet
    _demand_known(fleet, order)
    changes, left_out = _changes(ground, order, only)
    sites = {change.site for change in changes if change.pools}
    theirs = cordoned_by_others(ground, sites)
    left_out |= {each.host: theirs[each.host] for each in changes if each.host in theirs}
    changes = [each for each in changes if each.host not in theirs]
    demand_order_compatible(fleet, order, changes, ground.host_versions.rows())
    load = load_of(ground, sites)
    planned = plan_waves(changes, load, order)
    left_out |= planned.left_out
    hosts = {each.host: each for each in changes if each.host not in planned.left_out}
    can_go_back = order.part not in FORWARD_ONLY
    there_s = batch_s(order.part, ground.patches.durations_s(order.part))
    back_s = ground.patches.durations_s(order.part, is_rollback=True)
    return PatchPlan(
        fleet=fleet.fleet,
        environment=fleet.environment,
        fleet_digest=digest_of(fleet),
        order=order,
        hosts=hosts,
        waves=planned.waves,
        gates=gates_of(
            fleet,
            {change.site for change in hosts.values()},
            {pool for change in hosts.values() for pool in change.pools},
        ),
        batch_s=there_s,
        rollback_s=rollback_s(back_s, can_go_back=can_go_back, batch_s=there_s),
        can_go_back=can_go_back,
        left_out=left_out,
    )


def openings(ground: Ground, plan: PatchPlan) -> list[Opening]:
    """When each site could begin with its first batch."""
    found = []
    for site in sorted({change.site for change in plan.hosts.values()}):
        hosts = [change.host for change in plan.hosts.values() if change.site == site]
        decision = decision_on(ground, plan, site, hosts, purpose_of(plan))
        found.append(
            Opening(
                site=site,
                open=decision.admitted,
                reason=decision.reason,
                opens=decision.opens.isoformat() if decision.opens else "",
            )
        )
    return found


def purpose_of(plan: PatchPlan) -> Purpose:
    """What a patch is to the freezes."""
    return Purpose.ROLLBACK if plan.undoes else Purpose.CHANGE


def decision_on(  # noqa: PLR0913, PLR0917 - what is to change where, and why
    ground: Ground,
    plan: PatchPlan,
    site: str,
    hosts: Collection[str],
    purpose: Purpose,
    flow: str = "",
) -> Decision:
    """Whether a batch of some hosts of a site may begin now, with time for its way back.

    Overrides for this flow alone count too.
    """
    return decision_at(
        ground.fleet,
        ground.fleet_file,
        site,
        ground.clock(),
        needs=timedelta(seconds=plan.batch_s + plan.rollback_s),
        purpose=purpose,
        change=ChangeKind(plan.order.component.value),
        pools=sorted({pool for host in hosts for pool in plan.hosts[host].pools}),
        node_groups=sorted({plan.hosts[host].node_group for host in hosts}),
        flow=flow,
        overrides=lambda: overrides_in_force(ground),
    )


def closed(
    run: Run, ground: Ground, plan: PatchPlan, hosts: Collection[str], purpose: Purpose
) -> str:
    """Why some hosts may not change now; empty where they may.

    Args:
        run: the flow.
        ground: the environment as it is declared now.
        plan: what it does.
        hosts: those of a batch.
        purpose: why.
    """
    for site in sorted({plan.hosts[host].site for host in hosts}):
        there = [host for host in hosts if plan.hosts[host].site == site]
        decision = decision_on(ground, plan, site, there, purpose, run.id)
        if not decision.admitted:
            return str(refusal(site, decision)).replace("\n ", ";")
        note_use(ground, decision, actor=run.actor, target=site, flow=run.id)
    return ""


def no_longer_declared(fleet: Fleet, changes: Collection[HostChange]) -> str:
    """What of some hosts is not in the fleet file any more; empty where all of it is."""
    nodes = {node.name for node in expand(fleet)}
    for change in changes:
        if change.host not in nodes or change.node_group not in fleet.node_groups:
            return f"the fleet file no longer declares {change.host}"
        for pool in change.pools:
            if pool not in fleet.pools or change.node_group not in fleet.pools[pool].placements:
                return f"the fleet file no longer has {change.host} in pool {pool}"
    return ""


def part_of(component: str, part: str) -> tuple[PatchTarget, Part]:
    """Component and part, as the command line names them.

    Raises:
        BadInput: there is no such one.
    """
    if component not in set(PatchTarget):
        known = ", ".join(PatchTarget)
        raise BadInput("is no component", where=f"--component {component}", mend=f"one of {known}")
    target = PatchTarget(component)
    if not part:
        return target, PARTS[target][0]
    if part not in set(PARTS[target]):
        known = ", ".join(PARTS[target])
        raise BadInput(f"is no part of {component}", where=f"--part {part}", mend=f"one of {known}")
    return target, Part(part)


def _changes(
    ground: Ground, order: PatchOrder, only: Mapping[str, str] | None
) -> tuple[list[HostChange], dict[str, str]]:
    """The hosts that are to change, and those that are not with the reason."""
    fleet = ground.fleet
    known = _versions(ground, order.part)
    quarantined = ground.hosts.reasons(QUARANTINED)
    changes, left_out = [], {}
    for node in expand(fleet):
        group = fleet.node_groups[node.group]
        pools = [name for name, pool in fleet.pools.items() if node.group in pool.placements]
        if not _is_ordered(order, node, pools) or (only is not None and node.name not in only):
            continue
        has = known.get(node.name, "")
        why = _left_out(order, node, group, pools, has)
        if only and only[node.name] != has:
            why = f"it has {has or 'nobody knows what'} by now"
        if node.name in quarantined:
            why = f"it is quarantined ({quarantined[node.name]}): quarantine.yml brings it back"
        if why:
            left_out[node.name] = why
            continue
        changes.append(
            HostChange(
                host=node.name,
                site=node.site,
                rack=node.rack,
                node_group=node.group,
                pools=pools,
                before=has or _pinned(group, order),
                after=order.version,
            )
        )
    return changes, left_out


def _is_ordered(order: PatchOrder, node: Node, pools: list[str]) -> bool:
    wanted = (
        (order.sites, [node.site]),
        (order.node_groups, [node.group]),
        (order.pools, pools),
    )
    return all(not named or set(named) & set(has) for named, has in wanted)


def _left_out(order: PatchOrder, node: Node, group: NodeGroup, pools: list[str], has: str) -> str:
    if not pools:
        return "it is in no pool, so that nothing says what has to stay in service"
    if group.ssh is None:
        return f"node group {node.group} declares no ssh access"
    if order.component is PatchTarget.FIRMWARE and group.bmc is None:
        return f"node group {node.group} declares no bmc access"
    if has == order.version:
        return f"it has {has} already"
    return ""


def _pinned(group: NodeGroup, order: PatchOrder) -> str:
    """The pinned version, as what a host has; nobody knows where the pin is the new version."""
    pin = getattr(group.pins, _PINS[order.part], None) if order.part in _PINS else None
    return pin if pin and pin != order.version else ""


def _versions(ground: Ground, part: Part) -> dict[str, str]:
    """The version that each host was last seen with."""
    return {
        row.node: row.version
        for row in ground.host_versions.rows()
        if row.part == part.value and row.flow != PINNED
    }


def _demand_known(fleet: Fleet, order: PatchOrder) -> None:
    for flag, named, known in (
        ("--site", order.sites, fleet.sites),
        ("--pool", order.pools, fleet.pools),
        ("--node-group", order.node_groups, fleet.node_groups),
    ):
        for name in named:
            if name not in known:
                raise BadInput(
                    f"the fleet file declares no `{name}`",
                    where=f"{flag} {name}",
                    mend=f"one of {', '.join(known)}",
                )
