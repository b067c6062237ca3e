"""How copies of snapshots, and repairs from them, are asked for and look on a terminal."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.text import Text

from gpufleet.flows.snapshots import second_site
from gpufleet.tasks.command import print_json
from gpufleet.tasks.console import ProgressView, facts
from gpufleet.tasks.snapshot_view import interruptible, size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpufleet.flows.ground import Ground
    from gpufleet.spec.snapshot_copies import RepairReport, ReplicateReport
    from gpufleet.spec.snapshots import Damage


def replicate_wish(
    source: str, target: str, snapshot: str, revision: str
) -> second_site.ReplicateWish:
    """What is to be copied, from the flags."""
    return second_site.ReplicateWish(source, target, snapshot, revision)


def repair_wish(snapshot: str, site: str, source: str) -> second_site.RepairWish:
    """What is to be repaired, from the flags."""
    return second_site.RepairWish(snapshot, site, source)


def tell_replicate(ground: "Ground", wish: second_site.ReplicateWish, *, json: bool) -> None:
    """What replicating would do."""
    plan = second_site.planned_replicate(ground, wish)
    if json:
        print_json(asdict(plan))
        return
    for snapshot in plan.snapshots:
        facts.print(f"{snapshot}: would be copied", soft_wrap=True)
    facts.print(
        f"{plan.target} lacks {len(plan.snapshots)} snapshots in whole or part, "
        f"{size(plan.bytes_lacking)}; {plan.complete} are complete there",
        soft_wrap=True,
    )
    if plan.snapshots and plan.locked_until:
        facts.print(f"nobody can delete them before {plan.locked_until:%Y-%m-%d %H:%M} UTC")
    facts.print("--apply copies them")


def do_replicate(
    ground: "Ground", wish: second_site.ReplicateWish, *, json: bool
) -> "ReplicateReport":
    """Copy snapshots, and tell what came of it."""
    with interruptible("what is copied is kept"), ProgressView() as view:
        report = second_site.replicated(ground, wish, view)
    if json:
        print_json({**asdict(report), "good": report.good})
        return report
    for snapshot in report.snapshots:
        facts.print(f"{snapshot}: copied", soft_wrap=True)
    for snapshot, damaged in report.damaged.items():
        facts.print(Text(f"{snapshot}: not copied", style="red"), soft_wrap=True)
        _show_damage(damaged)
    facts.print(
        f"{report.target}: {len(report.snapshots)} snapshots copied, {report.complete} were "
        f"complete; {report.objects_copied} objects, {size(report.bytes_copied)} in "
        f"{report.seconds:.1f} s, every frame verified",
        soft_wrap=True,
    )
    return report


def do_repair(
    ground: "Ground", wish: second_site.RepairWish, *, apply: bool, json: bool
) -> "RepairReport":
    """Repair a snapshot, or tell what would be done."""
    with interruptible("what is brought back stays"), ProgressView() as view:
        report = second_site.repaired(ground, wish, view, apply=apply)
    if json:
        print_json({**asdict(report), "good": report.good})
        return report
    verb = "" if apply else "would be "
    for mend in report.mends:
        told = f"{mend.key}: {mend.what}; {verb}taken from {mend.source}"
        facts.print(Text(told, style="yellow"), soft_wrap=True)
    _show_damage(report.lost)
    for store in report.silent:
        told = f"{store} did not answer; what is lost may be there: repair again when it does"
        facts.print(Text(told, style="yellow"), soft_wrap=True)
    facts.print(
        f"{report.snapshot}: {report.chunks} chunks read, {len(report.mends)} objects {verb}put, "
        f"{len(report.lost)} lost, in {report.seconds:.1f} s",
        soft_wrap=True,
    )
    if report.mends and not apply:
        facts.print("--apply does it")
    return report


def _show_damage(damages: "Iterable[Damage]") -> None:
    for damage in damages:
        files = ", ".join(damage.files) or "all of it"
        told = f"{damage.key}: {damage.what}; needed by {files}"
        facts.print(Text(told, style="red"), soft_wrap=True)
