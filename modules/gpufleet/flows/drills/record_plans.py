"""What drills would do in which replicas go on, and what gpufleet knows of them is lost."""

from collections.abc import Iterator
from typing import Final

from gpufleet.core.approvals import digest_of
from gpufleet.core.drills.failover import Free, affected_pools, affected_use_cases, stand_ins
from gpufleet.core.drills.records import DATABASE_LOST
from gpufleet.core.drills.scenario import Scenario
from gpufleet.core.protection import age_of
from gpufleet.edges.stack_states import StackStates
from gpufleet.flows.drills.database_lost import newest_set
from gpufleet.flows.drills.kept_states import kept_states, stacks_at
from gpufleet.flows.drills.outlook import outlook_of
from gpufleet.flows.ground import Ground
from gpufleet.spec.drills import DrillPlan, Phase, Placed
from gpufleet.spec.errors import BadInput

_PREVIEW_S: Final = 10.0
"""Of a stack: the program starts, and every resource is compared."""
_RESTORE_S: Final = 5.0
"""Of a few MiB."""
_NO_SET: Final = "./fleet dr.protect --apply takes a protected set"


def records_lost(scenario: Scenario, ground: Ground, target: str, free: Free) -> DrillPlan:
    """Stand-ins of the pools that stand on what is lost, and what is restored meanwhile.

    Args:
        scenario: that is drilled.
        ground: the environment.
        target: of the scenario.
        free: GPUs that are free now.

    Raises:
        BadInput: no GPU is free for a stand-in, or nothing was kept to restore from.
    """
    fleet = ground.fleet
    site = target.partition("@")[2]
    sites = [site] if site else list(fleet.sites)
    lost = _stand_ins(ground, sites, free)
    if not lost:
        what = f"no GPU is free at {', '.join(sites)} for a stand-in"
        raise BadInput(what, where=target, mend="drill when some are free")
    use_cases = {
        name: None for each in lost for name in affected_use_cases(fleet, each.site, [each.pool])
    }
    hit = sorted(use_cases, key=lambda name: fleet.use_cases[name].rto_s)
    alone = _without_stand_in(ground, sites, lost)
    restored_s = _restored_s(scenario, ground, target)
    waits = {
        Phase.DETECT: restored_s[0],
        Phase.PROVISION: 0.0,
        Phase.ARTIFACTS: restored_s[1],
        Phase.LOAD: 0.0,
    }
    outlook = outlook_of(ground, scenario, target, hit, [], [], waits)
    late = list(_too_old(ground, hit)) if scenario is DATABASE_LOST else []
    return DrillPlan(
        fleet=fleet.fleet,
        environment=fleet.environment,
        fleet_digest=digest_of(fleet),
        scenario=scenario.name,
        target=target,
        use_cases=hit,
        lost=lost,
        placed=[],
        unheld={},
        notes=[*scenario.leaves_out, *alone],
        outlook=outlook.model_copy(update={"remedies": [*outlook.remedies, *late]}),
    )


def _stand_ins(ground: Ground, sites: list[str], free: Free) -> list[Placed]:
    """One replica of each pool, at the first site that has room for it."""
    groups = ground.fleet.node_groups
    found: dict[str, Placed] = {}
    for site in sites:
        here = {group: nodes for group, nodes in free.items() if groups[group].site == site}
        for each in stand_ins(ground.fleet, site, here):
            found.setdefault(each.pool, each)
    return list(found.values())


def _without_stand_in(ground: Ground, sites: list[str], lost: list[Placed]) -> Iterator[str]:
    """Pools of which nobody asks whether they go on."""
    standing = {each.pool for each in lost}
    pools = {pool for site in sites for pool in affected_pools(ground.fleet, site)} - standing
    if pools:
        yield f"no GPU is free for a stand-in of {', '.join(sorted(pools))}: nobody is asked there"


def _restored_s(scenario: Scenario, ground: Ground, target: str) -> tuple[float, float]:
    """How long it takes to notice, and to restore.

    Raises:
        BadInput: there is nothing to restore from, or nothing to lose.
    """
    if scenario is DATABASE_LOST:
        if newest_set(ground) is None:
            raise BadInput("there is no protected set", where=target, mend=_NO_SET)
        return _RESTORE_S, _RESTORE_S
    states = StackStates(ground.state)
    stacks = stacks_at(ground, target)
    for stack in stacks:
        if not states.resources(stack):
            raise BadInput("has no state", where=f"stack {stack.shown}", mend="./fleet up")
        # Nothing is read yet: the folder is not used.
        if not kept_states(ground, stack, ground.state.root):
            raise BadInput("no state was kept", where=f"stack {stack.shown}", mend=_NO_SET)
    # Beside the state, and beside the cluster.
    return len(stacks) * _PREVIEW_S, _RESTORE_S + 2 * len(stacks) * _PREVIEW_S


def _too_old(ground: Ground, hit: list[str]) -> Iterator[str]:
    """What would hold the recovery point objective, where the newest set is older than that."""
    rpo_s = min(ground.fleet.use_cases[name].rpo_s for name in hit)
    found = newest_set(ground)
    at = found[1].created if found else None
    if at and age_of(at, ground.clock()).total_seconds() > rpo_s:
        yield f"a protected set in the last {rpo_s:.0f} s, not of {at:%Y-%m-%d %H:%M}: dr.protect"
