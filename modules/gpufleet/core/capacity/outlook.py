"""What users of a pool would see with the replicas that are declared, whether planned or not."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from gpufleet.core.capacity.arrivals import Trace, arrivals
from gpufleet.core.capacity.bounds import check_reachable
from gpufleet.core.capacity.demand import PoolDemand
from gpufleet.core.capacity.needs import SEED
from gpufleet.core.capacity.requests import Limits
from gpufleet.core.capacity.simulator import simulate
from gpufleet.core.capacity.sizing import TIMEOUT_S, predict
from gpufleet.core.capacity.speed import speed_of
from gpufleet.core.cost.hardware import HOURS_PER_MONTH, gpu_hour
from gpufleet.core.cost.money import cents
from gpufleet.spec.changes import CapacityChange, PoolRisk
from gpufleet.spec.fleet import Fleet

_REQUESTS: Final = 6000
"""Simulated for each pool: enough for a 95th percentile at a glance."""
_ANSWERS: Final = 20
"""Simulated time is this many times the longest promised answer at least."""


def capacity_change(
    before: Fleet | None,
    after: Fleet,
    traces: tuple[Mapping[str, Trace], Mapping[str, Trace]],
) -> CapacityChange:
    """The difference in GPUs, cost and risk between two declarations of an environment.

    Args:
        before: as it was applied last; none where it never was.
        after: as it would be.
        traces: recorded arrivals by use case, of both.
    """
    changed = [name for name in after.pools if before is None or _differs(before, after, name)]
    return CapacityChange(
        currency=after.currency,
        gpus_before=_most_gpus(before),
        gpus_after=_most_gpus(after),
        cost_monthly_before=_cost_monthly(before),
        cost_monthly_after=_cost_monthly(after),
        risks=[_risk(before, after, name, traces) for name in changed],
    )


def _most_gpus(fleet: Fleet | None) -> int:
    pools = fleet.pools.values() if fleet else ()
    return sum(p.ceiling * p.gpus_per_replica for pool in pools for p in pool.placements.values())


def _cost_monthly(fleet: Fleet | None) -> Decimal:
    """Of every replica that may run, at the declared default utilization."""
    if fleet is None:
        return Decimal(0)
    share = fleet.costs.default_utilization
    hourly = sum(
        (
            place.ceiling * place.gpus_per_replica * gpu_hour(fleet, group).total(share)
            for pool in fleet.pools.values()
            for group, place in pool.placements.items()
        ),
        Decimal(0),
    )
    return cents(hourly * HOURS_PER_MONTH)


def _differs(before: Fleet, after: Fleet, name: str) -> bool:
    """Whether anything that a pool's speed or load follows from has changed."""
    return name not in before.pools or _about(before, name) != _about(after, name)


def _about(fleet: Fleet, name: str) -> tuple[object, ...]:
    pool = fleet.pools[name]
    types = {fleet.node_groups[group].gpu_type for group in pool.placements}
    return (
        pool,
        fleet.models[pool.model],
        [fleet.use_cases[use_case] for use_case in pool.use_cases],
        {gpu_type: fleet.gpus[gpu_type] for gpu_type in types},
        [m for m in fleet.measurements.values() if m.model == pool.model],
    )


def _risk(
    before: Fleet | None,
    after: Fleet,
    name: str,
    traces: tuple[Mapping[str, Trace], Mapping[str, Trace]],
) -> PoolRisk:
    unknown = []
    shares: list[float | None] = []
    for fleet, known in ((before, traces[0]), (after, traces[1])):
        share = None
        if fleet is not None and name in fleet.pools:
            try:
                share = p95_share(fleet, name, known)
            except ValueError as why:
                unknown.append(str(why))
        shares.append(share)
    return PoolRisk(
        pool=name,
        p95_share_before=shares[0],
        p95_share_after=shares[1],
        unknown="; ".join(dict.fromkeys(unknown)),
    )


def p95_share(fleet: Fleet, name: str, traces: Mapping[str, Trace]) -> float:
    """The predicted p95 over its limit, of whole answer or first token, whichever is nearer.

    At the declared peak, with every replica that may run; above 1 the promise is broken.

    Raises:
        ValueError: it is not known, and why.
    """
    pool = fleet.pools[name]
    group_name, placement = next(iter(pool.placements.items()))
    replicas = sum(place.ceiling for place in pool.placements.values())
    if not pool.use_cases or not replicas:
        raise ValueError("no use case is routed here, or no replica may run")
    types = {fleet.node_groups[group].gpu_type for group in pool.placements}
    if len(types) > 1:
        raise ValueError(f"its replicas run on several GPU types: {', '.join(sorted(types))}")
    demand = PoolDemand.of(fleet, name, traces)
    prompt, output = demand.mean_tokens()
    speed = speed_of(
        fleet,
        pool.model,
        fleet.node_groups[group_name].gpu_type,
        gpus_per_node=placement.gpus_per_node,
        nodes_per_replica=placement.nodes_per_replica,
        concurrency_limit=pool.concurrency_limit,
        memory_utilization=pool.memory_utilization,
        mean_prompt_tokens=prompt,
        mean_output_tokens=output,
    )
    streams, targets = demand.streams(demand.peak), demand.targets(demand.peak)
    check_reachable(streams, targets, speed)
    rate = sum(demand.peak.rates_rps)
    duration_s = max(_REQUESTS / rate, _ANSWERS * max(target.p95_s for target in targets))
    requests = arrivals(streams, duration_s=duration_s, seed=SEED)
    unlimited = Limits(queue_limit=len(requests), timeout_s=TIMEOUT_S)
    outcome = simulate(requests, speed, replicas, unlimited)
    seen = [(predict([outcome], target), target) for target in targets]
    share = max(
        max(found.p95_s / target.p95_s, found.ttft_p95_s / target.ttft_p95_s)
        for found, target in seen
    )
    if not math.isfinite(share):
        raise ValueError("no request of a use case would be served")
    return share
