"""What a drill would do: who is hit, what comes up instead, how long that is expected to take."""

from collections.abc import Callable, Iterable
from functools import partial

from gpufleet.core.approvals import digest_of
from gpufleet.core.drills.failover import (
    Failover,
    affected_pools,
    affected_use_cases,
    failover,
    stand_ins,
)
from gpufleet.core.drills.scenario import Ends, Scenario
from gpufleet.core.drills.scenarios import (
    NODE_LOST,
    SCENARIOS,
    SITE_LOST,
    scenario_of,
    targets_of,
)
from gpufleet.flows.drills.outlook import outlook_of, unproven, weights_of
from gpufleet.flows.drills.pool_plans import node_lost, one_pool
from gpufleet.flows.drills.record_plans import records_lost
from gpufleet.flows.drills.stage import free_at
from gpufleet.flows.ground import Ground
from gpufleet.local.platform import embedded_sites
from gpufleet.spec.drills import DrillPlan, Possible
from gpufleet.spec.errors import BadInput, Retryable
from gpufleet.spec.fleet import Fleet


def plan_drill(ground: Ground, scenario: str, target: str = "") -> DrillPlan:
    """What a drill would do with what is free now; changes nothing.

    Args:
        ground: the environment.
        scenario: name of it.
        target: what is lost; where it is not given, that whose loss leaves most to come back.

    Raises:
        BadInput: there is no such scenario or target, or nothing of it can be drilled here.
        Retryable: a site does not answer.
    """
    chosen = scenario_of(scenario)
    demand_embedded(ground.fleet, chosen)
    targets = targets_for(ground.fleet, chosen, target)
    free, silent = free_by_group(ground)
    wanted = [target] if target else targets
    for each in silent:
        if wanted != [each]:
            raise silent[each]
    make = _maker(chosen)
    plans: list[DrillPlan] = []
    why_not: BadInput | None = None
    for each in wanted:
        try:
            plans.append(make(ground, each, free))
        except BadInput as error:
            why_not = why_not or error
    if why_not and not plans:
        raise why_not
    return min(plans, key=lambda plan: (len(plan.unheld), -len(plan.use_cases)))


def targets_for(fleet: Fleet, scenario: Scenario, target: str = "") -> list[str]:
    """What a scenario can be drilled on, at least one.

    Raises:
        BadInput: there is nothing, or no such target.
    """
    targets = targets_of(fleet, scenario.name)
    if target and target not in targets:
        known = ", ".join(targets) or "none"
        what = f"{scenario.name} knows no such {scenario.target}"
        raise BadInput(what, where=target[:80], mend=f"there are: {known}")
    if not targets:
        what = "it takes an interactive pool"
        two = ", and two sites" if scenario is SITE_LOST else ""
        raise BadInput(f"{what}{two}", where=fleet.slug)
    return targets


def _maker(scenario: Scenario) -> Callable[[Ground, str, dict[str, list[int]]], DrillPlan]:
    if scenario is SITE_LOST:
        return _site_lost
    if scenario is NODE_LOST:
        return node_lost
    if scenario.ends is Ends.NOTHING:
        return partial(records_lost, scenario)
    return partial(one_pool, scenario)


def possible(ground: Ground) -> list[Possible]:
    """Every scenario with each target that it can be drilled on, as it would go now.

    Raises:
        Retryable: a site does not answer.
    """
    return [each for scenario in SCENARIOS.values() for each in _possible(ground, scenario)]


def _possible(ground: Ground, scenario: Scenario) -> Iterable[Possible]:
    about = {
        "scenario": scenario.name,
        "title": scenario.title,
        "fails": scenario.fails,
        "proves": scenario.proves,
    }
    try:
        demand_embedded(ground.fleet, scenario)
        targets = targets_of(ground.fleet, scenario.name) if scenario is SITE_LOST else []
        plans = [plan_drill(ground, scenario.name, target) for target in targets or [""]]
    except BadInput as error:
        yield Possible(**about, plan=None, why_not=error.what)
        return
    yield from (Possible(**about, plan=plan) for plan in plans)


def replacement(ground: Ground, lost: str, free: dict[str, list[int]]) -> Failover:
    """What comes up instead of a site in isolation: batch is not asked to yield."""
    others = {
        group: nodes
        for group, nodes in free.items()
        if ground.fleet.node_groups[group].site != lost
    }
    return failover(ground.fleet, lost, others, batch_yields=False)


def free_by_group(ground: Ground) -> tuple[dict[str, list[int]], dict[str, Retryable]]:
    """Free GPUs by node group, and the sites that do not answer: one may be lost already."""
    free: dict[str, list[int]] = {}
    silent: dict[str, Retryable] = {}
    for site in ground.fleet.sites:
        try:
            free |= free_at(ground, [site])
        except Retryable as error:
            silent[site] = error
    return free, silent


def demand_embedded(fleet: Fleet, scenario: Scenario) -> None:
    """Refuse a fleet with sites that gpufleet does not run itself.

    Raises:
        BadInput: names one.
    """
    others = sorted(set(fleet.sites).difference(embedded_sites(fleet)))
    if others:
        raise BadInput(
            f"{scenario.name} is drilled where gpufleet runs every site itself",
            where=f"site {others[0]}",
            mend="drill an environment whose sites are embedded",
        )


def _site_lost(ground: Ground, lost: str, free: dict[str, list[int]]) -> DrillPlan:
    fleet = ground.fleet
    found = replacement(ground, lost, free)
    here = {g: nodes for g, nodes in free.items() if fleet.node_groups[g].site == lost}
    hit = affected_use_cases(fleet, lost, affected_pools(fleet, lost))
    weights = weights_of(ground, found.placed)
    return DrillPlan(
        fleet=fleet.fleet,
        environment=fleet.environment,
        fleet_digest=digest_of(fleet),
        scenario=SITE_LOST.name,
        target=lost,
        use_cases=hit,
        lost=list(stand_ins(fleet, lost, here)),
        placed=list(found.placed),
        unheld=dict(found.unheld),
        notes=[*SITE_LOST.leaves_out, *_short(ground, lost, free, found), *unproven(weights)],
        outlook=outlook_of(ground, SITE_LOST, lost, hit, found.placed, weights),
    )


def _short(ground: Ground, lost: str, free: dict[str, list[int]], found: Failover) -> Iterable[str]:
    """Pools that come back smaller, and whether batch would make room for them."""
    others = {g: n for g, n in free.items() if ground.fleet.node_groups[g].site != lost}
    yielding = failover(ground.fleet, lost, others)
    for pool, count in found.short.items():
        left = yielding.short.get(pool, 0)
        batch = sorted({each.yields for each in yielding.placed if each.pool == pool} - {""})
        gives = f"; {', '.join(batch)} would make room for {count - left}" if left < count else ""
        yield f"pool {pool} lacks free GPUs for {count} of its replicas{gives}"
