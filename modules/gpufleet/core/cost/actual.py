"""What was served has cost, from rows of observed usage; what was not seen is said, not guessed."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final

from gpufleet.core.cost.forecast import midnight
from gpufleet.core.cost.hardware import decimal
from gpufleet.core.cost.serving import (
    Capacity,
    Demand,
    ObservedHour,
    PoolUse,
    capacity_of,
    kept_gpus,
    month_of,
    period_cost,
    work_of,
    work_of_request,
)
from gpufleet.spec.cost_reports import CostReport
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.serving import Pool
from gpufleet.spec.usage import NOBODY, SHARED, Usage

_HOUR: Final = timedelta(hours=1)


def actual(
    fleet: Fleet,
    rows: Iterable[Usage],
    begin: datetime,
    end: datetime,
) -> CostReport:
    """Costs of what is over, month by month, or of the part of it that was observed.

    GPU-hours in which replicas ran are charged to the requests that they served; those of rows
    without a request, and what a pool keeps beside them, stand idle. Where more ran than a pool
    keeps, all that ran is charged.

    Args:
        fleet: declares prices, pools and use cases.
        rows: that lie in the period, whole or in part; others are left out. Of a row that goes
            over its end, or that of a month, each part has its hours' share.
        begin: first moment, on a whole hour.
        end: the moment after it.
    """
    by_pool: dict[str, list[Usage]] = defaultdict(list)
    strangers = set()
    for row in rows:
        if row.pool not in fleet.pools:
            strangers.add(row.pool)
        else:
            by_pool[row.pool].append(row)
    known = {name: capacity_of(fleet, name) for name in fleet.pools}
    notes = [note for name in fleet.pools for note in _gaps(name, by_pool[name], begin, end)]
    notes += [f"pool {name} is not declared: its rows are left out" for name in sorted(strangers)]
    return CostReport(
        fleet=fleet.fleet,
        environment=fleet.environment,
        currency=fleet.currency,
        kind="actual",
        buffer_share=0,
        periods=[
            period_cost(
                fleet,
                [
                    _use(fleet, name, by_pool[name], known[name], begin=first, end=after)
                    for name in fleet.pools
                ],
                first,
                after,
            )
            for first, after in by_month(begin, end)
        ],
        notes=notes,
    )


def by_month(begin: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """A period in the parts of it that lie in one month each."""
    parts = []
    while begin < end:
        after = min(end, midnight(month_of(begin.date())[1]))
        parts.append((begin, after))
        begin = after
    return parts


def observed_utilization(fleet: Fleet, rows: Iterable[Usage]) -> dict[str, list[ObservedHour]]:
    """By pool: how its running replicas were used in each hour in which it served requests."""
    found: dict[tuple[str, datetime], list[Usage]] = defaultdict(list)
    for row in rows:
        if row.pool in fleet.pools:
            found[row.pool, row.begin].append(row)
    hours: dict[str, list[ObservedHour]] = defaultdict(list)
    for (pool, _), mine in sorted(found.items()):
        ran = sum(row.gpu_hours for row in mine)
        work = sum(work_of(row.prompt_tokens, row.output_tokens) for row in mine)
        if not ran or not any(row.requests for row in mine):
            continue
        share = min(1.0, capacity_of(fleet, pool).gpu_hours(work, 1) / ran)
        lasted = mine[0].hours
        hours[pool] += [ObservedHour(share, work / lasted)] * lasted
    return dict(hours)


def _use(  # noqa: PLR0913 - which pool, what was seen of it and when, what it can do
    fleet: Fleet,
    name: str,
    rows: Sequence[Usage],
    capacity: Capacity,
    *,
    begin: datetime,
    end: datetime,
) -> PoolUse:
    pool = fleet.pools[name]
    rows = [part for row in rows for part in _part(row, begin, end)]
    hours = len(_observed_hours(rows, begin, end))
    kept = sum(kept_gpus(pool).values()) * hours
    serving = [row for row in rows if row.requests]
    ran = sum(row.gpu_hours for row in serving)
    charged = max(kept, sum(row.gpu_hours for row in rows))
    work = sum(work_of(row.prompt_tokens, row.output_tokens) for row in serving)
    needed = capacity.gpu_hours(work, 1)
    utilization = min(1.0, needed / ran) if ran else 0.0
    return PoolUse(
        pool=name,
        hours=hours,
        served_share=ran / charged if kept else 0.0,
        utilization=utilization,
        price_utilization=utilization,
        utilization_source="observed",
        capacity=capacity,
        demand=_demand(fleet, pool, serving),
        watts=_mean_watts(serving),
        planned=False,
        over=charged / kept if kept else 1.0,
    )


def _part(row: Usage, begin: datetime, end: datetime) -> list[Usage]:
    """What of a row lies in a period; the parts of consecutive periods add up to it."""
    first = max(0, round((begin - row.begin) / _HOUR))
    after = min(row.hours, round((end - row.begin) / _HOUR))
    if first >= after:
        return []

    def share(count: int) -> int:
        return count * after // row.hours - count * first // row.hours

    return [
        row.model_copy(
            update={
                "begin": row.begin + first * _HOUR,
                "hours": after - first,
                "requests": share(row.requests),
                "successful": None if row.successful is None else share(row.successful),
                "prompt_tokens": share(row.prompt_tokens),
                "output_tokens": share(row.output_tokens),
                "gpu_hours": row.gpu_hours * (after - first) / row.hours,
            }
        )
    ]


def _demand(fleet: Fleet, pool: Pool, rows: Sequence[Usage]) -> tuple[Demand, ...]:
    """What each use case asked for; rows of all together are split by declared work."""
    requests: dict[str, Fraction] = defaultdict(Fraction)
    work: dict[str, float] = defaultdict(float)
    tasks: dict[str, Fraction] = defaultdict(Fraction)
    for row in rows:
        for name, share in _shares(fleet, pool, row).items():
            asked = row.requests * share
            requests[name] += asked
            success = fleet.use_cases[name].success_rate if name in fleet.use_cases else 1.0
            counted = row.successful
            tasks[name] += asked * Fraction(success) if counted is None else counted * share
            work[name] += work_of(row.prompt_tokens, row.output_tokens) * float(share)
    return tuple(
        Demand(
            use_case=name,
            team=fleet.use_cases[name].team if name in fleet.use_cases else NOBODY,
            requests=float(requests[name]),
            successful=float(tasks[name]),
            work=work[name],
        )
        for name in requests
    )


def _shares(fleet: Fleet, pool: Pool, row: Usage) -> dict[str, Fraction]:
    """The use cases that a row is about, with the share of it that each has."""
    if row.use_case != SHARED or not pool.use_cases:
        return {row.use_case: Fraction(1)}
    declared = [fleet.use_cases[name] for name in pool.use_cases]
    weights = [Fraction(each.traffic.rate_rps * work_of_request(each.tokens)) for each in declared]
    whole = sum(weights)
    return {name: weight / whole for name, weight in zip(pool.use_cases, weights, strict=True)}


def _mean_watts(rows: Sequence[Usage]) -> Decimal | None:
    """Measured watts by GPU-hours; None unless every row has them."""
    ran = sum(row.gpu_hours for row in rows)
    if not ran or any(row.mean_watts is None for row in rows):
        return None
    return decimal(sum((row.mean_watts or 0) * row.gpu_hours for row in rows) / ran)


def _observed_hours(rows: Iterable[Usage], begin: datetime, end: datetime) -> set[datetime]:
    seen = {row.begin + hour * _HOUR for row in rows for hour in range(row.hours)}
    return {hour for hour in seen if begin <= hour < end}


def _gaps(name: str, rows: Sequence[Usage], begin: datetime, end: datetime) -> list[str]:
    """What is not known about a pool, as one sentence."""
    total = round((end - begin) / _HOUR)
    seen = _observed_hours(rows, begin, end)
    missing = [begin + hour * _HOUR for hour in range(total) if begin + hour * _HOUR not in seen]
    if not missing:
        return []
    first = missing[0].strftime("%Y-%m-%d %H:%M")
    return [
        f"pool {name}: nothing is known about {len(missing)} of {total} hours, from {first} UTC"
    ]
