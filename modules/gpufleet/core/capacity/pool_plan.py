"""From what was chosen for a pool to every number of its plan, each with its arithmetic."""

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

from gpufleet.core.capacity.arithmetic import arithmetic
from gpufleet.core.capacity.choice import Ground, Stand
from gpufleet.core.capacity.headroom import kept_available, wave_nodes
from gpufleet.core.capacity.prewarm import CannotSay, cron_windows, lead_s
from gpufleet.core.capacity.settled import Settled
from gpufleet.core.cost.hardware import HOURS_PER_MONTH, decimal, gpu_hour
from gpufleet.core.cost.money import cents, unit_price
from gpufleet.core.cost.serving import work_of_request
from gpufleet.core.serving import surge
from gpufleet.core.sources import Sources
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plans import (
    ArithmeticStep,
    Headroom,
    PlannedPlacement,
    PoolPlan,
    Predicted,
    UseCasePrediction,
)
from gpufleet.spec.serving import Placement, Pool, Prewarm, ServingClass, UseCaseLimits

_BURST_SHARE: Final = 2.0
"""A use case may have this many times its share of the pool in flight: room for a burst, and never
all of a shared pool."""
_SHORTEST_QUEUE_TIME_S: Final = 0.05


def pool_plan(
    fleet: Fleet, settled: Settled, grounds: Mapping[str, Ground], sources: Sources
) -> tuple[PoolPlan, list[str]]:
    """One pool's plan, and what a reader should know of it."""
    pool, candidate, sized = fleet.pools[settled.name], settled.candidate, settled.at_peak
    warnings = list(_warnings(fleet, settled, grounds, sources))
    placements = {
        group: PlannedPlacement(
            replicas=stand.replicas,
            max_replicas=stand.most,
            nodes_per_replica=candidate.nodes_per_replica,
            gpus_per_node=candidate.gpus_per_node,
        )
        for group, stand in settled.chosen.stands.items()
    }
    prewarm, untold = _prewarm(fleet, settled)
    gpus = settled.gpus_per_replica
    by_use_case = _by_use_case(settled)
    plan = PoolPlan(
        pool=settled.name,
        **{"class": pool.class_},
        use_cases=list(pool.use_cases),
        model=pool.model,
        gpu_type=candidate.gpu_type,
        tp=candidate.gpus_per_node,
        pp=candidate.nodes_per_replica,
        evidence=candidate.speed.evidence.value,
        evidence_source=candidate.speed.source,
        gpus_steady=settled.steady * gpus,
        gpus_burst=(settled.peak - settled.steady) * gpus,
        replicas_min=settled.steady,
        replicas_max=settled.most,
        concurrency_limit=candidate.concurrency_limit,
        queue_limit=sized.queue_limit,
        queue_time_target_s=_three(sized.queue_time_target_s),
        placements=placements,
        prewarm=prewarm,
        limits=_limits(settled),
        predicted=_predicted(settled, by_use_case),
        by_use_case=by_use_case,
        headroom=_headroom(fleet, settled, placements),
        site_loss=_site_loss(settled, grounds),
        smooth_gpus=sized.smooth_replicas * gpus,
        cost_monthly=_cost_monthly(fleet, placements),
        cost_per_1k=None,
        cost_per_1k_usd=None,
        latency_by_gpus=[
            (replicas * gpus, p95_s, ttft_s) for replicas, p95_s, ttft_s in sized.latency
        ],
        explain=[],
    )
    price = _cost_per_1k(fleet, settled, plan)
    rate = fleet.exchange_rates.get("USD")
    in_usd = price if fleet.currency == "USD" or price is None else None
    if price is not None and fleet.currency != "USD" and rate is not None:
        in_usd = unit_price(price / decimal(rate.rate))
    priced = plan.model_copy(update={"cost_per_1k": price, "cost_per_1k_usd": in_usd})
    steps = list(arithmetic(fleet, settled, priced, sources))
    return priced.model_copy(update={"explain": steps}), [*warnings, *untold]


def _three(number: float) -> float:
    """Three digits: as many as a prediction has."""
    return float(f"{number:.3g}")


def _by_use_case(settled: Settled) -> list[UseCasePrediction]:
    seen = {each.use_case: each for each in settled.at_peak.predictions}
    return [
        UseCasePrediction(
            use_case=name,
            p95_s=_three(seen[index].p95_s),
            p95_limit_s=use_case.slo.p95_s,
            ttft_p95_s=_three(seen[index].ttft_p95_s),
            ttft_p95_limit_s=use_case.slo.ttft_p95_s,
            error_rate=seen[index].error_rate,
            error_rate_limit=use_case.slo.error_rate,
        )
        for index, (name, use_case) in enumerate(
            zip(settled.demand.names, settled.demand.use_cases, strict=True)
        )
        if index in seen
    ]


def _predicted(settled: Settled, by_use_case: list[UseCasePrediction]) -> Predicted:
    """Of the use case that is nearest to its limit; the worst of errors."""
    nearest = max(by_use_case, key=lambda each: each.p95_s / each.p95_limit_s)
    return Predicted(
        p95_s=nearest.p95_s,
        ttft_p95_s=nearest.ttft_p95_s,
        error_rate=max(each.error_rate for each in by_use_case),
        utilization=_three(settled.utilization),
    )


def _limits(settled: Settled) -> dict[str, UseCaseLimits]:
    """What the gateway accepts of each use case.

    Its share of the work in its own busiest hour decides how many it may have in flight, and what
    its first token may still wait, how long its requests may stand in a queue.
    """
    in_flight = settled.most * (settled.candidate.concurrency_limit + settled.at_peak.queue_limit)
    speed = settled.candidate.speed
    limits = {}
    demand = settled.demand
    for index, (name, use_case) in enumerate(zip(demand.names, demand.use_cases, strict=True)):
        share = min(1.0, _BURST_SHARE * demand.own_share(index))
        prompt = use_case.tokens.prompt_p95
        prefill = prompt * (speed.prefill_token_s + speed.attention_s * prompt / 2)
        left = use_case.slo.ttft_p95_s - speed.first_token_s - prefill
        limits[name] = UseCaseLimits(
            concurrency_limit=max(1, math.ceil(in_flight * share)),
            queue_time_limit_s=_three(max(_SHORTEST_QUEUE_TIME_S, left)),
        )
    return limits


def _prewarm(fleet: Fleet, settled: Settled) -> tuple[list[Prewarm], list[str]]:
    """Replicas before each declared peak, in proportion to the work that it adds."""
    demand = settled.demand
    model = fleet.models[fleet.pools[settled.name].model]
    works = [work_of_request(use_case.tokens) for use_case in demand.use_cases]
    added = demand.work(demand.peak) - demand.work(demand.usual)
    stands = settled.chosen.stands
    if added <= 0 or settled.peak == settled.steady:
        return [], []
    prewarm, untold = [], []
    for use_case, work in zip(demand.use_cases, works, strict=True):
        for peak in use_case.traffic.peaks:
            more = (peak.multiplier - 1) * use_case.traffic.rate_rps * work
            share = min(1.0, more / added)
            made = Prewarm(
                name=peak.name,
                recurrence=peak.recurrence,
                time_zone=use_case.traffic.time_zone,
                lead_s=lead_s(model),
                duration_s=peak.duration_s,
                replicas=_started(stands, math.ceil(share * (settled.peak - settled.steady))),
            )
            if made in prewarm:
                continue
            prewarm.append(made)
            try:
                cron_windows(made)
            except CannotSay as why:
                untold.append(f"pool {settled.name} is not pre-warmed for `{peak.name}`: {why}")
    return prewarm, untold


def _started(stands: Mapping[str, Stand], more: int) -> dict[str, int]:
    """So many replicas more than always run, by group in proportion to its room for them."""
    room = {group: stand.most - stand.replicas for group, stand in stands.items()}
    exact = {group: more * places / sum(room.values()) for group, places in room.items()}
    added = {group: math.floor(share) for group, share in exact.items()}
    fullest = sorted(room, key=lambda group: added[group] - exact[group])
    for group in fullest[: more - sum(added.values())]:
        added[group] += 1
    return {group: stand.replicas + added[group] for group, stand in stands.items()}


def _headroom(
    fleet: Fleet, settled: Settled, placements: Mapping[str, PlannedPlacement]
) -> Headroom:
    """Places beyond the replicas that may run.

    A wave and a rollout are never under way at once (one holds the environment's lease), and both
    keep out of declared peaks, so burst GPUs serve them first.
    """
    gpus = settled.gpus_per_replica
    pool = fleet.pools[settled.name]
    maintenance = max(0, _wave(fleet, settled) + _kept(settled, pool) - settled.most)
    rollout = sum(
        surge(Placement(**placement.model_dump()), fleet.node_groups[group]).max_surge
        for group, placement in placements.items()
    )
    surging = max(0, settled.steady + rollout - settled.most)
    return Headroom(
        failures=settled.failures.spares * settled.candidate.gpus_per_node,
        maintenance=maintenance * gpus,
        surge=max(0, surging - maintenance) * gpus,
        site_loss=(settled.most - settled.peak) * gpus,
    )


def _wave(fleet: Fleet, settled: Settled) -> int:
    """Replicas that the largest maintenance wave takes away."""
    waves = []
    for group_name, stand in settled.chosen.stands.items():
        group = fleet.node_groups[group_name]
        a_node = group.gpus_per_node // settled.candidate.gpus_per_node
        # A node of a replica that spans several takes the whole replica with it.
        waves.append(min(wave_nodes(group) * a_node, stand.replicas))
    return max(waves)


def _kept(settled: Settled, pool: Pool) -> int:
    return kept_available(settled.steady, pool.min_available)


def _site_loss(settled: Settled, grounds: Mapping[str, Ground]) -> str:
    stands = settled.chosen.stands
    sites = list(dict.fromkeys(grounds[group].site for group in stands))
    if len(sites) == 1:
        return f"the loss of {sites[0]} takes the whole pool away"
    when = "the declared peak" if settled.peak_after_loss else "the busiest hour of a usual day"
    needed = settled.needs.most if settled.peak_after_loss else settled.needs.usual
    left = {
        site: sum(s.most for group, s in stands.items() if grounds[group].site != site)
        for site in sites
    }
    worst = min(left, key=lambda site: left[site])
    if left[worst] >= needed:
        return "kept"
    return f"without {worst} {left[worst]} of the {needed} replicas for {when} are left"


def _cost_monthly(fleet: Fleet, placements: Mapping[str, PlannedPlacement]) -> Decimal:
    share = fleet.costs.default_utilization
    return cents(
        sum(
            (
                placement.max_replicas
                * placement.nodes_per_replica
                * placement.gpus_per_node
                * gpu_hour(fleet, group).total(share)
                for group, placement in placements.items()
            ),
            Decimal(0),
        )
        * HOURS_PER_MONTH
    )


def _cost_per_1k(fleet: Fleet, settled: Settled, plan: PoolPlan) -> Decimal | None:
    """Price of 1,000 of the pool's requests at the default utilization, with the buffer."""
    hours = decimal(settled.request_gpu_hours(fleet, plan))
    gpus = Decimal(settled.most * settled.gpus_per_replica)
    hourly = plan.cost_monthly / HOURS_PER_MONTH / gpus
    return unit_price(1000 * hours * hourly * (1 + decimal(fleet.governance.cost_buffer)))


def _warnings(
    fleet: Fleet, settled: Settled, grounds: Mapping[str, Ground], sources: Sources
) -> Iterator[str]:
    name = settled.name
    if settled.chosen.spares_short:
        short = settled.chosen.spares_short * settled.gpus_per_replica
        yield f"pool {name} is {short} GPUs short of spares for failures"
    loss = _site_loss(settled, grounds)
    if settled.keeps_site_loss and loss != "kept":
        yield f"pool {name}: {loss}"
    pool = fleet.pools[name]
    nodes = sum(fleet.node_groups[group].nodes for group in settled.chosen.stands)
    if nodes == 1 and pool.class_ is ServingClass.INTERACTIVE:
        where = sources.at(("pools", name, "placements"))
        yield f"pool {name} stands on one node: maintenance takes it away ({where})"


def kept_as_declared(fleet: Fleet, name: str, sources: Sources) -> PoolPlan:
    """A pool without use cases of its own (a fallback): what is declared, at no predicted load."""
    pool = fleet.pools[name]
    placements = {
        group: PlannedPlacement(
            replicas=placement.replicas,
            max_replicas=placement.ceiling,
            nodes_per_replica=placement.nodes_per_replica,
            gpus_per_node=placement.gpus_per_node,
        )
        for group, placement in pool.placements.items()
    }
    group, first = next(iter(pool.placements.items()))
    steady = sum(p.replicas * p.gpus_per_replica for p in pool.placements.values())
    most = sum(p.ceiling * p.gpus_per_replica for p in pool.placements.values())
    declared = sources.at(("pools", name, "placements"))
    return PoolPlan(
        pool=name,
        **{"class": pool.class_},
        use_cases=[],
        model=pool.model,
        gpu_type=fleet.node_groups[group].gpu_type,
        tp=first.gpus_per_node,
        pp=first.nodes_per_replica,
        evidence="declared",
        evidence_source=declared,
        gpus_steady=steady,
        gpus_burst=most - steady,
        replicas_min=sum(p.replicas for p in pool.placements.values()),
        replicas_max=sum(p.ceiling for p in pool.placements.values()),
        concurrency_limit=pool.concurrency_limit,
        queue_limit=pool.concurrency_limit if pool.queue_limit is None else pool.queue_limit,
        queue_time_target_s=pool.queue_time_target_s,
        placements=placements,
        prewarm=list(pool.prewarm),
        limits={},
        predicted=Predicted(p95_s=0, ttft_p95_s=0, error_rate=0, utilization=0),
        by_use_case=[],
        headroom=Headroom(failures=0, maintenance=0, surge=0),
        site_loss="no use case is routed here first",
        smooth_gpus=most,
        cost_monthly=_cost_monthly(fleet, placements),
        cost_per_1k=None,
        cost_per_1k_usd=None,
        latency_by_gpus=[],
        explain=[
            ArithmeticStep(
                number="replicas_min", text="no use case of its own: as declared", source=declared
            )
        ],
    )
