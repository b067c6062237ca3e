"""How costs are shown: tables of amounts in the fleet's currency."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from rich.table import Table

from gpufleet.spec.cost_reports import CostComparison, CostReport, PeriodCost
from gpufleet.tasks.console import facts, plain_table

if TYPE_CHECKING:
    from gpufleet.flows.costs import CollectPlan

_NONE = "-"


def money(amount: Decimal | None) -> str:
    """An amount with its thousands apart; a dash where there is none."""
    return _NONE if amount is None else f"{amount:,.2f}"


def price(amount: Decimal | None) -> str:
    """A price of a thousand requests or of one task: four digits that count."""
    return _NONE if amount is None else f"{amount:,.4f}" if amount >= 1 else f"{amount:.4g}"


def table(names: Sequence[str], amounts: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Rows of names, which stand left, and amounts, which stand right."""
    made = plain_table()
    for name in names:
        made.add_column(name, no_wrap=True)
    for amount in amounts:
        made.add_column(amount, justify="right", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def show_costs(report: CostReport) -> None:
    """Each period: pools, use cases, teams, and the total against the budget."""
    facts.print(f"{report.fleet} {report.environment}, {report.kind}, {report.currency}")
    for period in report.periods:
        _show_period(period)
    for note in report.notes:
        facts.print(f"note: {note}", soft_wrap=True, markup=False)


def show_comparison(found: CostComparison) -> None:
    """The variance and its causes."""
    facts.print(f"{found.fleet} {found.environment}, {found.begin:%Y-%m-%d %H:%M} to ", end="")
    facts.print(f"{found.end:%Y-%m-%d %H:%M} UTC, {found.currency}")
    facts.print(f"forecast {money(found.forecast)}, actual {money(found.actual)}")
    rows = [(each.cause, money(each.amount)) for each in found.causes]
    facts.print(table(["CAUSE"], ["VARIANCE"], [*rows, ("all", money(found.variance))]))
    pools = [(name, money(amount)) for name, amount in found.by_pool.items()]
    facts.print(table(["POOL"], ["VARIANCE"], pools))
    for note in found.notes:
        facts.print(f"note: {note}", soft_wrap=True, markup=False)


def collection(plan: "CollectPlan", written: int | None) -> dict[str, object]:
    """What a collection would write or has written, for machines."""
    return {
        "source": plan.source,
        "begin": plan.span.begin.isoformat(),
        "end": plan.span.end.isoformat(),
        "rows": len(plan.collected.rows),
        "written": written,
        "gaps": plan.collected.gaps,
    }


def show_collection(plan: "CollectPlan", written: int | None) -> None:
    """What a collection would write or has written."""
    rows = plan.collected.rows
    facts.print(f"{plan.source}: {len(rows)} rows, {sum(row.requests for row in rows):,} requests")
    for gap in plan.collected.gaps:
        facts.print(f"gap: {gap}", style="yellow", soft_wrap=True)
    if written is None:
        facts.print("nothing was written; --apply keeps them")
    else:
        facts.print(f"{written} rows are new or differ, and are kept")


def _show_period(period: PeriodCost) -> None:
    hours = (period.end - period.begin).total_seconds() / 3600
    facts.print(f"\n{period.begin:%Y-%m-%d} to {period.end:%Y-%m-%d %H:%M} UTC, {hours:g} hours")
    pools = [
        (
            pool.pool,
            str(pool.gpus),
            f"{pool.utilization:.0%}",
            money(pool.parts.amortization),
            money(pool.parts.power),
            money(pool.parts.facility),
            money(pool.parts.oncall),
            money(pool.served),
            money(pool.idle),
        )
        for pool in period.pools
    ]
    columns = ["GPUS", "UTIL", "HARDWARE", "POWER", "FACILITY", "ON-CALL", "SERVED", "IDLE"]
    facts.print(table(["POOL"], columns, pools))
    use_cases = [
        (
            row.use_case,
            row.team,
            f"{row.requests:,}",
            money(row.served),
            money(row.idle),
            price(row.cost_per_1k),
            price(row.cost_per_1k_with_idle),
            price(row.cost_per_task),
        )
        for row in period.use_cases
    ]
    columns = ["REQUESTS", "SERVED", "IDLE", "PER 1K", "PER 1K WITH IDLE", "PER TASK"]
    facts.print(table(["USE CASE", "TEAM"], columns, use_cases))
    teams = [
        (each.team, money(each.total), price(each.cost_per_1k), price(each.cost_per_task))
        for each in period.teams
    ]
    facts.print(table(["TEAM"], ["ALL", "PER 1K", "PER TASK"], teams))
    _show_total(period)


def _show_total(period: PeriodCost) -> None:
    parts = [f"total {money(period.total)}", f"idle {money(period.idle)}"]
    if period.unobserved:
        parts.append(f"unobserved {money(period.unobserved)}")
    if period.buffer:
        parts.append(f"buffer {money(period.buffer)}")
    if period.budget_left is not None:
        parts.append(f"budget {money(period.budget)}, left {money(period.budget_left)}")
    facts.print("; ".join(parts), style="red" if (period.budget_left or 0) < 0 else "")
