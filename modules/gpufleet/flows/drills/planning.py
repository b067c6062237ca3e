"""What a drill would do: who is hit, what comes up instead, how long that is expected to take."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gpufleet.core.approvals import digest_of
from gpufleet.core.drills.failover import Failover, affected_pools, failover, stand_ins
from gpufleet.core.drills.scenarios import SCENARIOS, SITE_LOST, Scenario, scenario_of
from gpufleet.core.drills.verdict import predicted
from gpufleet.core.serving import LOCAL_RESTORE_BYTES_PER_S
from gpufleet.core.snapshots.prediction import Rates, Work
from gpufleet.flows.drills.artifacts import newest_snapshot
from gpufleet.flows.drills.stage import free_at
from gpufleet.flows.ground import Ground
from gpufleet.flows.snapshots.requests import restore_rate
from gpufleet.local.platform import embedded_sites
from gpufleet.spec.drills import DrillPlan, Outlook, Phase, Placed, Possible
from gpufleet.spec.errors import BadInput, Retryable
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import EmbeddedCluster
from gpufleet.spec.snapshots import SnapshotSummary

_DETECT_S: Final = 5.0
"""A few readings of the engines, and a question that is not answered."""
_DECIDE_S: Final = 2.0
_PROVISION_S: Final = 5.0


@dataclass(frozen=True)
class _Weights:
    """The weights that have to come back at one site."""

    revision: str
    site: str
    snapshot: SnapshotSummary | None


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
    _demand_embedded(ground.fleet, chosen)
    targets = targets_of(ground.fleet, chosen)
    if target and target not in targets:
        known = ", ".join(targets) or "none: it takes two sites, and interactive pools at one"
        raise BadInput(f"there is no such {chosen.target}", where=target, mend=f"one of: {known}")
    if not targets:
        raise BadInput(
            "it takes two sites, and an interactive pool at one of them", where=ground.fleet.slug
        )
    free, silent = _free_gpus(ground)
    chosen_targets = [target] if target else targets
    for each in silent:
        if chosen_targets != [each]:
            raise silent[each]
    plans = [_site_lost(ground, each, free) for each in chosen_targets]
    return min(plans, key=lambda plan: (len(plan.unheld), -len(plan.use_cases)))


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
        _demand_embedded(ground.fleet, scenario)
        targets = targets_of(ground.fleet, scenario)
        plans = [plan_drill(ground, scenario.name, target) for target in targets]
        if not plans:
            plans = [plan_drill(ground, scenario.name)]
    except BadInput as error:
        yield Possible(**about, plan=None, why_not=error.what)
        return
    yield from (Possible(**about, plan=plan) for plan in plans)


def targets_of(fleet: Fleet, scenario: Scenario) -> list[str]:
    """What a scenario can be drilled on; none where the fleet has nothing of it."""
    if scenario is SITE_LOST and len(fleet.sites) > 1:
        return [site for site in fleet.sites if affected_pools(fleet, site)]
    return []


def replacement(ground: Ground, lost: str, free: dict[str, list[int]]) -> Failover:
    """What comes up instead of a site in isolation: batch is not asked to yield."""
    others = {
        group: nodes
        for group, nodes in free.items()
        if ground.fleet.node_groups[group].site != lost
    }
    return failover(ground.fleet, lost, others, batch_yields=False)


def _free_gpus(ground: Ground) -> tuple[dict[str, list[int]], dict[str, Retryable]]:
    """Free GPUs by node group, and the sites that do not answer: one may be lost already."""
    free: dict[str, list[int]] = {}
    silent: dict[str, Retryable] = {}
    for site in ground.fleet.sites:
        try:
            free |= free_at(ground, [site])
        except Retryable as error:
            silent[site] = error
    return free, silent


def _demand_embedded(fleet: Fleet, scenario: Scenario) -> None:
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
    use_cases = [
        name for pool in affected_pools(fleet, lost) for name in fleet.pools[pool].use_cases
    ]
    weights = [*_weights(ground, found.placed)]
    rto_s = min(fleet.use_cases[name].rto_s for name in use_cases)
    return DrillPlan(
        fleet=fleet.fleet,
        environment=fleet.environment,
        fleet_digest=digest_of(fleet),
        scenario=SITE_LOST.name,
        target=lost,
        use_cases=sorted(use_cases, key=lambda name: fleet.use_cases[name].rto_s),
        lost=list(stand_ins(fleet, lost, here)),
        placed=list(found.placed),
        unheld=dict(found.unheld),
        notes=[*SITE_LOST.leaves_out, *_short(ground, lost, free, found), *_unproven(weights)],
        outlook=_outlook(ground, lost, found.placed, weights, rto_s),
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


def _weights(ground: Ground, placed: Iterable[Placed]) -> Iterable[_Weights]:
    wanted = dict.fromkeys((ground.fleet.pools[each.pool].model, each.site) for each in placed)
    for revision, site in wanted:
        yield _Weights(revision, site, newest_snapshot(ground, site, revision))


def _unproven(weights: Iterable[_Weights]) -> Iterable[str]:
    for each in weights:
        if each.snapshot is None:
            yield (
                f"no snapshot of {each.revision} is at {each.site}: that its weights come back is "
                "not shown"
            )


def _outlook(
    ground: Ground, lost: str, placed: Sequence[Placed], weights: Sequence[_Weights], rto_s: float
) -> Outlook:
    fleet = ground.fleet
    models = {(fleet.models[fleet.pools[p.pool].model].load_time_s, p.site) for p in placed}
    size = sum(each.snapshot.plain_bytes for each in weights if each.snapshot)
    rate = restore_rate(ground) or LOCAL_RESTORE_BYTES_PER_S
    first_s = [
        fleet.use_cases[name].slo.ttft_p95_s
        for each in placed
        for name in fleet.pools[each.pool].use_cases
    ]
    model = {
        Phase.DETECT: _DETECT_S,
        Phase.DECIDE: _DECIDE_S,
        Phase.PROVISION: _PROVISION_S,
        Phase.ARTIFACTS: size / rate,
        Phase.LOAD: max((load_s * _scale(fleet, site) for load_s, site in models), default=0.0),
        Phase.FIRST_TOKEN: max(first_s, default=0.0),
    }
    return predicted(
        ground.drills.reports(SITE_LOST.name, lost),
        model,
        rto_s=rto_s,
        restore=(Work(size), Rates(rate, rate)) if size else None,
    )


def _scale(fleet: Fleet, site: str) -> float:
    """Simulated replicas load faster than real ones."""
    cluster = fleet.sites[site].cluster
    return cluster.load_time_scale if isinstance(cluster, EmbeddedCluster) else 1.0
