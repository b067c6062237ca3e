"""Local, hosted or hybrid for each use case: by data class, cost, latency and shape of traffic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Final

from gpufleet.core.cost.cases import MONTHS, Case, best_of, cases_of, traffic_of
from gpufleet.core.cost.hardware import decimal
from gpufleet.core.cost.hosted import (
    demand_fresh,
    exchange_rate,
    forbidden,
)
from gpufleet.core.cost.levers import Smaller, levers
from gpufleet.core.cost.money import cents, task_price, unit_price
from gpufleet.core.cost.serving import work_of_request
from gpufleet.core.cost.sides import Traffic
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plans import PoolPlan
from gpufleet.spec.prices import PriceTable
from gpufleet.spec.serving import ServingClass
from gpufleet.spec.verdicts import (
    Choice,
    ChoiceCost,
    DecisionReport,
    Reasons,
    Scenario,
    TrafficCost,
    Verdict,
)

FACTORS: Final = (Decimal("0.7"), Decimal(1), Decimal("1.3"))
"""Traffic and utilization that a verdict has to stand."""
_FLIP_LOW: Final = Decimal("0.05")
_FLIP_HIGH: Final = Decimal(20)
_FLIP_STEPS: Final = 40
_CURVE_STEPS: Final = 20


@dataclass(frozen=True)
class WorkCost:
    """What a unit of work costs in one pool."""

    class_: ServingClass
    per_work: Decimal


def decide(fleet: Fleet, plans: Sequence[PoolPlan], table: PriceTable, day: date) -> DecisionReport:
    """The verdict on every use case of planned pools.

    Hosted spending of all together stays within `budget.hosted_monthly` in every calendar month:
    what saves least for each amount spent there stays local first.

    Args:
        fleet: declares the use cases.
        plans: of the pools, as capacity planning gives them.
        table: hosted prices.
        day: today; stale prices decide nothing.

    Raises:
        BadInput: a hosted model or an exchange rate is not known.
        PolicyRefused: prices or the rate are stale.
    """
    demand_fresh(fleet, table, day)
    rate = exchange_rate(fleet, table.currency, day)
    asked = {name: traffic_of(fleet.use_cases[name], day) for p in plans for name in p.use_cases}
    cases = [case for plan in plans for case in cases_of(fleet, plan, table, rate, asked)]
    over = _over_budget(fleet, cases)
    smaller = _per_work(fleet, plans, asked)
    verdicts = [
        _verdict(fleet, case, over.get(case.name, ""), _smaller(fleet, case, smaller), rate)
        for case in cases
    ]
    chosen = [
        next(cost for cost in each.choices if cost.choice is each.verdict) for each in verdicts
    ]
    local = [next(c for c in each.choices if c.choice is Choice.LOCAL) for each in verdicts]
    return DecisionReport(
        fleet=fleet.fleet,
        environment=fleet.environment,
        currency=fleet.currency,
        prices=table.source,
        priced=table.priced,
        verdicts=verdicts,
        monthly_local=sum((cost.monthly for cost in local), Decimal(0)),
        monthly_decided=sum((cost.monthly for cost in chosen), Decimal(0)),
        hosted_monthly=sum((cost.hosted_monthly for cost in chosen), Decimal(0)),
        notes=_notes(fleet, verdicts),
    )


def _over_budget(fleet: Fleet, cases: Sequence[Case]) -> dict[str, str]:
    """Use cases that stay local because the others' hosted spending has used the budget up."""
    if fleet.budget is None:
        return {}
    wanted = []
    for case in cases:
        choice, costs = best_of(case)
        if choice is Choice.LOCAL or Choice.LOCAL not in costs:
            continue
        _, hosted = case.sides.monthly(choice)
        saved = costs[Choice.LOCAL] - costs[choice]
        by_month = case.sides.hosted_by_month(choice)
        wanted.append((saved / max(hosted, Decimal("0.01")), by_month, case.name))
    spent, over = [Decimal(0)] * MONTHS, {}
    for _, by_month, name in sorted(wanted, reverse=True):
        together = [before + more for before, more in zip(spent, by_month, strict=True)]
        if max(together) <= fleet.budget.hosted_monthly:
            spent = together
        else:
            over[name] = f"`budget.hosted_monthly` ({fleet.budget.hosted_monthly:,}) is used up"
    return over


def _verdict(
    fleet: Fleet, case: Case, over: str, smaller: Smaller | None, rate: Decimal
) -> Verdict:
    if over:
        closed = dict.fromkeys((Choice.HOSTED, Choice.HYBRID), over)
        case = replace(case, impossible=closed | dict(case.impossible))
    choice, _ = best_of(case)
    scenarios = [
        Scenario(traffic=float(x), utilization=float(y), verdict=found, monthly=costs)
        for x in FACTORS
        for y in FACTORS
        for found, costs in [best_of(case, x, y)]
    ]
    even = case.sides.break_even_requests()
    return Verdict(
        use_case=case.name,
        team=case.use_case.team,
        pool=case.pool.pool,
        data_class=case.use_case.data_class.value,
        verdict=choice,
        reasons=_reasons(fleet, case, choice),
        requests_monthly=round(case.sides.traffic.requests),
        hosted_model=case.price.name if case.price else "",
        choices=[_choice_cost(case, each) for each in Choice],
        break_even_requests_monthly=even,
        break_even=_break_even(case, even),
        curve=_curve(case, even),
        scenarios=scenarios,
        robust=all(each.verdict is choice for each in scenarios),
        flips=_flips(case, choice),
        levers=levers(
            case.use_case,
            choice,
            case.sides,
            fleet.costs.levers,
            smaller=smaller,
            price=case.price,
            rate=rate,
        ),
    )


def _choice_cost(case: Case, choice: Choice) -> ChoiceCost:
    monthly, hosted = case.sides.monthly(choice)
    request = monthly / decimal(case.sides.traffic.requests)
    return ChoiceCost(
        choice=choice,
        monthly=cents(monthly),
        hosted_monthly=cents(hosted),
        cost_per_1k=unit_price(request * 1000),
        cost_per_task=task_price(request / decimal(case.use_case.success_rate)),
        impossible=case.impossible.get(choice, ""),
    )


def _reasons(fleet: Fleet, case: Case, choice: Choice) -> Reasons:
    use_case, sides = case.use_case, case.sides
    where = ", ".join(use_case.residency)
    kind = use_case.data_class.value
    may = f"{kind} data may leave; the provider has to process it in {where}"
    shown = []
    for each in Choice:
        cost = unit_price(
            sides.monthly(each)[0]
            / decimal(sides.traffic.requests)
            * 1000
            / decimal(use_case.success_rate)
        )
        why = case.impossible.get(each)
        shown.append(f"{each} {cost:,.4f}" if not why else f"{each} no: {why}")
    seen = next((each for each in case.pool.by_use_case if each.use_case == case.name), None)
    shape = f"{sides.traffic.burst_share:.1%} of the requests exceed a usual busiest hour"
    latency = f"p95 of {use_case.slo.p95_s:g} s is promised"
    if seen is not None:
        latency = (
            f"local: p95 {seen.p95_s:.3g} of {seen.p95_limit_s:g} s, first token "
            f"{seen.ttft_p95_s:.3g} of {seen.ttft_p95_limit_s:g} s"
        )
    if not sides.local.holds:
        latency += ", which the plan does not hold"
    if choice is not Choice.LOCAL:
        latency += "; the hosted API's is not known: measure it before you rely on it"
    return Reasons(
        compliance=forbidden(use_case) or may,
        cost=f"{fleet.currency} for 1,000 successful tasks: {'; '.join(shown)}; {shape}",
        latency=latency,
    )


def _break_even(case: Case, even: int | None) -> str:
    if case.sides.hosted_request is None:
        return "no hosted model compares"
    if even is None:
        return "hosted is cheaper at any traffic"
    return f"hosted is cheaper below {even:,} requests a month, local above"


def _curve(case: Case, even: int | None) -> list[TrafficCost]:
    """From no traffic to twice the planned, or to twice where both cost the same."""
    if case.sides.hosted_request is None:
        return []
    most = 2 * max(case.sides.traffic.requests, even or 0)
    found = []
    for step in range(_CURVE_STEPS + 1):
        requests = round(most * step / _CURVE_STEPS)
        local, hosted = case.sides.alone(requests)
        found.append(
            TrafficCost(requests_monthly=requests, local=cents(local), hosted=cents(hosted))
        )
    return found


def _flips(case: Case, choice: Choice) -> list[str]:
    """Where the verdict turns, nearest first on each side of traffic and of utilization."""
    found = []
    for what, axis in (("traffic", 0), ("utilization", 1)):
        for end in (_FLIP_LOW, _FLIP_HIGH):
            turned = _turn(case, choice, axis, end)
            if turned:
                at, other = turned
                side = "below" if end < 1 else "above"
                found.append(f"{other} {side} {at:.0%} of the planned {what}")
    return found


def _turn(case: Case, choice: Choice, axis: int, end: Decimal) -> tuple[Decimal, Choice] | None:
    """The factor nearest to 1 at which another choice is cheaper, found by bisection."""

    def best(factor: Decimal) -> Choice:
        return best_of(case, *((factor, Decimal(1)) if axis == 0 else (Decimal(1), factor)))[0]

    if best(end) is choice:
        return None
    same, other = Decimal(1), end
    for _ in range(_FLIP_STEPS):
        middle = (same + other) / 2
        if best(middle) is choice:
            same = middle
        else:
            other = middle
    return other, best(other)


def _per_work(
    fleet: Fleet, plans: Sequence[PoolPlan], traffic: Mapping[str, Traffic]
) -> dict[str, list[WorkCost]]:
    found: dict[str, list[WorkCost]] = {}
    for plan in plans:
        work = sum(
            traffic[name].requests * work_of_request(fleet.use_cases[name].tokens)
            for name in plan.use_cases
        )
        if work:
            buffered = plan.cost_monthly * (1 + decimal(fleet.governance.cost_buffer))
            cost = WorkCost(plan.class_, buffered / decimal(work))
            found.setdefault(plan.model, []).append(cost)
    return found


def _smaller(fleet: Fleet, case: Case, known: Mapping[str, Sequence[WorkCost]]) -> Smaller | None:
    """The declared fallback, else the cheapest smaller revision of the same class."""
    own = fleet.models[case.use_case.model].parameters
    costs = {
        model: min(each.per_work for each in pools)
        for model, all_pools in known.items()
        if fleet.models[model].parameters < own
        and (pools := [p for p in all_pools if p.class_ is case.use_case.class_])
    }
    if case.use_case.fallback in costs:
        return Smaller(case.use_case.fallback, costs[case.use_case.fallback])
    if not costs:
        return None
    model = min(costs, key=lambda name: costs[name])
    return Smaller(model, costs[model])


def _notes(fleet: Fleet, verdicts: Sequence[Verdict]) -> list[str]:
    buffer = f"{fleet.governance.cost_buffer:.0%}"
    notes = [f"local amounts hold the buffer of {buffer}; hosted ones are list prices"]
    notes += [
        f"{each.use_case}: declare `hosted` with a `monthly_cap` to act on the verdict"
        for each in verdicts
        if each.verdict is not Choice.LOCAL and fleet.use_cases[each.use_case].hosted is None
    ]
    return notes
