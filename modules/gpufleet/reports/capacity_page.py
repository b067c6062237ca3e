"""The capacity plan as one page: for a phone, for paper, and without a network."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from importlib import resources
from typing import Final

import jinja2

from gpufleet.reports import plots
from gpufleet.reports.plots import BLUE, GREEN, ORANGE, QUIET, RED, Line, Mark
from gpufleet.spec.plans import Plan, PoolPlan, TrafficPoint
from gpufleet.spec.verdicts import DecisionReport, Lever, Verdict

_TEMPLATE: Final = "capacity.html.jinja"
_LEVERS_SHOWN: Final = 10


def capacity_page(
    plan: Plan,
    decided: DecisionReport | None,
    traffic: Sequence[TrafficPoint],
    made_at: datetime,
) -> str:
    """The page, complete.

    Args:
        plan: of the environment.
        decided: local, hosted or both for each use case; None where prices decide nothing.
        traffic: what multiples of the declared traffic would need, in rising order.
        made_at: when, as the page says it.
    """
    verdicts = decided.verdicts if decided else []
    template = _environment().from_string(
        resources.files("gpufleet.reports").joinpath(_TEMPLATE).read_text("utf-8")
    )
    return template.render(
        plan=plan,
        decided=decided,
        buffer=_buffer(plan),
        by_choice={
            verdict.use_case: {cost.choice: cost for cost in verdict.choices}
            for verdict in verdicts
        },
        levers=_largest_levers(verdicts),
        made_at=f"{made_at:%Y-%m-%d %H:%M} UTC",
        money_plots=_money_plots(plan, verdicts, traffic),
        latency_plots=_latency_plots(plan.pools),
    )


def _buffer(plan: Plan) -> Decimal:
    """What the budget keeps for costs that come out higher, in a month."""
    totals = plan.totals
    if totals.budget_monthly is None or totals.budget_left_monthly is None:
        return Decimal(0)
    return totals.budget_monthly - totals.cost_monthly - totals.budget_left_monthly


def _largest_levers(verdicts: Sequence[Verdict]) -> list[tuple[str, Lever]]:
    """Those that are worth most, with their use cases."""
    found = [(verdict.use_case, lever) for verdict in verdicts for lever in verdict.levers]
    return sorted(found, key=lambda pair: -pair[1].monthly_worth)[:_LEVERS_SHOWN]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {
        "money": money,
        "price": price,
        "whole": lambda number: f"{number:,.0f}",
        "seconds": seconds,
        "percent": lambda share: f"{share:.1%}",
    }
    return environment


def money(amount: Decimal) -> str:
    """An amount as people read it: cents only where they matter."""
    return f"{amount:,.0f}" if abs(amount) >= 1000 else f"{amount:,.2f}"  # noqa: PLR2004


def price(amount: Decimal) -> str:
    """A price of few cents as people read it: three digits that count."""
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.3g}"


def seconds(value: float) -> str:
    """A time as people read it."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.3g} s"


def _latency_plots(pools: Sequence[PoolPlan]) -> Mapping[str, str]:
    return {pool.pool: _latency_plot(pool) for pool in pools}


def _latency_plot(pool: PoolPlan) -> str:
    gpus = [point[0] for point in pool.latency_by_gpus]
    tightest = max(pool.by_use_case, key=lambda row: row.p95_s / row.p95_limit_s, default=None)
    limits = [Mark("p95 limit", tightest.p95_limit_s, RED)] if tightest else []
    return plots.lines(
        f"{pool.pool}: latency at the peak against GPUs",
        "GPUs",
        "seconds",
        [
            Line("p95", gpus, [point[1] for point in pool.latency_by_gpus], BLUE),
            Line("TTFT p95", gpus, [point[2] for point in pool.latency_by_gpus], ORANGE),
        ],
        limits=limits,
        chosen=Mark("planned", pool.gpus_steady + pool.gpus_burst, GREEN),
    )


def _money_plots(
    plan: Plan, verdicts: Sequence[Verdict], traffic: Sequence[TrafficPoint]
) -> list[str]:
    found = []
    totals = plan.totals
    if totals.budget_monthly is not None:
        idle = float(totals.cost_idle_monthly)
        parts = [
            ("serving", float(totals.cost_monthly) - idle, BLUE),
            ("idle", idle, QUIET),
            ("buffer", float(_buffer(plan)), ORANGE),
        ]
        limit = Mark("budget", float(totals.budget_monthly), RED)
        label = f"{plan.currency} a month"
        found.append(plots.bars("Monthly cost and budget", label, parts, limit))
    if traffic:
        found.append(_traffic_plot(plan, traffic))
    found += [_break_even_plot(plan, verdict) for verdict in verdicts if verdict.curve]
    return found


def _traffic_plot(plan: Plan, traffic: Sequence[TrafficPoint]) -> str:
    """Cost of 1,000 requests falls as traffic fills what is owned, until more is needed."""
    xs = [point.traffic for point in traffic]
    return plots.lines(
        "Cost against traffic",
        "traffic, as a multiple of the declared",
        f"{plan.currency} for 1,000 requests",
        [Line("local, as planned", xs, [float(point.cost_per_1k) for point in traffic], BLUE)],
        chosen=Mark("declared", 1.0, GREEN),
    )


def _break_even_plot(plan: Plan, verdict: Verdict) -> str:
    xs = [point.requests_monthly / 1e6 for point in verdict.curve]
    even = verdict.break_even_requests_monthly
    return plots.lines(
        f"{verdict.use_case}: local and hosted",
        "million requests a month",
        f"{plan.currency} a month",
        [
            Line("local", xs, [float(point.local) for point in verdict.curve], BLUE),
            Line(
                f"hosted: {verdict.hosted_model.rsplit('/', 1)[-1]}",
                xs,
                [float(point.hosted) for point in verdict.curve],
                ORANGE,
            ),
        ],
        chosen=Mark("break-even", even / 1e6, GREEN) if even is not None else None,
    )
