"""Why an actual cost differs from its forecast: volume, mix, utilization, price, idle."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from gpufleet.core.cost.money import cents
from gpufleet.spec.cost_reports import (
    Cause,
    CostComparison,
    CostReport,
    PeriodCost,
    UseCaseCost,
)

CAUSES: Final = ("volume", "mix", "utilization", "price")
"""Of the cost of served requests; `idle` is what stands beside them."""


@dataclass(frozen=True)
class Factors:
    """The served cost of one use case in one pool as a product of what may change."""

    volume: Fraction
    """Requests of all use cases together."""
    mix: Fraction
    """Units of work of this one for each request of all: who asks, and how long it is."""
    utilization: Fraction
    """GPU-hours for a unit of work."""
    price: Fraction
    """Of a GPU-hour."""

    @property
    def in_order(self) -> tuple[Fraction, ...]:
        """As in `CAUSES`."""
        return self.volume, self.mix, self.utilization, self.price


def compare(forecast: CostReport, actual: CostReport) -> CostComparison:
    """Split the variance of a period into its causes, exactly.

    Served cost is a product of four factors for each use case; each factor's part is its Shapley
    value: its effect averaged over every order in which the factors may change, so that no order is
    preferred and the parts add up (Shapley 1953; Sun, "Changes in energy consumption and energy
    intensity: a complete decomposition model", Energy Economics 20, 1998). What is idle, of no pool
    or unobserved is the cause `idle`.

    Args:
        forecast: of one period within a month.
        actual: of the same one.
    """
    (planned,), (seen,) = forecast.periods, actual.periods
    before, after = _factors(planned), _factors(seen)
    exact = dict.fromkeys(CAUSES, Fraction(0))
    for key in before.keys() | after.keys():
        for cause, amount in zip(CAUSES, shapley(*_pair(before, after, key)), strict=True):
            exact[cause] += amount
    served = _served(seen) - _served(planned)
    idle = seen.total - planned.total - served
    rounded = _rounded(served, [exact[cause] for cause in CAUSES])
    causes = [
        Cause(cause=cause, amount=amount) for cause, amount in zip(CAUSES, rounded, strict=True)
    ]
    return CostComparison(
        fleet=actual.fleet,
        environment=actual.environment,
        currency=actual.currency,
        begin=seen.begin,
        end=seen.end,
        forecast=planned.total,
        actual=seen.total,
        variance=seen.total - planned.total,
        causes=[*causes, Cause(cause="idle", amount=idle)],
        by_pool=_by_pool(planned, seen),
        notes=[*forecast.notes, *actual.notes],
    )


def shapley(before: Sequence[Fraction], after: Sequence[Fraction]) -> list[Fraction]:
    """Each factor's part in the change of a product; they add up to it exactly."""
    count = len(before)
    parts = []
    for index in range(count):
        others = [each for each in range(count) if each != index]
        part = Fraction(0)
        for size in range(count):
            weight = Fraction(1, count * math.comb(count - 1, size))
            for changed in itertools.combinations(others, size):
                rest = math.prod(
                    after[each] if each in changed else before[each] for each in others
                )
                part += weight * rest
        parts.append(part * (after[index] - before[index]))
    return parts


def _cells(period: PeriodCost) -> dict[tuple[str, str], UseCaseCost]:
    """What has served something, by pool and use case."""
    return {(row.pool, row.use_case): row for row in period.use_cases if row.requests and row.work}


def _served(period: PeriodCost) -> Decimal:
    return sum((row.served for row in _cells(period).values()), Decimal(0))


def _factors(period: PeriodCost) -> dict[tuple[str, str], Factors]:
    cells = _cells(period)
    volume = Fraction(sum(row.requests for row in cells.values()))
    found = {}
    for key, row in cells.items():
        # Fewer GPU-hours than can be written down: the price carries the whole cost.
        hours = Fraction(row.gpu_hours) or Fraction(1)
        found[key] = Factors(
            volume=volume,
            mix=row.work / volume,
            utilization=hours / row.work,
            price=Fraction(row.served) / hours,
        )
    return found


def _pair(
    before: Mapping[tuple[str, str], Factors],
    after: Mapping[tuple[str, str], Factors],
    key: tuple[str, str],
) -> tuple[tuple[Fraction, ...], tuple[Fraction, ...]]:
    """Both sides of a cell; where one lacks it, only its mix (or all volume) is different."""
    return _side(before, after[key] if key in after else before[key], key), _side(
        after, before[key] if key in before else after[key], key
    )


def _side(
    own: Mapping[tuple[str, str], Factors], other: Factors, key: tuple[str, str]
) -> tuple[Fraction, ...]:
    if key in own:
        return own[key].in_order
    volume = next((factors.volume for factors in own.values()), Fraction(0))
    mix = Fraction(0) if volume else other.mix
    return volume, mix, other.utilization, other.price


def _rounded(total: Decimal, exact: Sequence[Fraction]) -> list[Decimal]:
    """Whole cents that add up to `total`: what rounding leaves goes to the largest part."""
    amounts = [cents(Decimal(part.numerator) / part.denominator) for part in exact]
    largest = max(range(len(amounts)), key=lambda index: abs(amounts[index]))
    amounts[largest] += total - sum(amounts, Decimal(0))
    return amounts


def _by_pool(forecast: PeriodCost, actual: PeriodCost) -> dict[str, Decimal]:
    """Variance by pool, with what belongs to none."""
    before = {pool.pool: pool.total for pool in forecast.pools}
    after = {pool.pool: pool.total for pool in actual.pools}
    names = dict.fromkeys([*before, *after])
    found = {name: after.get(name, Decimal(0)) - before.get(name, Decimal(0)) for name in names}
    found["unassigned"] = actual.unassigned - forecast.unassigned
    found["unobserved"] = actual.unobserved - forecast.unobserved
    return found
