"""What a drill for real would do to production, by how production stands now."""

from collections.abc import Iterable, Sequence

from gpufleet.core.approvals import digest_of, needed_for
from gpufleet.core.drills.failover import affected_pools, affected_use_cases, failover, unyielding
from gpufleet.core.drills.production import at_most_s, demand_accepted_known, demand_offered
from gpufleet.core.drills.scenario import Scenario
from gpufleet.core.drills.scenarios import SITE_LOST, scenario_of
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.flows.drills.hits import Hits
from gpufleet.flows.drills.outlook import outlook_of, unproven, weights_of
from gpufleet.flows.drills.planning import demand_embedded, targets_for
from gpufleet.flows.drills.stage import free_at
from gpufleet.flows.ground import Ground
from gpufleet.spec.approvals import Action
from gpufleet.spec.drills import Cordoned, DrillPlan, ForReal, Placed, Scaled
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet

_ONLY_REPLICAS = "the site's API server and object store go on: only its replicas are gone"


def plan_for_real(
    ground: Ground, scenario: str, target: str, accepted: Sequence[str] = ()
) -> DrillPlan:
    """What a drill for real would do; changes nothing.

    Args:
        ground: the environment.
        scenario: name of it.
        target: what is lost; it has to be named.
        accepted: use cases that may be down meanwhile.

    Raises:
        BadInput: there is no such scenario or target, or it is not drilled for real; or what is
            accepted is not hit.
        Retryable: a site does not answer.
    """
    chosen = scenario_of(scenario)
    demand_offered(chosen.name)
    demand_embedded(ground.fleet, chosen)
    if not target:
        what = "a drill for real names what it hits"
        known = ", ".join(targets_for(ground.fleet, chosen))
        raise BadInput(what, where="--target", mend=f"there are: {known}")
    targets_for(ground.fleet, chosen, target)
    if chosen is SITE_LOST:
        return _site_lost(ground, target, accepted)
    return _gpu_lost(ground, chosen, target, accepted)


def _site_lost(ground: Ground, lost: str, accepted: Sequence[str]) -> DrillPlan:
    fleet = ground.fleet
    others = [name for name in fleet.sites if name != lost]
    found = failover(fleet, lost, free_at(ground, others))
    taken = Hits(ground, lost).losing()
    for site in others:
        taken += Hits(ground, site).yielding(found.placed)
    notes = [
        _ONLY_REPLICAS,
        *(_short(ground.fleet, pool, n, others) for pool, n in found.short.items()),
    ]
    return _plan(
        ground,
        SITE_LOST,
        lost,
        hit=affected_use_cases(fleet, lost, affected_pools(fleet, lost)),
        lost=_as_placed(ground, taken, lost),
        placed=found.placed,
        unheld=dict(found.unheld),
        notes=notes,
        real=(taken, None),
        accepted=accepted,
    )


def _short(fleet: Fleet, pool: str, count: int, sites: Sequence[str]) -> str:
    wide = ", ".join(unyielding(fleet, pool, sites))
    kept = f"; replicas of batch pool {wide} span nodes and do not yield" if wide else ""
    return f"pool {pool} comes back with {count} replicas fewer{kept}"


def _gpu_lost(
    ground: Ground, scenario: Scenario, target: str, accepted: Sequence[str]
) -> DrillPlan:
    fleet = ground.fleet
    pool, _, site = target.partition("@")
    lost, fits = Hits(ground, site).replica_to_lose(pool)
    (at,) = (each for each in pools_at(fleet, site) if each.name == pool)
    one = _placed(at, 1)
    hit = affected_use_cases(fleet, site, [pool])
    gpus = f"{at.gpus_per_node} GPUs on {at.nodes_per_replica} other nodes of {at.group_name}"
    why = f"{gpus} are not free for its replica: keep as many spare there"
    return _plan(
        ground,
        scenario,
        target,
        hit=hit,
        lost=[one],
        placed=[one] if fits else [],
        unheld={} if fits else dict.fromkeys(hit, why),
        notes=["the GPU itself is whole: only what uses it ends"],
        real=([], lost),
        accepted=accepted,
    )


def _plan(  # noqa: PLR0913 - a plan has that many parts
    ground: Ground,
    scenario: Scenario,
    target: str,
    *,
    hit: list[str],
    lost: list[Placed],
    placed: Iterable[Placed],
    unheld: dict[str, str],
    notes: list[str],
    real: tuple[list[Scaled], Cordoned | None],
    accepted: Sequence[str],
) -> DrillPlan:
    fleet, coming = ground.fleet, list(placed)
    demand_accepted_known(accepted, hit)
    weights = weights_of(ground, coming) if scenario is SITE_LOST else []
    outlook = outlook_of(ground, scenario, target, hit, coming, weights, for_real=True)
    longest_s = max(fleet.use_cases[name].rto_s for name in hit)
    scaled, cordoned = real
    return DrillPlan(
        fleet=fleet.fleet,
        environment=fleet.environment,
        fleet_digest=digest_of(fleet),
        scenario=scenario.name,
        target=target,
        use_cases=hit,
        lost=lost,
        placed=coming,
        unheld=unheld,
        notes=[*notes, *unproven(weights)],
        outlook=outlook,
        for_real=ForReal(
            scaled=scaled,
            cordoned=cordoned,
            accepted=list(accepted),
            at_most_s=at_most_s(longest_s, outlook.recovered_s),
            approvals_needed=needed_for(Action.DRILL, fleet.governance),
        ),
    )


def _as_placed(ground: Ground, taken: Iterable[Scaled], site: str) -> list[Placed]:
    """What is lost at a site, as replicas on their node groups."""
    pools = {pool.name: pool for pool in pools_at(ground.fleet, site)}
    return [
        _placed(pools[each.pool], each.before)
        for each in taken
        if each.site == site and each.before
    ]


def _placed(pool: PoolAtSite, replicas: int) -> Placed:
    return Placed(
        pool=pool.name,
        site=pool.site,
        node_group=pool.group_name,
        replicas=replicas,
        nodes_per_replica=pool.nodes_per_replica,
        gpus_per_node=pool.gpus_per_node,
    )
