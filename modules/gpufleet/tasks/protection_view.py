"""How protected sets look on a terminal."""

from typing import TYPE_CHECKING

from rich.text import Text

from gpufleet.flows.protection import protect
from gpufleet.tasks.console import ProgressView, facts, plain_table
from gpufleet.tasks.snapshot_view import size

if TYPE_CHECKING:
    from gpufleet.flows.ground import Ground
    from gpufleet.spec.protection import ProtectPlan, ProtectReport


def do_protect(ground: "Ground", *, despite_loss: bool) -> "ProtectReport":
    """Take a protected set; progress goes to stderr."""
    with ProgressView() as view:
        return protect(ground, view, despite_loss=despite_loss)


def show_plan(plan: "ProtectPlan") -> None:
    """What taking a protected set would do."""
    parts = ", ".join(plan.parts)
    facts.print(f"{parts} ({plan.database}) would be kept at", soft_wrap=True)
    for site, store in plan.stores.items():
        facts.print(f"  {site}: {store}", soft_wrap=True)
    newest = f"{plan.newest:%Y-%m-%d %H:%M:%S} UTC" if plan.newest else "none"
    facts.print(f"newest set that is there: {newest}; the fleet file allows {plan.rpo_s:.0f} s")
    facts.print("--apply takes it")


def show_report(report: "ProtectReport") -> None:
    """What was protected, and what was not."""
    table = plain_table()
    table.add_column("PART", no_wrap=True)
    for column in ("FILES", "SIZE"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in report.parts:
        table.add_row(each.part.value, str(each.files), size(each.size_bytes))
    facts.print(table)
    for site, snapshot in report.snapshots.items():
        facts.print(f"{site}: {snapshot}")
    for site, why in report.unreached.items():
        facts.print(Text(f"{site}: not kept: {why}", style="red"), soft_wrap=True)
    for told in report.missing:
        facts.print(Text(f"missing: {told}", style="red"), soft_wrap=True)
    facts.print(
        f"all that was there at {report.at:%Y-%m-%d %H:%M:%S} UTC can come back; stored "
        f"{size(report.bytes_stored)} in {report.seconds:.1f} s",
        soft_wrap=True,
    )
