"""What drills would do in which one replica of a pool is lost."""

from collections.abc import Mapping
from typing import Final

from gpufleet.core.approvals import digest_of
from gpufleet.core.drills.failover import Free, affected_use_cases, stand_ins
from gpufleet.core.drills.scenario import Scenario
from gpufleet.core.drills.scenarios import NODE_LOST, STORE_LOST
from gpufleet.core.serving import pools_at
from gpufleet.flows.drills.artifacts import known_snapshot
from gpufleet.flows.drills.outlook import NO_WAITS, Weights, outlook_of, unproven, weights_of
from gpufleet.flows.ground import Ground
from gpufleet.flows.stores import places_of
from gpufleet.spec.drills import DrillPlan, Phase
from gpufleet.spec.errors import BadInput

_UNREACHABLE_AFTER_S: Final = 55.0
"""The default of kube-controller-manager's `--node-monitor-grace-period`, and its next look."""


def node_lost(ground: Ground, target: str, free: Free) -> DrillPlan:
    """The same, on a node of the drill's own: the cluster gives it up in the pool's own time.

    Raises:
        BadInput: as `one_pool`; or a replica of the pool spans nodes.
    """
    pool, _, site = target.partition("@")
    found = [each for each in pools_at(ground.fleet, site) if each.name == pool]
    if any(each.spans_nodes for each in found):
        raise BadInput(
            f"a replica of pool {pool} spans nodes: one lost node is not all of it",
            where=target,
            mend="drill a pool whose replicas have a node each",
        )
    given_up_s = max((float(each.not_ready_toleration_s) for each in found), default=0.0)
    waits = {Phase.DECIDE: _UNREACHABLE_AFTER_S, Phase.PROVISION: given_up_s}
    return one_pool(NODE_LOST, ground, target, free, waits)


def one_pool(
    scenario: Scenario,
    ground: Ground,
    target: str,
    free: Free,
    waits: Mapping[Phase, float] = NO_WAITS,
) -> DrillPlan:
    """One replica of a pool at a site, which comes back at the same site.

    Args:
        scenario: that is drilled.
        ground: the environment.
        target: `POOL@SITE`.
        free: GPUs that are free now.
        waits: seconds of phases that are made of waiting.

    Raises:
        BadInput: no GPU is free for it, or there is no snapshot to restore from.
    """
    fleet = ground.fleet
    pool, _, site = target.partition("@")
    here = {g: nodes for g, nodes in free.items() if fleet.node_groups[g].site == site}
    lost = [each for each in stand_ins(fleet, site, here) if each.pool == pool]
    if not lost:
        what = f"no GPU is free at {site} for a stand-in of pool {pool}"
        raise BadInput(what, where=target, mend="drill another pool, or when some are free")
    hit = affected_use_cases(fleet, site, [pool])
    weights = weights_of(ground, lost)
    missing = [each for each in weights if not _has(ground, scenario, each)]
    if scenario.needs_snapshot and missing:
        where = "at another site" if scenario is STORE_LOST else f"at {site}"
        raise BadInput(
            f"there is no snapshot of {missing[0].revision} {where} to restore from",
            where=target,
            mend="./fleet snapshot.take makes one",
        )
    return DrillPlan(
        fleet=fleet.fleet,
        environment=fleet.environment,
        fleet_digest=digest_of(fleet),
        scenario=scenario.name,
        target=target,
        use_cases=hit,
        lost=lost,
        placed=lost,
        unheld={},
        # Those of a lost store come from another one.
        notes=[*scenario.leaves_out, *(() if scenario is STORE_LOST else unproven(weights))],
        outlook=outlook_of(ground, scenario, target, hit, lost, weights, waits),
    )


def _has(ground: Ground, scenario: Scenario, weights: Weights) -> bool:
    """Whether a store that the scenario restores from has a snapshot of a revision."""
    if scenario is not STORE_LOST:
        return weights.snapshot is not None
    others = [site for site in places_of(ground) if site != weights.site]
    return any(known_snapshot(ground, site, weights.revision) for site in others)
