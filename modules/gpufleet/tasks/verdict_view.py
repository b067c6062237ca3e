"""How verdicts are shown: one line for each use case, then its reasons and levers."""

from gpufleet.spec.verdicts import Choice, DecisionReport, Verdict
from gpufleet.tasks.console import facts
from gpufleet.tasks.cost_view import money, price, table


def show_decision(report: DecisionReport) -> None:
    """Every verdict, why, and what would make it cheaper."""
    facts.print(
        f"{report.fleet} {report.environment}, {report.currency} a month; prices of "
        f"{report.priced} ({report.prices})",
        soft_wrap=True,
    )
    rows = [_row(verdict) for verdict in report.verdicts]
    amounts = ["REQUESTS", "LOCAL", "HOSTED", "HYBRID", "PER TASK"]
    facts.print(table(["USE CASE", "VERDICT", "DATA"], amounts, rows))
    for verdict in report.verdicts:
        _show(verdict)
    facts.print(
        f"\nall local {money(report.monthly_local)}; as decided {money(report.monthly_decided)}, "
        f"of it hosted {money(report.hosted_monthly)}"
    )
    for note in report.notes:
        facts.print(f"note: {note}", soft_wrap=True, markup=False)


def _row(verdict: Verdict) -> list[str]:
    costs = {each.choice: each for each in verdict.choices}
    shown = ["no" if costs[c].impossible else money(costs[c].monthly) for c in Choice]
    sure = "" if verdict.robust else " (may turn)"
    return [
        verdict.use_case,
        f"{verdict.verdict}{sure}",
        verdict.data_class,
        f"{verdict.requests_monthly:,}",
        *shown,
        price(costs[verdict.verdict].cost_per_task),
    ]


def _show(verdict: Verdict) -> None:
    facts.print(f"\n{verdict.use_case}: {verdict.verdict}", style="bold")
    lines = [
        f"compliance: {verdict.reasons.compliance}",
        f"cost: {verdict.reasons.cost}",
        f"latency: {verdict.reasons.latency}",
        f"compared with: {verdict.hosted_model or 'nothing'}; {verdict.break_even}",
        f"turns to: {'; '.join(verdict.flips) or 'nothing else, whatever traffic and utilization'}",
    ]
    lines += [
        f"lever, {money(lever.monthly_worth)}: {lever.lever}; {lever.assumption}"
        for lever in verdict.levers
    ]
    for line in lines:
        facts.print(f"  {line}", soft_wrap=True, markup=False)
