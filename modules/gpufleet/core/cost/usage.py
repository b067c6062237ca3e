"""Rows of usage: the queries that give them, how they are put together, what contradicts them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.problem import Problem
from gpufleet.spec.usage import SHARED, Usage

FLEET: Final = names.metric_label(names.FLEET)
SITE: Final = names.metric_label(names.SITE)
POOL: Final = names.metric_label(names.POOL)
USE_CASE: Final = names.metric_label(names.USE_CASE)
_BY: Final = f"{SITE}, {POOL}, {USE_CASE}"
_HOUR: Final = timedelta(hours=1)
_COUNTED: Final = ("requests", "prompt_tokens", "output_tokens", "replicas", "minutes")
"""Queries without which an hour is not known."""
_WHOLE: Final = 57
"""Minutes of an hour in which replicas were seen, from which the hour counts as observed."""

Cell = tuple[str, str, str]
"""Site, pool, use case."""
Observed = Mapping[str, Mapping[datetime, Mapping[Cell, float]]]
"""By name of a query, end of the hour, and cell."""


def queries(slug: str) -> dict[str, str]:
    """Prometheus' queries for the hour before a moment, by site, pool and use case.

    `increase()` counts on over a restart of an engine, whose counters begin at 0 again. Replicas
    are those whose engine answers: the mean over the minutes in which any was seen, with the number
    of those minutes, so that a gap is no smaller number.

    Args:
        slug: the label of the fleet and environment.
    """
    chosen = f'{{{FLEET}="{slug}",{POOL}!=""}}'
    answered = f'{{{FLEET}="{slug}",{POOL}!="",finished_reason!="abort"}}'
    running = f"max by (pod, {_BY}) (vllm:num_requests_running{chosen})"
    replicas = f"count by ({_BY}) ({running})[1h:1m]"
    return {
        "requests": f"sum by ({_BY}) (increase(vllm:request_success_total{answered}[1h]))",
        "prompt_tokens": f"sum by ({_BY}) (increase(vllm:prompt_tokens_total{chosen}[1h]))",
        "output_tokens": f"sum by ({_BY}) (increase(vllm:generation_tokens_total{chosen}[1h]))",
        "replicas": f"avg_over_time({replicas})",
        "minutes": f"count_over_time({replicas})",
        "watts": f"avg by ({_BY}) (avg_over_time(DCGM_FI_DEV_POWER_USAGE{chosen}[1h]))",
    }


@dataclass(frozen=True)
class Collected:
    """What a collection gave."""

    rows: list[Usage]
    gaps: list[str]
    """Hours that too little is known about: they have no row."""


def rows_of(fleet: Fleet, observed: Observed, begin: datetime, end: datetime) -> Collected:
    """Rows of whole hours, sites together, and the hours that are missing.

    Args:
        fleet: declares pools and node groups.
        observed: what the `queries` gave.
        begin: of the first hour.
        end: of the last one.
    """
    rows: list[Usage] = []
    gaps = []
    for name in fleet.pools:
        missing = []
        hour = begin
        while hour < end:
            found = _rows_of_hour(fleet, name, observed, hour)
            rows += found
            if not found:
                missing.append(hour)
            hour += _HOUR
        gaps += [_gap(name, missing)] if missing else []
    return Collected(rows, gaps)


def demand_no_contradiction(kept: Iterable[Usage], new: Sequence[Usage]) -> None:
    """Refuse rows that would count an hour twice.

    A day beside its hours or a day that overlaps it, or a pool as a whole beside its use cases.

    Raises:
        BadInput: naming the first.
    """
    shapes: dict[tuple[str, datetime], tuple[int, bool]] = {}
    counted: set[tuple[str, str, datetime]] = set()
    replaced = {row.key for row in new}
    for row in [*(each for each in kept if each.key not in replaced), *new]:
        shape = (row.hours, row.use_case == SHARED)
        for hour in range(row.hours):
            at = (row.pool, row.begin + hour * _HOUR)
            if shapes.setdefault(at, shape) != shape:
                raise BadInput(
                    f"{at[1]:%Y-%m-%d %H:%M} UTC would count twice: there is a row of a day and of "
                    "an hour, or of the whole pool and of one use case",
                    where=f"pool {row.pool}",
                    mend="bring all rows of a day in one form",
                )
            cell = (row.pool, row.use_case, at[1])
            if cell in counted:
                raise BadInput(
                    f"{at[1]:%Y-%m-%d %H:%M} UTC would count twice: two rows of {row.hours} hours "
                    f"of {row.use_case} overlap",
                    where=f"pool {row.pool}",
                    mend="let each row begin where the one before it ends",
                )
            counted.add(cell)


def demand_declared(fleet: Fleet, place: str, row: Usage) -> None:
    """Refuse a row about a pool or a use case that is not declared.

    Raises:
        BadInput: with the nearest name.
    """
    pools, use_cases = tuple(fleet.pools), (*fleet.use_cases, SHARED)
    for field, given, valid in (("pool", row.pool, pools), ("use_case", row.use_case, use_cases)):
        if given not in valid:
            problem = Problem((field,), f"there is no {field} `{given}`", given, valid)
            raise BadInput(problem.what, where=f"{place}: {field}", mend=problem.advice())


def _rows_of_hour(fleet: Fleet, pool: str, observed: Observed, hour: datetime) -> list[Usage]:
    """A pool's rows of one hour; none where a site that runs it was not seen whole.

    Nor where Prometheus gives no number: NaN, or infinity.
    """
    at = hour + _HOUR
    minutes = observed["minutes"].get(at, {})
    cells = [cell for cell in minutes if cell[1] == pool]
    unseen = _sites(fleet, pool) - {cell[0] for cell in cells}
    if not cells or unseen or any(minutes[cell] < _WHOLE for cell in cells):
        return []
    counted = [observed[name].get(at, {}).get(cell, 0.0) for name in _COUNTED for cell in cells]
    if not all(map(math.isfinite, counted)):
        return []
    by_use_case: dict[str, list[Cell]] = {}
    for cell in cells:
        by_use_case.setdefault(cell[2], []).append(cell)
    return [_row(fleet, pool, mine, observed, at) for mine in by_use_case.values()]


def _sites(fleet: Fleet, pool: str) -> set[str]:
    """Where replicas of a pool always run."""
    placements = fleet.pools[pool].placements.items()
    return {fleet.node_groups[group].site for group, place in placements if place.replicas}


def _row(fleet: Fleet, pool: str, cells: list[Cell], observed: Observed, at: datetime) -> Usage:
    def total(name: str) -> int:
        return round(sum(observed[name].get(at, {}).get(cell, 0.0) for cell in cells))

    gpu_hours = {
        cell: observed["replicas"].get(at, {}).get(cell, 0.0) * _gpus(fleet, pool, cell[0])
        for cell in cells
    }
    return Usage(
        begin=at - _HOUR,
        pool=pool,
        use_case=cells[0][2] or SHARED,
        requests=total("requests"),
        prompt_tokens=total("prompt_tokens"),
        output_tokens=total("output_tokens"),
        gpu_hours=round(sum(gpu_hours.values()), 6),
        mean_watts=_watts(fleet, pool, gpu_hours, observed["watts"].get(at, {})),
    )


def _gpus(fleet: Fleet, pool: str, site: str) -> int:
    """GPUs of one replica at a site."""
    for group, placement in fleet.pools[pool].placements.items():
        if fleet.node_groups[group].site == site:
            return placement.gpus_per_replica
    return 0


def _watts(
    fleet: Fleet, pool: str, gpu_hours: Mapping[Cell, float], watts: Mapping[Cell, float]
) -> float | None:
    """Mean of the measured boards with their share of the node; None unless all are measured."""
    measured = all(math.isfinite(watts.get(cell, math.nan)) for cell in gpu_hours)
    if not measured or not sum(gpu_hours.values()):
        return None
    node_w = {
        fleet.node_groups[group].site: fleet.node_groups[group].idle_power_w
        / fleet.node_groups[group].gpus_per_node
        for group in fleet.pools[pool].placements
    }
    drawn = sum((watts[cell] + node_w.get(cell[0], 0)) * hours for cell, hours in gpu_hours.items())
    return round(drawn / sum(gpu_hours.values()), 3)


def _gap(pool: str, missing: Sequence[datetime]) -> str:
    hours = "an hour" if len(missing) == 1 else f"{len(missing)} hours"
    return (
        f"pool {pool}: nothing whole is known about {hours}, from {missing[0]:%Y-%m-%d %H:%M} UTC"
    )
