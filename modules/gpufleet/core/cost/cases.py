"""What may be chosen for a use case, and what of it is cheapest."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Final

from gpufleet.core.cost.forecast import midnight
from gpufleet.core.cost.hosted import comparable, forbidden
from gpufleet.core.cost.money import cents
from gpufleet.core.cost.serving import month_of
from gpufleet.core.cost.sides import LocalSide, Sides, Traffic, hosted_request
from gpufleet.core.cost.volume import burst_share, requests_between
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plans import PoolPlan
from gpufleet.spec.prices import HostedPrice, PriceTable
from gpufleet.spec.serving import UseCase
from gpufleet.spec.verdicts import Choice

_YEAR: Final = timedelta(days=365)
MONTHS: Final = 12
"""Of the year that verdicts look at."""
_YEAR_HOURS: Final = 8760


@dataclass(frozen=True)
class Case:
    """Everything that decides about one use case."""

    name: str
    use_case: UseCase
    pool: PoolPlan
    sides: Sides
    price: HostedPrice | None
    impossible: Mapping[Choice, str]
    """Why a choice cannot be taken, whatever it costs."""
    cap: Decimal | None
    """Most that may be spent at a hosted API in any calendar month."""


def traffic_of(use_case: UseCase, day: date) -> Traffic:
    """A use case's traffic over the year from this month on."""
    spans = [[midnight(each) for each in month_of(day, ahead)] for ahead in range(MONTHS)]
    begin = spans[0][0]
    declared = use_case.traffic
    year = requests_between(declared, begin, begin + _YEAR)
    peak = declared.rate_rps * max([1.0, *(each.multiplier for each in declared.peaks)])
    return Traffic(
        requests=year / MONTHS,
        burst_share=burst_share(declared, begin, begin + _YEAR),
        mean_over_peak=year / (_YEAR_HOURS * 3600) / peak,
        months=tuple(
            (requests_between(declared, *span), burst_share(declared, *span)) for span in spans
        ),
    )


def cases_of(
    fleet: Fleet,
    plan: PoolPlan,
    table: PriceTable,
    rate: Decimal,
    traffic: Mapping[str, Traffic],
) -> list[Case]:
    """Every use case of a planned pool, with what it may be served by.

    Args:
        fleet: declares them.
        plan: of the pool.
        table: hosted prices.
        rate: what their currency is worth in the fleet's.
        traffic: of each use case.

    Raises:
        BadInput: a declared hosted model has no price.
    """
    found = []
    for name in plan.use_cases:
        use_case = fleet.use_cases[name]
        price = comparable(use_case, fleet.models[use_case.model], table)
        request = hosted_request(use_case, price, rate) if price else None
        sides = Sides(LocalSide.of(fleet, plan, name, traffic), traffic[name], request)
        impossible = _impossible(fleet, use_case, plan, sides, price)
        cap = min((amount for amount, _ in _caps(fleet, use_case)), default=None)
        found.append(Case(name, use_case, plan, sides, price, impossible, cap))
    return found


def _impossible(
    fleet: Fleet, use_case: UseCase, plan: PoolPlan, sides: Sides, price: HostedPrice | None
) -> dict[Choice, str]:
    if why := forbidden(use_case) or _does_not_serve(use_case, price):
        return dict.fromkeys((Choice.HOSTED, Choice.HYBRID), why)
    found: dict[Choice, str] = {}
    if not plan.gpus_burst:
        found[Choice.HYBRID] = "no GPU is planned for bursts"
    if not sides.local.holds:
        found[Choice.LOCAL] = "the plan does not hold its targets"
    for choice in (Choice.HOSTED, Choice.HYBRID):
        if choice not in found and (why := _over_cap(fleet, use_case, sides, choice)):
            found[choice] = why
    return found


def _does_not_serve(use_case: UseCase, price: HostedPrice | None) -> str:
    """Why a hosted model cannot answer a use case's requests; empty where it can."""
    if price is None:
        return "no hosted model compares"
    needed = math.ceil(use_case.tokens.prompt_p95) + use_case.tokens.output_max
    if price.context_tokens < needed:
        return f"its context of {price.context_tokens:,} tokens is below the {needed:,} needed"
    return ""


def _caps(fleet: Fleet, use_case: UseCase) -> list[tuple[Decimal, str]]:
    """The caps on a use case's own hosted spending, with the field that declares each."""
    caps = []
    if use_case.hosted is not None:
        caps.append((use_case.hosted.monthly_cap, "hosted.monthly_cap"))
    if fleet.budget is not None:
        caps.append((fleet.budget.hosted_monthly, "budget.hosted_monthly"))
    return caps


def _over_cap(fleet: Fleet, use_case: UseCase, sides: Sides, choice: Choice) -> str:
    """Why the hosted spending of a choice goes over a cap of its own; empty where it does not."""
    hosted = max(sides.hosted_by_month(choice))
    for cap, name in _caps(fleet, use_case):
        if hosted > cap:
            return f"{cents(hosted):,} at the API in the dearest month is over `{name}` ({cap:,})"
    return ""


def best_of(
    case: Case, traffic: Decimal = Decimal(1), utilization: Decimal = Decimal(1)
) -> tuple[Choice, dict[Choice, Decimal]]:
    """The cheapest choice that is possible, local of equal ones, and what each costs."""
    costs = {}
    for choice in Choice:
        if choice in case.impossible:
            continue
        if case.cap is None or max(case.sides.hosted_by_month(choice, traffic)) <= case.cap:
            costs[choice] = cents(case.sides.monthly(choice, traffic, utilization)[0])
    if not costs:
        return Choice.LOCAL, {}
    return min(costs, key=lambda choice: costs[choice]), costs
