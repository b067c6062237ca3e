"""How capacity plans look on a terminal."""

from decimal import Decimal
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from gpufleet.tasks.console import facts, plain_table

if TYPE_CHECKING:
    from gpufleet.spec.plan_reports import Explanation, PlanDifference, WhatIf
    from gpufleet.spec.plans import Plan, PoolPlan


def show_plan(plan: "Plan", *, explain: bool) -> None:
    """Pools with their GPUs, limits and predictions, then totals against the budget."""
    facts.print(_plan_table(plan), soft_wrap=True)
    for pool in plan.pools:
        _show_bursts(pool)
    if explain:
        shown = [(pool.pool, pool.explain) for pool in plan.pools]
        for name, steps in [*shown, ("totals", plan.explain)]:
            facts.print(f"\n{name}", style="bold")
            for step in steps:
                facts.print(f"  {step.number}: {step.text}", soft_wrap=True, markup=False)
                if step.source:
                    facts.print(f"      {step.source}", style="dim", soft_wrap=True, markup=False)
    _show_totals(plan)
    _warn(plan.warnings)


def _plan_table(plan: "Plan") -> Table:
    table = _table("POOL", "REPLICA", "EVIDENCE")
    for column in (
        "STEADY",
        "BURST",
        "HEAD",
        "REPLICAS",
        "LIMIT",
        "QUEUE",
        "P95 s",
        "TTFT s",
        "FAIL",
        "BUSY",
        f"{plan.currency}/1k",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for pool in plan.pools:
        headroom, seen = pool.headroom, pool.predicted
        table.add_row(
            pool.pool,
            f"{f'{pool.pp} x ' if pool.pp > 1 else ''}{pool.tp} {pool.gpu_type}",
            pool.evidence,
            str(pool.gpus_steady),
            str(pool.gpus_burst),
            str(headroom.failures + headroom.maintenance + headroom.surge + headroom.site_loss),
            f"{pool.replicas_min}-{pool.replicas_max}",
            str(pool.concurrency_limit),
            str(pool.queue_limit),
            f"{seen.p95_s:.3g}",
            f"{seen.ttft_p95_s:.3g}",
            f"{seen.error_rate:.2%}",
            f"{seen.utilization:.0%}",
            f"{pool.cost_per_1k:.3f}" if pool.cost_per_1k is not None else "",
        )
    return table


def _show_bursts(pool: "PoolPlan") -> None:
    """What real burstiness adds to a rule that counts averages."""
    planned = pool.gpus_steady + pool.gpus_burst
    if pool.gpus_burst and planned > pool.smooth_gpus:
        facts.print(
            f"{pool.pool}: smooth arrivals would need {pool.smooth_gpus} GPUs at the peak; "
            f"burstiness adds {planned - pool.smooth_gpus}",
            soft_wrap=True,
        )


def _show_totals(plan: "Plan") -> None:
    totals = plan.totals
    facts.print(
        f"\n{totals.gpus_steady} GPUs steady, {totals.gpus_burst} in bursts, "
        f"{totals.gpus_headroom} as headroom, of {totals.gpus_owned} owned",
        soft_wrap=True,
    )
    money = f"{_money(totals.cost_monthly)} {plan.currency} a month"
    idle = f", {_money(totals.cost_idle_monthly)} of it idle"
    facts.print(money + idle, end="")
    if totals.budget_monthly is not None and totals.budget_left_monthly is not None:
        left = f"; budget {_money(totals.budget_monthly)}"
        facts.print(f"{left}, {_money(totals.budget_left_monthly)} left after the buffer", end="")
    facts.print(f"; planned in {plan.seconds:.1f} s")


def show_what_if(found: "WhatIf") -> None:
    """A plan with a change beside the one without."""
    facts.print(f"if {', and '.join(found.assumed)}:", soft_wrap=True)
    table = _table("POOL", "GPU")
    for column in ("GPUS", "REPLICAS AT MOST", "P95 s", f"{found.currency} A MONTH"):
        table.add_column(column, justify="right", no_wrap=True)
    for pool in found.pools:
        table.add_row(
            pool.pool,
            _arrow(pool.gpu_type_before, pool.gpu_type_after),
            _arrow(str(pool.gpus_before), str(pool.gpus_after)),
            _arrow(str(pool.replicas_max_before), str(pool.replicas_max_after)),
            _arrow(f"{pool.p95_s_before:.3g}", f"{pool.p95_s_after:.3g}"),
            _arrow(_money(pool.cost_monthly_before), _money(pool.cost_monthly_after)),
        )
    facts.print(table, soft_wrap=True)
    for name in found.unserved:
        facts.print(f"{name} has no place left: nothing answers its use cases", style="red")
    more = found.cost_monthly_after - found.cost_monthly_before
    facts.print(
        f"\nGPUs: {found.gpus_before} → {found.gpus_after}; "
        f"cost of what pools keep: {_money(more, sign=True)} {found.currency} a month",
        soft_wrap=True,
    )
    _warn(found.warnings)


def show_difference(found: "PlanDifference") -> None:
    """What a plan file changes."""
    table = _table("POOL", "FIELD", "NOW", "PLANNED")
    for change in found.changes:
        table.add_row(change.pool, change.field, change.before, change.after)
    if found.changes:
        facts.print(table, soft_wrap=True)
    _warn(found.warnings)
    if found.written:
        facts.print(f"\n{found.file} is written; what it changes: ./fleet preview", soft_wrap=True)
    elif found.changes:
        facts.print(f"\nwith --apply: {found.file}", soft_wrap=True)
    else:
        facts.print("nothing would change")


def show_explanation(found: "Explanation") -> None:
    """Every number of a pool with its reason and its source."""
    facts.print(f"pool {found.pool}", style="bold")
    for number in found.numbers:
        facts.print(Text(f"{number.number}: {number.value}", style="bold"), soft_wrap=True)
        if number.text:
            facts.print(f"    {number.text}", soft_wrap=True, markup=False)
        if number.source:
            facts.print(f"    {number.source}", style="dim", soft_wrap=True, markup=False)
    _warn(found.warnings)


def _table(*columns: str) -> Table:
    table = plain_table()
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        facts.print(f"note: {warning}", style="yellow", soft_wrap=True, markup=False)


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"


def _money(amount: Decimal, *, sign: bool = False) -> str:
    return f"{amount:{'+' if sign else ''},.0f}"
