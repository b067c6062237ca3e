"""How patches look on a terminal."""

from collections import Counter
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from gpufleet.tasks import flow_view
from gpufleet.tasks.command import print_json
from gpufleet.tasks.console import facts, plain_table

if TYPE_CHECKING:
    from gpufleet.flows.ground import Ground
    from gpufleet.spec.patching import PatchPlan, PatchReport

_MINUTE_S = 60
_SHOWN = 12
_STYLES = {
    "done": "green",
    "unchanged": "green",
    "running": "cyan",
    "paused": "yellow",
    "pending": "",
    "rolled-back": "yellow",
    "stopped": "red",
    "queued": "cyan",
    "not-begun": "yellow",
    "failed": "red",
    "quarantined": "red",
    "cancelled": "magenta",
}


def tell_plan(ground: "Ground", plan: "PatchPlan", *, json: bool) -> None:
    """What a patch would do, and when each site could begin."""
    from gpufleet.flows.patch_plan import openings

    found = openings(ground, plan)
    if json:
        shown = [opening.model_dump(mode="json") for opening in found]
        print_json({**plan.model_dump(mode="json"), "openings": shown})
        return
    order = plan.order
    back = "can go back" if plan.can_go_back else "only goes forward"
    facts.print(f"{order.part.value} {order.version} on {len(plan.hosts)} hosts; it {back}")
    for wave in plan.waves:
        _show_wave(plan, wave.number)
    if plan.hosts:
        facts.print(
            f"a batch takes up to {_minutes(plan.batch_s)}, going back up to "
            f"{_minutes(plan.rollback_s)}; soak after each wave: {_minutes(order.soak_s)}",
            soft_wrap=True,
        )
    for gate in plan.gates:
        facts.print(f"gate {gate.site}: {gate.name}, at most {gate.at_most:g}", soft_wrap=True)
    for opening in found:
        when = "open now" if opening.open else f"closed: {opening.reason}"
        until = f"; opens {opening.opens}" if opening.opens else ""
        facts.print(f"window {opening.site}: {when}{until}", soft_wrap=True)
    for why, count in Counter(plan.left_out.values()).most_common():
        first = next(host for host, reason in plan.left_out.items() if reason == why)
        more = f" and {count - 1} more" if count > 1 else ""
        facts.print(f"left out: {first}{more}: {why}", style="yellow", soft_wrap=True)


def follow(ground: "Ground", flow: str, *, detach: bool, json: bool) -> None:
    """Follow a patch that was submitted, and show its end."""
    from gpufleet.spec.patching import PatchReport

    if detach:
        flow_view.tell_flow(flow, json=json)
        return
    report = PatchReport.model_validate(flow_view.follow(ground, flow))
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        show_report(report)


def show_reports(found: "list[PatchReport]") -> None:
    """Patches, newest first."""
    if not found:
        facts.print("no patches yet")
        return
    table = plain_table()
    for column in ("PATCH", "OUTCOME", "FOR", "PART", "TO", "BEGUN", "HOSTS"):
        table.add_column(column, no_wrap=True)
    table.add_column("WAITS FOR", overflow="fold")
    for report in found:
        states = Counter(outcome.state.value for outcome in report.hosts.values())
        table.add_row(
            report.flow,
            Text(report.outcome, style=_STYLES.get(report.outcome, "")),
            report.actor,
            report.order.part.value,
            report.order.version,
            report.begun_at.isoformat(timespec="seconds"),
            ", ".join(f"{count} {state}" for state, count in states.items()),
            Text(report.waits_for),
        )
    facts.print(table, soft_wrap=True)


def show_report(report: "PatchReport") -> None:
    """The story of one patch."""
    order = report.order
    facts.print(f"{report.flow}: {order.part.value} {order.version} for {report.actor}: ", end="")
    facts.print(Text(report.outcome, style=_STYLES.get(report.outcome, "")))
    if order.why:
        facts.print(order.why, markup=False, soft_wrap=True)
    if order.advisories:
        facts.print(f"mends {', '.join(advisory.id for advisory in order.advisories)}")
    if report.waves:
        facts.print(_hosts(report), soft_wrap=True)
    for wave in report.waves:
        for gate in wave.gates:
            if gate["reason"]:
                why = Text(f"wave {wave.number}: {gate['reason']}", style="red")
                facts.print(why, soft_wrap=True)
        if wave.stopped_by:
            told = f"wave {wave.number} stopped: {wave.stopped_by}"
            facts.print(Text(told, style="red"), soft_wrap=True)
    for line in report.held:
        facts.print(f"waited: {line}", markup=False, soft_wrap=True)


def tell_wish(report: "PatchReport", what: str, *, apply: bool, json: bool) -> None:
    """That a patch will do something, or would."""
    if json:
        print_json({"flow": report.flow, "applied": apply})
    elif apply:
        facts.print(f"{report.flow} will {what}: ./fleet patch.status --id {report.flow}")
    else:
        facts.print(f"{report.flow} would {what}; with --apply it will")


def tell_page(file: str) -> None:
    """That a page was written."""
    facts.print(f"written: {file}", markup=False, soft_wrap=True)


def _show_wave(plan: "PatchPlan", number: int) -> None:
    wave = plan.waves[number - 1]
    counted = f"{len(wave.hosts)} hosts in {len(wave.batches)} batches"
    names = ", ".join(wave.hosts[:_SHOWN])
    more = f" and {len(wave.hosts) - _SHOWN} more" if len(wave.hosts) > _SHOWN else ""
    befores = Counter(plan.hosts[host].before or "unknown" for host in wave.hosts)
    versions = ", ".join(befores)
    facts.print(f"wave {number}: {counted} ({versions} before): {names}{more}", soft_wrap=True)


def _hosts(report: "PatchReport") -> Table:
    table = plain_table()
    for column in ("WAVE", "HOST", "STATE", "BEFORE", "AFTER", "SECONDS"):
        table.add_column(column, no_wrap=True)
    table.add_column("WHY", overflow="fold")
    for wave in report.waves:
        for outcome in wave.hosts:
            table.add_row(
                str(wave.number),
                outcome.host,
                Text(outcome.state.value, style=_STYLES.get(outcome.state.value, "")),
                outcome.before,
                outcome.after,
                f"{outcome.seconds:.0f}",
                Text(": ".join(filter(None, [outcome.failed_task, outcome.error]))),
            )
    return table


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 2 * _MINUTE_S else f"{seconds / _MINUTE_S:.0f} min"
