"""How snapshots are asked for and look on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from invoke.exceptions import Exit
from rich.text import Text

from gpufleet.core.snapshots.revision import revision_digest
from gpufleet.flows.snapshots import requests
from gpufleet.flows.snapshots.keys import trust_of
from gpufleet.flows.snapshots.restore import RestoreOrder
from gpufleet.flows.snapshots.verify import VerifyOrder, verify
from gpufleet.spec.errors import EXIT_INTERRUPTED, BadInput
from gpufleet.spec.snapshots import RestorePlan
from gpufleet.tasks.command import print_json
from gpufleet.tasks.console import ProgressView, facts, folding_table, plain_table

if TYPE_CHECKING:
    from gpufleet.core.snapshots.difference import Difference
    from gpufleet.flows.ground import Ground
    from gpufleet.flows.snapshots.catalogue import Listing
    from gpufleet.spec.snapshots import (
        Manifest,
        PruneReport,
        RestoreReport,
        SnapshotSummary,
        VerifyReport,
    )

_SIGNS: Final = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP: Final = 1024
_TENS: Final = 10


def take_wish(revision: str, source: str, *, reread: bool, sign_key: str = "") -> requests.TakeWish:
    """What is to be taken, from the flags."""
    return requests.TakeWish(Path(source), revision, reread, Path(sign_key) if sign_key else None)


def restore_wish(snapshot: str, to: str, only: str, *, unsigned: bool = False) -> RestoreOrder:
    """What is to be restored, from the flags."""
    return RestoreOrder(snapshot, Path(to), only, unsigned=unsigned)


def deep_wish(
    ground: "Ground", order: VerifyOrder, public_key: str, certificate: str
) -> VerifyOrder:
    """What is to be read back, its signature too.

    Raises:
        BadInput: nothing says whose signatures count, or a file of that is none.
    """
    trust = trust_of(
        ground,
        Path(public_key) if public_key else None,
        Path(certificate) if certificate else None,
    )
    if trust is None:
        raise BadInput(
            "nothing says whose signatures count",
            where="--deep",
            mend="give --public-key or --certificate, or set them in `snapshot_keys`",
        )
    return replace(order, trust=trust)


def verify_wish(snapshot: str, sample: str, seed: str) -> VerifyOrder:
    """What is to be read back, from the flags.

    Raises:
        BadInput: the sample is no share.
    """
    try:
        share = float(sample.removesuffix("%")) / (100 if sample.endswith("%") else 1)
    except ValueError:
        share = 0
    if not 0 < share <= 1:
        raise BadInput("is no share of a snapshot", where="--sample", mend="such as 10% or 100%")
    return VerifyOrder(snapshot, share, seed)


def tell_take(ground: "Ground", wish: requests.TakeWish, site: str, *, json: bool) -> None:
    """What a take would do."""
    plan = requests.planned_take(ground, wish, site)
    if json:
        print_json(asdict(plan))
        return
    facts.print(
        f"{plan.source}: {plan.files} files, {size(plan.bytes_total)}, of which "
        f"{size(plan.bytes_to_read)} would be read; stored is what {plan.store} has not",
        soft_wrap=True,
    )
    if plan.locked_until:
        facts.print(f"nobody can delete it before {plan.locked_until:%Y-%m-%d %H:%M} UTC")
    facts.print("--apply takes it")


def do_take(ground: "Ground", wish: requests.TakeWish, site: str, *, json: bool) -> None:
    """Take a snapshot, and tell what came of it."""
    with interruptible("what is stored is kept"), ProgressView() as view:
        report = requests.taken(ground, wish, site, view)
    if json:
        print_json({**asdict(report), "dedup_ratio": round(report.dedup_ratio, 2)})
        return
    facts.print(
        f"{report.snapshot}: {report.files} files, {size(report.bytes_total)}; read "
        f"{size(report.bytes_read)}, stored {size(report.bytes_stored)} "
        f"({report.chunks_new} of {report.chunks} chunks are new) in {report.seconds:.1f} s",
        soft_wrap=True,
    )
    facts.print(f"digest of the revision: {report.digest}", soft_wrap=True)


def tell_restore(ground: "Ground", order: RestoreOrder, site: str, *, json: bool) -> None:
    """What a restore would do."""
    plan = requests.planned_restore(ground, order, site)
    if json:
        print_json(asdict(plan))
        return
    verb = "replaced by" if plan.replaces else "made from"
    facts.print(
        f"{plan.to} would be {verb} {plan.files} files of {plan.revision}, "
        f"{size(plan.bytes_total)}; {size(plan.bytes_free)} are free there",
        soft_wrap=True,
    )
    if plan.predicted_s is not None:
        facts.print(f"it takes about {plan.predicted_s:.0f} s, as earlier ones did")
    facts.print("--apply restores it")


def do_restore(ground: "Ground", order: RestoreOrder, site: str, *, json: bool) -> None:
    """Restore a snapshot, and tell what came of it."""
    kept = "the folder is as it was, and what is fetched is kept"
    with interruptible(kept), ProgressView() as view:
        report = requests.restored(ground, order, site, view)
    if json:
        print_json(asdict(report))
        return
    facts.print(
        f"{report.to}: {report.files} files, {size(report.bytes_total)}, every byte verified; "
        f"fetched {size(report.bytes_fetched)}, {size(report.bytes_local)} were there, in "
        f"{report.seconds:.1f} s",
        soft_wrap=True,
    )


def show_fill(found: "RestoreReport | RestorePlan") -> None:
    """What filling a folder came to, or would do."""
    verb = "would hold" if isinstance(found, RestorePlan) else "holds"
    facts.print(f"{found.to} {verb} {found.files} files, {size(found.bytes_total)}", soft_wrap=True)


def do_verify(ground: "Ground", order: VerifyOrder, site: str, *, json: bool) -> "VerifyReport":
    """Read a snapshot back, and tell what was found."""
    store = requests.store_of(ground, site)
    with interruptible("nothing was changed"), ProgressView() as view:
        report = verify(store, order, view)
    if json:
        print_json({**asdict(report), "good": report.good})
        return report
    facts.print(
        f"{report.snapshot}: {report.chunks_read} of {report.chunks} chunks read, "
        f"{size(report.bytes_read)} in {report.seconds:.1f} s",
        soft_wrap=True,
    )
    for damage in report.damaged:
        files = ", ".join(damage.files) or "all of it"
        told = f"{damage.key}: {damage.what}; needed by {files}"
        facts.print(Text(told, style="red"), soft_wrap=True)
    if report.good:
        signed = ", and its signature counts" if report.signature_checked else ""
        facts.print(f"all of it is right{signed}", style="green")
    return report


def show_listing(found: "Listing") -> None:
    """The snapshots of a store."""
    if not found.snapshots:
        facts.print(f"no snapshots in {found.store}", soft_wrap=True)
        return
    table = plain_table()
    for column in ("SNAPSHOT", "REVISION", "KIND"):
        table.add_column(column, no_wrap=True)
    for column in ("FILES", "SIZE", "STORED"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in found.snapshots:
        plain, stored = size(each.plain_bytes), size(each.stored_bytes)
        table.add_row(each.id, each.revision, each.kind.value, str(each.files), plain, stored)
    facts.print(table)


def show_snapshot(summary: "SnapshotSummary", manifest: "Manifest") -> None:
    """What is in a snapshot."""
    facts.print(
        f"{summary.id}: {summary.revision}, taken {summary.created:%Y-%m-%d %H:%M:%S} UTC by "
        f"{summary.tool}; {summary.files} files, {size(summary.plain_bytes)}, of which the take "
        f"stored {size(summary.stored_bytes)}",
        soft_wrap=True,
    )
    facts.print(f"digest of the revision: {revision_digest(manifest)}", soft_wrap=True)
    table = folding_table("MODE", "SIZE", "BLAKE3", "PATH")
    for each in manifest.files:
        table.add_row(f"{each.mode:04o}", size(each.plain_bytes), each.blake3[:16], each.path)
    for link in manifest.links:
        table.add_row("link", "", "", f"{link.path} → {link.target}")
    facts.print(table)


def as_json(summary: "SnapshotSummary", manifest: "Manifest") -> dict[str, Any]:
    """A snapshot for machines; chunks are counted."""
    files = [
        {
            "path": each.path,
            "mode": each.mode,
            "bytes": each.plain_bytes,
            "blake3": each.blake3,
            "chunks": len(each.chunks),
        }
        for each in manifest.files
    ]
    folders = [each._asdict() for each in manifest.folders]
    links = [each._asdict() for each in manifest.links]
    told = {**asdict(summary), "digest": revision_digest(manifest)}
    return {**told, "files": files, "folders": folders, "links": links}


def show_difference(found: "Difference") -> None:
    """What differs between two snapshots."""
    if found.empty:
        facts.print("both hold the same")
        return
    for what, (sign, style) in _SIGNS.items():
        for path in getattr(found, what):
            facts.print(Text(f"{sign} {path}", style=style), soft_wrap=True)
    for path in found.modes:
        facts.print(Text(f"~ {path} (mode)", style="yellow"), soft_wrap=True)
    facts.print(f"{size(found.plain_bytes)} are new, {size(found.shared_bytes)} are in both")


def show_prune(report: "PruneReport", *, done: bool) -> None:
    """What a prune did, or would do."""
    verb = "" if done else "would be "
    for snapshot in report.kept:
        facts.print(f"{snapshot}: kept: {report.reasons[snapshot]}", soft_wrap=True)
    for snapshot in report.removed:
        facts.print(Text(f"{snapshot}: {verb}removed", style="yellow"), soft_wrap=True)
    for snapshot in report.expired:
        facts.print(Text(f"{snapshot}: {verb}deleted", style="red"), soft_wrap=True)
    if report.blocked:
        facts.print(f"nothing {verb}deleted now: {report.blocked}", soft_wrap=True)
    facts.print(
        f"{report.objects_deleted} objects {verb}deleted, {size(report.bytes_deleted)}; "
        f"{report.objects_waiting} wait for their grace or a lock"
    )
    if not done:
        facts.print("--apply does it")


def size(count: int) -> str:
    """A number of bytes for people, with two or three digits."""
    shown = float(count)
    for unit in _UNITS:
        if shown < _STEP or unit == _UNITS[-1]:
            break
        shown /= _STEP
    digits = 1 if unit != "B" and shown < _TENS else 0
    return f"{shown:.{digits}f} {unit}"


@contextmanager
def interruptible(kept: str) -> Iterator[None]:
    """Tell after Ctrl-C how things stand."""
    try:
        yield
    except KeyboardInterrupt:
        message = f"\nfleet: interrupted; {kept}: the same command goes on from there"
        raise Exit(message, code=EXIT_INTERRUPTED) from None
