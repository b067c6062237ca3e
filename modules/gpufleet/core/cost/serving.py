"""What the served requests of pools, use cases and teams cost, with what stands idle beside them.

Every amount is whole cents, and every split adds up to what was split.
"""

import bisect
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from gpufleet.core.cost.hardware import HourlyCost, decimal, gpu_hour
from gpufleet.core.cost.money import cents, per_thousand, split, task_price, unit_price
from gpufleet.spec.cost_reports import CostParts, PeriodCost, PoolCost, TeamCost, UseCaseCost
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plans import PoolPlan
from gpufleet.spec.serving import Pool, Tokens
from gpufleet.spec.usage import NOBODY

PROMPT_TOKEN_WORK: Final = 0.25
"""Work of a prompt token, of which many are computed at once, over that of an output token: the
median of input over output price in `spec/hosted_prices.csv`."""
_ENOUGH_HOURS: Final = 24
"""Observed hours from which their percentile replaces the declared default."""
_CONSERVATIVE: Final = 0.25
_HOUR_S: Final = 3600
_LEAST: Final = 0.01
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True)
class Capacity:
    """What one GPU of a pool serves when it is full."""

    work_per_gpu_s: float
    """Units of work (`work_of`) in a second."""
    source: str

    def gpu_hours(self, work: float, utilization: float) -> float:
        """GPU-hours that work takes at a utilization."""
        if not work:
            return 0.0
        return work / (self.work_per_gpu_s * utilization * _HOUR_S)


@dataclass(frozen=True)
class Demand:
    """What one use case asks of a pool in a period."""

    use_case: str
    team: str
    requests: float
    successful: float
    work: float
    """Units of work of all its requests together."""


@dataclass(frozen=True)
class PoolUse:
    """How one pool is used in a period."""

    pool: str
    hours: float
    """Hours of the period that something is known about."""
    served_share: float
    """Share of the GPU-hours that are charged to it in those hours which serve requests."""
    utilization: float
    """Of the GPUs in serving GPU-hours, which their power follows."""
    price_utilization: float
    """At which prices are made: conservative in a forecast, the same where it was observed."""
    utilization_source: str
    """Of `price_utilization`."""
    capacity: Capacity
    demand: tuple[Demand, ...]
    watts: Decimal | None = None
    """Measured in serving GPU-hours, W for each GPU."""
    planned: bool = True
    """Whether prices are for planning: at the conservative utilization, with the buffer."""
    over: float = 1.0
    """GPU-hours that ran over those that it keeps, where more ran; else 1."""


class ObservedHour(NamedTuple):
    """How a pool was used in one hour."""

    utilization: float
    """Share of its running replicas' capacity that was served."""
    work: float
    """Units of work that were served."""


def work_of(prompt_tokens: float, output_tokens: float) -> float:
    """Units of work: output tokens, with prompt tokens at `PROMPT_TOKEN_WORK` of one."""
    return PROMPT_TOKEN_WORK * prompt_tokens + output_tokens


def work_of_request(tokens: Tokens) -> float:
    """Units of work of a use case's mean request."""
    return work_of(tokens.prompt_mean, tokens.output_mean)


def kept_gpus(pool: Pool) -> dict[str, int]:
    """GPUs that a pool keeps by node group: for every replica that may run."""
    return {
        group: placement.ceiling * placement.gpus_per_replica
        for group, placement in pool.placements.items()
    }


def capacity_of(fleet: Fleet, pool_name: str) -> Capacity:
    """What a GPU of a pool serves, from the fleet file alone.

    By measured rates where every GPU type of the pool has one. Else the declared steady replicas
    are taken to serve the busiest hour of a usual day at `costs.default_utilization`.
    """
    pool = fleet.pools[pool_name]
    asked = _busiest_work(fleet, pool)
    if not asked:
        return Capacity(math.inf, "no use case is routed here")
    gpus = kept_gpus(pool)
    rates = {
        (measured.model, measured.gpu_type): measured.rate_rps_per_gpu
        for measured in fleet.measurements.values()
    }
    measured = {group: rates.get((pool.model, fleet.node_groups[group].gpu_type)) for group in gpus}
    if sum(gpus.values()) and all(measured.values()):
        rate = sum((measured[group] or 0) * count for group, count in gpus.items())
        rps = sum(fleet.use_cases[name].traffic.rate_rps for name in pool.use_cases)
        return Capacity(rate / sum(gpus.values()) * asked / rps, "measured rate for each GPU")
    steady = sum(place.replicas * place.gpus_per_replica for place in pool.placements.values())
    serving = max(1, steady or sum(gpus.values()))
    share = fleet.costs.default_utilization
    source = f"assumed: {serving} steady GPUs serve the busiest usual hour at {share:.0%}"
    return Capacity(asked / (serving * share), source)


def planned_capacity(fleet: Fleet, plan: PoolPlan) -> Capacity:
    """What a GPU of a pool serves, by its capacity plan."""
    asked = _busiest_work(fleet, fleet.pools[plan.pool])
    used = plan.gpus_steady * plan.predicted.utilization
    if not asked or used <= 0:
        return capacity_of(fleet, plan.pool)
    return Capacity(asked / used, f"plan ({plan.evidence})")


def _busiest_work(fleet: Fleet, pool: Pool) -> float:
    """Units of work that arrive in a second of the busiest hour of a usual day."""
    return sum(
        use_case.traffic.rate_rps * work_of_request(use_case.tokens)
        for use_case in (fleet.use_cases[name] for name in pool.use_cases)
    )


def conservative_utilization(observed: Sequence[ObservedHour], default: float) -> tuple[float, str]:
    """The utilization that prices are made with, and where it comes from.

    The 25th percentile of observed hours, weighted by what each served: three quarters of the work
    were served at this utilization or a higher one. It is one that was really seen; quiet hours
    count for the little that they served, and hours without requests for nothing. The default holds
    before 24 hours with requests were observed.
    """
    serving = sorted(hour for hour in observed if hour.work > 0)
    if len(serving) < _ENOUGH_HOURS:
        return default, "default, before a day was observed"
    upto = list(itertools.accumulate(hour.work for hour in serving))
    low = serving[bisect.bisect_left(upto, _CONSERVATIVE * upto[-1])].utilization
    return min(1.0, max(_LEAST, low)), f"25th percentile of {len(serving)} observed hours"


def period_cost(
    fleet: Fleet, uses: Iterable[PoolUse], begin: datetime, end: datetime
) -> PeriodCost:
    """What an environment costs in a period.

    Args:
        fleet: declares prices.
        uses: how each of its pools is used.
        begin: a moment on a whole hour.
        end: likewise; not part of the period.
    """
    known = list(uses)
    hours = decimal((end - begin) / _HOUR)
    rates = {name: gpu_hour(fleet, name, day=begin.date()) for name in fleet.node_groups}
    exact = [_exact(fleet, use, rates) for use in known]
    kept = {group: n for pool in fleet.pools.values() for group, n in kept_gpus(pool).items()}
    beyond = {
        group: decimal(use.hours) * count * (decimal(use.over) - 1)
        for use in known
        for group, count in kept_gpus(fleet.pools[use.pool]).items()
    }
    unassigned = sum(
        max(Decimal(0), (group.gpus - kept.get(name, 0)) * hours - beyond.get(name, 0))
        * rates[name].total(0)
        for name, group in fleet.node_groups.items()
    )
    unobserved = sum(
        (hours - decimal(use.hours)) * count * rates[group].fixed
        for use in known
        for group, count in kept_gpus(fleet.pools[use.pool]).items()
    )
    parts = [amount for each in exact for amount in (each.served, each.idle)]
    total = cents(sum(parts, Decimal(unassigned + unobserved)))
    *split_parts, unassigned, unobserved = split(total, [*parts, unassigned, unobserved])
    pools = [
        _pool_cost(fleet, use, each, split_parts[2 * index], split_parts[2 * index + 1])
        for index, (use, each) in enumerate(zip(known, exact, strict=True))
    ]
    rows = [row for pool in pools for row in pool.use_cases]
    buffer = fleet.governance.cost_buffer if any(use.planned for use in known) else 0
    planned = cents(total * decimal(buffer))
    budget = _monthly_budget(fleet, begin, end)
    return PeriodCost(
        begin=begin,
        end=end,
        pools=pools,
        teams=_teams(rows, total),
        unassigned=unassigned,
        unobserved=unobserved,
        total=total,
        cost_per_1k=mean_price(rows),
        buffer=planned,
        budget=budget,
        budget_left=None if budget is None else budget - total - planned,
    )


@dataclass(frozen=True)
class _Exact:
    """A pool's cost before it is rounded."""

    amortization: Decimal
    facility: Decimal
    oncall: Decimal
    power: Decimal
    served: Decimal
    idle: Decimal
    gpu_hours: Decimal
    gpu_hour_at_utilization: Decimal
    """Mean over the pool's GPUs."""


def _exact(fleet: Fleet, use: PoolUse, rates: Mapping[str, HourlyCost]) -> _Exact:
    hours, share = decimal(use.hours), decimal(use.served_share)
    amortization = facility = oncall = power = served = idle = gpu_hours = at = Decimal(0)
    for group, count in kept_gpus(fleet.pools[use.pool]).items():
        rate, kept = rates[group], hours * count * decimal(use.over)
        working = rate.power_of(use.watts) if use.watts is not None else None
        busy = rate.power_at(use.utilization) if working is None else working
        amortization += kept * rate.amortization
        facility += kept * rate.facility
        oncall += kept * rate.oncall
        served += kept * share * (rate.fixed + busy)
        idle += kept * (1 - share) * rate.total(0)
        power += kept * (share * busy + (1 - share) * rate.power_at(0))
        gpu_hours += kept
        at += kept * rate.total(use.price_utilization)
    mean = at / gpu_hours if gpu_hours else Decimal(0)
    return _Exact(amortization, facility, oncall, power, served, idle, gpu_hours, mean)


def _pool_cost(
    fleet: Fleet, use: PoolUse, exact: _Exact, served: Decimal, idle: Decimal
) -> PoolCost:
    names = ("amortization", "power", "facility", "oncall")
    amounts = split(served + idle, [getattr(exact, name) for name in names])
    served_hours = exact.gpu_hours * decimal(use.served_share)
    rows = _use_case_costs(fleet, use, exact, served, idle)
    return PoolCost(
        pool=use.pool,
        gpus=sum(kept_gpus(fleet.pools[use.pool]).values()),
        gpu_hours=cents(exact.gpu_hours),
        served_gpu_hours=cents(served_hours),
        utilization=use.price_utilization,
        utilization_source=use.utilization_source,
        capacity_source=use.capacity.source,
        parts=CostParts(**dict(zip(names, amounts, strict=True))),
        served=served,
        idle=idle,
        cost_per_1k=mean_price(rows),
        use_cases=rows,
    )


def _use_case_costs(
    fleet: Fleet, use: PoolUse, exact: _Exact, served: Decimal, idle: Decimal
) -> list[UseCaseCost]:
    """A pool's cost split by the work that each use case asked for."""
    if not use.demand:
        return []
    work = [each.work for each in use.demand]
    weights = work if any(work) else [1.0] * len(work)
    hours = split(cents(exact.gpu_hours * decimal(use.served_share)), weights)
    rows = zip(use.demand, split(served, weights), split(idle, weights), hours, strict=True)
    return [
        _use_case_cost(fleet, use, exact, demand, (own, beside, took))
        for demand, own, beside, took in rows
    ]


def _use_case_cost(
    fleet: Fleet,
    use: PoolUse,
    exact: _Exact,
    demand: Demand,
    amounts: tuple[Decimal, Decimal, Decimal],
) -> UseCaseCost:
    served, idle, gpu_hours = amounts
    price = per_thousand(served, demand.requests)
    if use.planned and demand.requests:
        needed = use.capacity.gpu_hours(demand.work / demand.requests, use.price_utilization)
        buffered = exact.gpu_hour_at_utilization * (1 + decimal(fleet.governance.cost_buffer))
        price = unit_price(1000 * decimal(needed) * buffered)
    successes = demand.successful / demand.requests if demand.requests else 0.0
    task = price / 1000 / decimal(successes) if price is not None and successes else None
    return UseCaseCost(
        use_case=demand.use_case,
        team=demand.team,
        pool=use.pool,
        requests=round(demand.requests),
        successful=round(demand.successful),
        work=round(demand.work),
        gpu_hours=gpu_hours,
        served=served,
        idle=idle,
        cost_per_1k=price,
        cost_per_1k_with_idle=per_thousand(served + idle, demand.requests),
        cost_per_task=None if task is None else task_price(task),
    )


def mean_price(rows: Iterable[UseCaseCost]) -> Decimal | None:
    """The price of 1,000 requests of several use cases together; None where there were none."""
    paid = [(row.cost_per_1k, row.requests) for row in rows if row.cost_per_1k is not None]
    requests = sum(count for _, count in paid)
    if not requests:
        return None
    return unit_price(sum((price * count for price, count in paid), Decimal(0)) / requests)


def _teams(rows: Sequence[UseCaseCost], total: Decimal) -> list[TeamCost]:
    """Every team's cost, and under `NOBODY` what no team can be charged for."""
    by_team: dict[str, list[UseCaseCost]] = {}
    for row in rows:
        by_team.setdefault(row.team, []).append(row)
    left = total - sum((row.served + row.idle for row in rows), Decimal(0))
    if left:
        by_team.setdefault(NOBODY, [])
    return [
        _team(name, mine, left if name == NOBODY else Decimal(0)) for name, mine in by_team.items()
    ]


def _team(name: str, rows: Sequence[UseCaseCost], beside: Decimal) -> TeamCost:
    requests = sum(row.requests for row in rows)
    successful = sum(row.successful for row in rows)
    price = mean_price(rows)
    task = price * requests / 1000 / successful if price is not None and successful else None
    return TeamCost(
        team=name,
        requests=requests,
        successful=successful,
        served=sum((row.served for row in rows), Decimal(0)),
        idle=sum((row.idle for row in rows), beside),
        cost_per_1k=price,
        cost_per_task=None if task is None else task_price(task),
    )


def _monthly_budget(fleet: Fleet, begin: datetime, end: datetime) -> Decimal | None:
    """The budget, for a period that is one whole month."""
    if fleet.budget is None or (begin.date(), end.date()) != month_of(begin.date()):
        return None
    return fleet.budget.monthly


def month_of(day: date, ahead: int = 0) -> tuple[date, date]:
    """First day of the month of `day`, so many months ahead, and of the month after it."""
    count = day.year * 12 + day.month - 1 + ahead
    return date(count // 12, count % 12 + 1, 1), date((count + 1) // 12, (count + 1) % 12 + 1, 1)
