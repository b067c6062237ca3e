"""What the coming months cost, from declared traffic, prices and placements."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time

from gpufleet.core.cost.serving import (
    Capacity,
    Demand,
    ObservedHour,
    PoolUse,
    capacity_of,
    conservative_utilization,
    kept_gpus,
    month_of,
    period_cost,
    work_of_request,
)
from gpufleet.core.cost.volume import peaks_between, requests_between
from gpufleet.spec.cost_reports import CostReport
from gpufleet.spec.fleet import Fleet


def forecast(
    fleet: Fleet,
    day: date,
    months: int,
    *,
    observed: Mapping[str, Sequence[ObservedHour]] | None = None,
) -> CostReport:
    """Costs of whole months, from the one that a day is in.

    Args:
        fleet: declares traffic, prices and placements.
        day: in the first month.
        months: how many.
        observed: hours by pool, which set the utilization of prices.
    """
    spans = [month_of(day, ahead) for ahead in range(months)]
    periods = [(midnight(first), midnight(after)) for first, after in spans]
    return forecast_of(fleet, periods, observed=observed)


def forecast_of(
    fleet: Fleet,
    periods: Sequence[tuple[datetime, datetime]],
    *,
    observed: Mapping[str, Sequence[ObservedHour]] | None = None,
) -> CostReport:
    """Costs of any periods between whole hours; arguments as of `forecast`."""
    known = {name: capacity_of(fleet, name) for name in fleet.pools}
    seen = observed or {}
    uses = [
        [
            planned_use(fleet, name, known[name], begin=begin, end=end, observed=seen.get(name, ()))
            for name in fleet.pools
        ]
        for begin, end in periods
    ]
    return CostReport(
        fleet=fleet.fleet,
        environment=fleet.environment,
        currency=fleet.currency,
        kind="forecast",
        buffer_share=fleet.governance.cost_buffer,
        periods=[
            period_cost(fleet, mine, begin, end)
            for mine, (begin, end) in zip(uses, periods, strict=True)
        ],
        notes=[*_notes(fleet, known), *_short(fleet, periods, uses), *_peaks(fleet, periods)],
    )


def planned_use(  # noqa: PLR0913 - what is asked of which pool, when, and what is known of it
    fleet: Fleet,
    pool_name: str,
    capacity: Capacity,
    *,
    begin: datetime,
    end: datetime,
    observed: Sequence[ObservedHour] = (),
) -> PoolUse:
    """How a pool will be used: what is asked of it, at the declared utilization.

    What was observed sets the utilization of prices alone: GPU-hours that requests take follow from
    declared traffic, not from how quiet the nights were.
    """
    pool = fleet.pools[pool_name]
    hours = (end - begin).total_seconds() / 3600
    usual = fleet.costs.default_utilization
    cautious, source = conservative_utilization(observed, usual)
    demand = tuple(_demand(fleet, name, begin, end) for name in pool.use_cases)
    kept = sum(kept_gpus(pool).values()) * hours
    needed = capacity.gpu_hours(sum(each.work for each in demand), usual)
    return PoolUse(
        pool=pool_name,
        hours=hours,
        served_share=min(1.0, needed / kept) if kept else 0.0,
        utilization=usual,
        price_utilization=cautious,
        utilization_source=source,
        capacity=capacity,
        demand=demand,
    )


def midnight(day: date) -> datetime:
    """The first moment of a day, UTC."""
    return datetime.combine(day, time(), UTC)


def _demand(fleet: Fleet, name: str, begin: datetime, end: datetime) -> Demand:
    use_case = fleet.use_cases[name]
    requests = requests_between(use_case.traffic, begin, end)
    return Demand(
        use_case=name,
        team=use_case.team,
        requests=requests,
        successful=requests * use_case.success_rate,
        work=requests * work_of_request(use_case.tokens),
    )


def _short(
    fleet: Fleet, periods: Sequence[tuple[datetime, datetime]], uses: Sequence[Sequence[PoolUse]]
) -> list[str]:
    """Pools that keep fewer GPUs than their requests need, in the period that needs most."""
    most: dict[str, tuple[int, datetime, float]] = {}
    for (begin, _), mine in zip(periods, uses, strict=True):
        for use in mine:
            work = sum(each.work for each in use.demand)
            needed = math.ceil(use.capacity.gpu_hours(work, use.utilization) / use.hours - 1e-9)
            if needed > most.get(use.pool, (0,))[0]:
                most[use.pool] = (needed, begin, use.utilization)
    found = []
    for name, (needed, begin, share) in most.items():
        kept = sum(kept_gpus(fleet.pools[name]).values())
        if needed > kept:
            found.append(
                f"pool {name}: needs {needed} GPUs at {share:.0%} in {begin:%Y-%m}, keeps {kept}: "
                "what is missing is in no amount"
            )
    return found


def _peaks(fleet: Fleet, periods: Sequence[tuple[datetime, datetime]]) -> list[str]:
    found = []
    for begin, end in periods:
        names: dict[str, list[str]] = {}
        for name, use_case in fleet.use_cases.items():
            for peak in peaks_between(use_case.traffic, begin, end):
                names.setdefault(peak, []).append(name)
        found += [
            f"{begin:%Y-%m}: peak {peak} of {', '.join(whose)}" for peak, whose in names.items()
        ]
    return found


def _notes(fleet: Fleet, capacities: Mapping[str, Capacity]) -> list[str]:
    notes = [
        f"pool {name}: {capacity.source}"
        for name, capacity in capacities.items()
        if capacity.source.startswith("assumed")
    ]
    free = [name for name, group in fleet.node_groups.items() if not group.price_per_node]
    if free:
        notes.append(f"no purchase price: {', '.join(free)}")
    if not any(shift.monthly_cost for shift in fleet.staffing.values()):
        notes.append("no on-call cost: `staffing` declares none")
    return notes
