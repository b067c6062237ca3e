"""How plans, flows, approvals and the journal look on a terminal."""

from typing import TYPE_CHECKING

from invoke.exceptions import Exit
from rich.text import Text

from gpufleet.spec.errors import EXIT_INTERRUPTED
from gpufleet.tasks.command import print_json
from gpufleet.tasks.console import ProgressView, change_lines, facts, folding_table, pool_table

if TYPE_CHECKING:
    from pydantic import JsonValue

    from gpufleet.flows.ground import Ground
    from gpufleet.spec.approvals import ApprovalRequest, Standing
    from gpufleet.spec.changes import CapacityChange, ChangePlan, ChangeReport, FlowRow
    from gpufleet.spec.records import JournalRecord, JournalReport
    from gpufleet.spec.reports import StateVersion

_SHORT_S = 120
_LONG = 60
_STYLES = {
    "done": "green",
    "running": "cyan",
    "queued": "yellow",
    "failed": "red",
    "refused": "red",
    "cancelled": "magenta",
}


def follow(ground: "Ground", flow: str) -> "dict[str, JsonValue]":
    """Follow a flow to its end; Ctrl-C lets go of it, and it goes on."""
    from gpufleet.flows.operations import attach

    try:
        with ProgressView() as view:
            return attach(ground, flow, view)
    except KeyboardInterrupt:
        message = f"\nfleet: detached; {flow} goes on: ./fleet flows.attach {flow}"
        raise Exit(message, code=EXIT_INTERRUPTED) from None


def tell_flow(flow: str, *, json: bool) -> None:
    """A flow that was submitted."""
    if json:
        print_json({"flow": flow})
    else:
        facts.print(f"{flow} is with the worker: ./fleet flows.attach {flow}")


def show_change_plan(plan: "ChangePlan") -> None:
    """What a change would do, and when it could be done."""
    for change in plan.pools:
        lines = [f"replicas {change.replicas_before} → {change.replicas_after}"]
        lines.append(f"GPUs {change.gpus_before} → {change.gpus_after}")
        if change.revision_before != change.revision_after:
            before, after = change.revision_before or "none", change.revision_after or "none"
            lines.append(f"revision {before} → {after}")
        facts.print(f"pool {change.pool} at {change.site}: {', '.join(lines)}", soft_wrap=True)
    change_lines(plan.stacks)
    if not plan.changes:
        facts.print("nothing would change")
        return
    facts.print(f"\nGPUs: {plan.gpus:+d}; takes up to {_minutes(plan.expected_s)}", end="")
    facts.print(f", going back as long; approvals: {plan.approvals_needed or 'none needed'}")
    if plan.capacity:
        show_capacity_change(plan.capacity)
    for opening in plan.openings:
        when = "open now" if opening.open else f"closed: {opening.reason}"
        until = f"; opens {opening.opens}" if opening.opens else ""
        facts.print(f"window {opening.site}: {when}{until}", soft_wrap=True)


def show_capacity_change(change: "CapacityChange") -> None:
    """GPUs at most, cost and risk, before and after."""
    before, after = change.cost_monthly_before, change.cost_monthly_after
    facts.print(
        f"GPUs at most: {change.gpus_before} → {change.gpus_after}; cost: {before:,.0f} → "
        f"{after:,.0f} {change.currency} a month",
        soft_wrap=True,
    )
    for risk in change.risks:
        shares = [
            "unknown" if share is None else f"{share:.0%}"
            for share in (risk.p95_share_before, risk.p95_share_after)
        ]
        why = f" ({risk.unknown})" if risk.unknown else ""
        broken = risk.p95_share_after is not None and risk.p95_share_after > 1
        told = f"pool {risk.pool}: p95 at its peak {' → '.join(shares)} of its limit{why}"
        facts.print(Text(told, style="red" if broken else ""), soft_wrap=True)


def show_change(report: "ChangeReport") -> None:
    """What a change did."""
    facts.print(pool_table(report.pools), soft_wrap=True)
    changed = sum(stack.changed for stack in report.stacks)
    facts.print(f"\n{report.flow}: {changed} resources changed in {_minutes(report.seconds)}")


def show_flows(rows: "list[FlowRow]") -> None:
    """Flows, newest first."""
    if not rows:
        facts.print("no flows yet")
        return
    table = folding_table("FLOW", "STATE", "FOR", "BEGUN", "SECONDS", "STEP")
    for row in rows:
        table.add_row(
            row.id,
            Text(row.state, style=_STYLES.get(row.state, "")),
            row.actor,
            row.created_at,
            f"{row.seconds:.0f}",
            row.error.splitlines()[0] if row.error else row.step,
        )
    facts.print(table, soft_wrap=True)


def show_requests(found: "list[tuple[ApprovalRequest, Standing]]") -> None:
    """Requests for approval, newest first."""
    if not found:
        facts.print("nobody has asked for an approval")
        return
    table = folding_table("REQUEST", "ACTION", "ASKED BY", "EXPIRES", "SIGNED", "NOT COUNTED")
    for request, standing in found:
        table.add_row(
            request.id,
            request.scope.action.value,
            request.requester,
            request.expires_at.isoformat(timespec="minutes"),
            f"{len(standing.valid)}/{standing.needed} {', '.join(standing.valid)}".strip(),
            "; ".join(standing.refused),
        )
    facts.print(table, soft_wrap=True)


def show_request(request: "ApprovalRequest") -> None:
    """What is about to be signed."""
    from json import dumps

    facts.print(f"{request.id}: {request.requester} asks to {request.scope.action.value} ", end="")
    facts.print(f"{request.scope.fleet} {request.scope.environment}")
    facts.print(f"plan {request.plan_digest}", soft_wrap=True)
    facts.print(dumps(request.summary, indent=2), markup=False, soft_wrap=True)


def show_journal(records: "list[JournalRecord]") -> None:
    """Facts by time."""
    table = folding_table("AT", "EVENT", "WHO", "TARGET", "WHAT")
    for record in records:
        plain = {name: value for name, value in record.body.items() if _is_short(value)}
        what = ", ".join(f"{name}={value}" for name, value in plain.items())
        table.add_row(
            f"{record.at:%Y-%m-%d %H:%M:%S}",
            record.event,
            record.actor,
            record.target or record.flow,
            what,
        )
    facts.print(table, soft_wrap=True)


def show_verification(report: "JournalReport") -> None:
    """Whether the journal is whole."""
    counts = f"{report.records} records of {report.writers} writers, {report.anchors} anchors"
    for gone in report.lost:
        facts.print(
            f"  {gone.writer} {gone.first} to {gone.last}: lost when {gone.by} restored the "
            f"database at {gone.restored_at:%Y-%m-%d %H:%M:%S}"
            + ("" if gone.proven else ", and no store has the set that is said to have come back"),
            style="yellow" if gone.proven else "red",
            soft_wrap=True,
        )
    if report.is_good:
        facts.print(f"whole: {counts}")
        return
    if not report.findings:
        facts.print(f"not proven to be whole: {counts}", style="red")
        return
    facts.print(f"tampered with: {len(report.findings)} findings in {counts}", style="red")
    for found in report.findings:
        where = f"{found.writer} {found.sequence}"
        facts.print(f"  {where}: {found.fault}: {found.detail}", style="red", soft_wrap=True)


def show_versions(found: "list[StateVersion]") -> None:
    """Versions of states, newest first."""
    table = folding_table("STACK", "KEPT AT", "SITE", "VERSION", "BYTES")
    for row in found:
        table.add_row(row.stack, row.kept_at, row.site, row.version, f"{row.size_bytes}")
    facts.print(table if found else "no state was kept yet", soft_wrap=True)


def show_restored(row: "StateVersion", *, done: bool) -> None:
    """A state that was, or would be, brought back."""
    verb = "is" if done else "would be"
    facts.print(f"stack {row.stack} {verb} as it was at {row.kept_at} ({row.version})")
    if done:
        facts.print("compare it with the cluster: ./fleet preview, then ./fleet status")


def _is_short(value: object) -> bool:
    """Whether a value has its place in a line; --json shows all."""
    return not isinstance(value, dict | list) and len(str(value)) < _LONG


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _SHORT_S else f"{seconds / 60:.0f} min"
