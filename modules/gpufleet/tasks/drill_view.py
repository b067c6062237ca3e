"""How drills look on a terminal."""

from typing import TYPE_CHECKING, Any

from rich.text import Text

from gpufleet.tasks import flow_view
from gpufleet.tasks.command import print_json
from gpufleet.tasks.console import facts, folding_table, plain_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

    from gpufleet.flows.ground import Ground
    from gpufleet.spec.drills import DrillPlan, DrillReport, Due, Placed, Possible, Trend

_DAY_S = 86_400
_STYLES = {
    "met": "green",
    "missed": "red",
    "running": "cyan",
    "failed": "red",
    "cancelled": "magenta",
}


def show_scenarios(found: "Sequence[Possible]") -> None:
    """What can be drilled."""
    table = folding_table("SCENARIO", "TARGET", "OBJECTIVE", "EXPECTED", "OUTLOOK")
    for each in found:
        plan = each.plan
        told = each.why_not
        if plan is not None:
            told = "holds" if plan.outlook.holds and not plan.unheld else "does not hold"
            told += "".join(f"; {name}: {why}" for name, why in plan.unheld.items())
            told += "".join(f"; would hold it: {remedy}" for remedy in plan.outlook.remedies)
        table.add_row(
            each.scenario,
            plan.target if plan else "",
            _seconds(plan.outlook.rto_s) if plan else "",
            _seconds(plan.outlook.recovered_s) if plan else "",
            Text(told),
        )
    facts.print(table)
    for title, proves in {each.title: each.proves for each in found}.items():
        facts.print(f"{title}: {proves}", markup=False, soft_wrap=True)


def tell_plan(plan: "DrillPlan", *, json: bool) -> None:
    """What a drill would do."""
    if json:
        print_json(plan.model_dump(mode="json"))
        return
    facts.print(f"{plan.scenario}: {plan.target} is lost to {', '.join(plan.use_cases)}")
    _tell_lost(plan)
    for each in plan.placed:
        facts.print(f"comes up at {each.site}: {_placed(each)}", soft_wrap=True)
    for name, why in plan.unheld.items():
        facts.print(Text(f"{name} cannot come back: {why}", style="red"), soft_wrap=True)
    outlook = plan.outlook
    facts.print(
        f"expected to take {_seconds(outlook.recovered_s)} of {_seconds(outlook.rto_s)} "
        f"({outlook.source}): {_phases(outlook.phases)}",
        soft_wrap=True,
    )
    for remedy in outlook.remedies:
        facts.print(f"would hold the objective: {remedy}", style="yellow", soft_wrap=True)
    for note in plan.notes:
        facts.print(f"not shown: {note}", markup=False, soft_wrap=True)


def _tell_lost(plan: "DrillPlan") -> None:
    """What fails: production, or what stands in for it."""
    from gpufleet.core.drills.scenario import Ends
    from gpufleet.core.drills.scenarios import scenario_of
    from gpufleet.core.drills.words import words

    for line in words(plan):
        facts.print(Text(line, style="red" if line.startswith("FOR REAL") else ""), soft_wrap=True)
    if plan.for_real is not None:
        return
    told = "goes on" if scenario_of(plan.scenario).ends is Ends.NOTHING else "is lost"
    for each in plan.lost:
        facts.print(f"stands in at {each.site}, and {told}: {_placed(each)}", soft_wrap=True)


def follow_drill(ground: "Ground", flow: str, *, detach: bool, json: bool) -> "DrillReport | None":
    """Follow a drill to its end; None where nobody follows it."""
    from gpufleet.spec.drills import DrillReport

    if detach:
        flow_view.tell_flow(flow, json=json)
        return None
    report = DrillReport.model_validate(flow_view.follow(ground, flow))
    if json:
        print_json(as_json(report))
    else:
        show_report(report)
    return report


def as_json(report: "DrillReport") -> "dict[str, Any]":
    """A report for machines; each use case says whether it met its objectives."""
    told = report.model_dump(mode="json")
    for row, each in zip(told["use_cases"], report.use_cases, strict=True):
        row["met"] = each.met
    return told


def show_report(report: "DrillReport") -> None:
    """The story of one drill."""
    facts.print(f"{report.flow}: {report.scenario} {report.target} for {report.actor}: ", end="")
    facts.print(Text(report.state.value, style=_STYLES[report.state.value]))
    if report.why:
        facts.print(report.why, markup=False, soft_wrap=True)
    if report.for_real:
        _tell_for_real(report)
    if report.phases:
        facts.print(f"phases: {_phases(report.phases)}", soft_wrap=True)
    for each in report.phases:
        if each.detail:
            facts.print(f"  {each.phase.value}: {each.detail}", markup=False, soft_wrap=True)
    if report.use_cases:
        facts.print(_use_cases(report), soft_wrap=True)
    if report.workers > 1:
        facts.print(f"{report.workers} workers: its times hold an interruption", style="yellow")
    if report.ended_at and not report.cleaned:
        facts.print("something of it is left; the worker removes it", style="yellow")
    for note in report.notes:
        facts.print(f"not shown: {note}", markup=False, soft_wrap=True)


def _tell_for_real(report: "DrillReport") -> None:
    """That production was hit, by whose approval, and whether it is as before."""
    signed = ", ".join(report.approved_by) or "nobody"
    back = f"given back {report.given_back_at:%Y-%m-%d %H:%M:%S}" if report.given_back_at else ""
    facts.print(f"for real: production was hit, as signed by {signed}", soft_wrap=True)
    style = "green" if back else "yellow"
    facts.print(Text(back or "production is not given back yet", style=style), soft_wrap=True)


def _use_cases(report: "DrillReport") -> "Table":
    table = plain_table()
    for column in ("USE CASE", "POOL", "BACK AFTER", "RTO", "LOST", "RPO", "MODEL"):
        table.add_column(column, no_wrap=True)
    table.add_column("", overflow="fold")
    for row in report.use_cases:
        table.add_row(
            row.use_case,
            row.pool,
            Text(_seconds(row.recovered_s), style="green" if row.met else "red"),
            _seconds(row.rto_s),
            _seconds(row.lost_s),
            _seconds(row.rpo_s),
            row.model,
            Text(row.why_not, style="red"),
        )
    return table


def show_trends(found: "Sequence[Trend]") -> None:
    """How drills go over time."""
    for each in found:
        proven = f"{each.proven_at:%Y-%m-%d}" if each.proven_at else "never"
        change = "" if each.change_s is None else f", {each.change_s:+.1f} s against those before"
        counted = f"{each.met} of {each.drills} met, last proven {proven}"
        times = f"{_seconds(each.last_s)} last, {_seconds(each.best_s)} to {_seconds(each.worst_s)}"
        kind = " for real" if each.for_real else ""
        told = f"{each.scenario} {each.target}{kind}: {counted}; {times}{change}"
        facts.print(told, soft_wrap=True)


def show_schedule(found: "Sequence[Due]") -> None:
    """When each thing was proven, and is due."""
    table = plain_table()
    for column in ("WHAT", "TARGET", "EVERY", "PROVEN", "TOOK", "DUE"):
        table.add_column(column, no_wrap=True)
    for each in found:
        due = Text(f"{each.due_at:%Y-%m-%d %H:%M}", style="red" if each.overdue_s else "")
        table.add_row(
            each.scenario,
            each.target,
            f"{each.every_s / _DAY_S:g} d",
            f"{each.proven_at:%Y-%m-%d %H:%M}" if each.proven_at else "never",
            _seconds(each.proven_s),
            due,
        )
    facts.print(table, soft_wrap=True)


def tell_page(file: str) -> None:
    """That a page was written."""
    facts.print(f"written: {file}", markup=False, soft_wrap=True)


def _placed(each: "Placed") -> str:
    return f"{each.replicas} of pool {each.pool} on {each.node_group} ({each.gpus} GPUs)"


def _phases(phases: "Iterable[Any]") -> str:
    return ", ".join(f"{each.phase.value} {each.seconds:.1f} s" for each in phases)


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
