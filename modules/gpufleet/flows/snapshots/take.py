"""Taking a snapshot: read, cut, store what is not there, then commit by one conditional write."""

import stat
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from gpufleet.core.snapshots import manifest as manifests
from gpufleet.core.snapshots.digests import file_digest
from gpufleet.core.snapshots.layout import SIGNATURE, SUMMARY, snapshot_key
from gpufleet.core.snapshots.paths import SourceEntry, permissions, refuse_source
from gpufleet.core.snapshots.revision import revision_digest
from gpufleet.core.snapshots.signatures import Signer, sign
from gpufleet.edges.snapshots.read_table import ReadTable
from gpufleet.edges.snapshots.source import SourceFile, SourceTree, scan, sha256_of
from gpufleet.flows.snapshots.deposit import (
    Deposit,
    check_before_commit,
    refuse_beside_prune,
    reliable,
)
from gpufleet.flows.snapshots.mark import RunningMark
from gpufleet.flows.snapshots.meter import Meter, OnProgress
from gpufleet.flows.snapshots.store import THREADS, SnapshotStore
from gpufleet.flows.snapshots.threads import in_threads
from gpufleet.flows.snapshots.upload import Upload, UploadSettings
from gpufleet.spec.snapshots import (
    ChunkRef,
    FileEntry,
    FolderEntry,
    Grace,
    LinkEntry,
    Manifest,
    SnapshotKind,
    TakePlan,
    TakeReport,
)

TOOL: Final = "gpufleet 0.1.0"
"""What a manifest says that it was written by."""


@dataclass(frozen=True)
class TakeOrder:
    """What is to be taken, and how."""

    source: Path
    revision: str
    kind: SnapshotKind = SnapshotKind.ARTIFACT
    parent: str = ""
    until: datetime | None = None
    """Everything that the snapshot needs is locked until then; None on a plain bucket."""
    reread: bool = False
    threads: int = THREADS
    grace: Grace = field(default_factory=Grace)
    """That every prune of the store keeps to."""
    signer: Signer | None = None
    """Who signs it: then every file is read once more, for its SHA-256."""


def take(
    store: SnapshotStore,
    order: TakeOrder,
    table: Path,
    clock: Callable[[], datetime],
    on_progress: OnProgress,
) -> TakeReport:
    """Take a snapshot of a folder; the store is made where there is none.

    Args:
        store: where to.
        order: what.
        table: file that notes what was read.
        clock: tells the time.
        on_progress: told a few times a second.

    Raises:
        BadInput: the source cannot be taken as it is.
        Retryable: it changed while it was read, or the store does not answer; what was stored is
            kept, and the next take goes on from there.
    """
    meter = Meter(order.revision, "storing", on_progress)
    created = clock().replace(microsecond=0)
    tree = _scanned(order)
    meter.total_bytes = sum(file.identity.size_bytes for file in tree.files)
    store.open(make=True)
    settings = UploadSettings(order.threads, order.reread)
    with RunningMark(store, order.revision) as mark, closing(ReadTable(table, store.name)) as read:
        refuse_beside_prune(store, mark, order.grace)
        deposit = Deposit(store, reliable(store, mark, order.until, order.grace), order.until)
        upload = Upload(deposit, read, settings, meter, mark)
        chunks = upload.run(tree)
        manifest = _manifest(order, created, tree, chunks, _digests(tree, order, mark))
        needed = map(ChunkRef._make, manifests.chunks_of(manifest).items())
        check_before_commit(store, needed, mark, order.grace)
        snapshot, committed = _commit(deposit, manifest, upload.tally.bytes_stored, order.signer)
    meter.finish()
    tally = upload.tally
    return TakeReport(
        snapshot=snapshot,
        revision=order.revision,
        digest=revision_digest(manifest),
        files=len(manifest.files),
        bytes_total=manifest.plain_bytes,
        bytes_read=tally.bytes_read,
        bytes_stored=tally.bytes_stored + committed,
        chunks=tally.chunks,
        chunks_new=tally.chunks_new,
        seconds=meter.elapsed_s,
    )


def plan_take(store: SnapshotStore, order: TakeOrder, table: Path) -> TakePlan:
    """What a take would do; nothing is written, and no file is read.

    Args:
        store: where to; it need not be there.
        order: what.
        table: file that notes what was read.

    Raises:
        BadInput: the source cannot be taken as it is.
        Retryable: it cannot be read, or the store does not answer.
    """
    tree = _scanned(order)
    total = sum(file.identity.size_bytes for file in tree.files)
    known = 0
    if table.is_file() and store.exists():
        contents = store.contents()
        with closing(ReadTable(table, store.name)) as read:
            for file in tree.files:
                parts = read.known(tree.root / file.path, file.identity).items()
                chunks = (ChunkRef(chunk, length) for (_, length), chunk in parts)
                held = [each for each in chunks if contents.place(each) is not None]
                known += sum(each.plain_bytes for each in held)
    return TakePlan(
        store=store.shown,
        revision=order.revision,
        source=str(order.source),
        files=len(tree.files),
        bytes_total=total,
        bytes_to_read=total if order.reread else total - known,
        locked_until=order.until,
    )


def _scanned(order: TakeOrder) -> SourceTree:
    tree = scan(order.source)
    refuse_source(
        SourceEntry(each.path, each.mode, each.identity.size_bytes, each.target, each.sparse)
        for each in tree.entries
    )
    return tree


def _digests(tree: SourceTree, order: TakeOrder, mark: RunningMark) -> Mapping[str, str]:
    """SHA-256 of each file, by its path, where it is signed."""
    if order.signer is None:
        return {}

    def one(file: SourceFile) -> tuple[str, str]:
        mark.beat()
        return file.path, sha256_of(tree.root, file)

    return dict(in_threads(order.threads, (partial(one, file) for file in tree.files)))


def _manifest(
    order: TakeOrder,
    created: datetime,
    tree: SourceTree,
    chunks: Mapping[str, tuple[ChunkRef, ...]],
    sha256: Mapping[str, str],
) -> Manifest:
    return Manifest(
        created=created,
        revision=order.revision,
        tool=TOOL,
        files=tuple(
            FileEntry(
                path=file.path,
                mode=permissions(file.mode),
                plain_bytes=file.identity.size_bytes,
                blake3=file_digest(chunks[file.path]),
                chunks=chunks[file.path],
                sha256=sha256.get(file.path, ""),
            )
            for file in tree.files
        ),
        folders=tuple(
            FolderEntry(each.path, permissions(each.mode))
            for each in tree.entries
            if stat.S_ISDIR(each.mode)
        ),
        links=tuple(
            LinkEntry(each.path, each.target) for each in tree.entries if stat.S_ISLNK(each.mode)
        ),
        kind=order.kind,
        parent=order.parent,
    )


def _commit(
    deposit: Deposit, manifest: Manifest, stored_bytes: int, signer: Signer | None
) -> tuple[str, int]:
    """Write summary, signature and manifest; the snapshot's ID, and the bytes that were written."""
    body = manifests.encode(manifest)
    summary = manifests.summarize(
        manifest, body, stored_bytes=stored_bytes, signed=signer is not None
    )
    parts = {SUMMARY: manifests.encode_summary(summary)}
    if signer is not None:
        parts[SIGNATURE] = sign(manifest, body, signer)
    for part, written in parts.items():
        deposit.put(snapshot_key(summary.id, part), written)
    deposit.commit(summary.id, body)
    return summary.id, len(body) + sum(map(len, parts.values()))
