"""Taking a snapshot: read, cut, store what is not there, then commit by one conditional write."""

import stat
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from gpufleet.core.snapshots import manifest as manifests
from gpufleet.core.snapshots.digests import file_digest
from gpufleet.core.snapshots.garbage import Found, may_commit, to_store_again
from gpufleet.core.snapshots.layout import MANIFEST, SUMMARY, snapshot_key
from gpufleet.core.snapshots.paths import SourceEntry, permissions, refuse_source
from gpufleet.edges.snapshots.read_table import ReadTable
from gpufleet.edges.snapshots.source import SourceTree, scan
from gpufleet.flows.snapshots.mark import PRUNE, RunningMark, running
from gpufleet.flows.snapshots.meter import Meter, OnProgress
from gpufleet.flows.snapshots.store import THREADS, Contents, SnapshotStore
from gpufleet.flows.snapshots.upload import Upload, UploadSettings
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.snapshots import (
    ChunkRef,
    FileEntry,
    FolderEntry,
    Grace,
    LinkEntry,
    Manifest,
    SnapshotKind,
    TakeMark,
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
    settings = UploadSettings(order.threads, order.until, order.reread)
    with RunningMark(store, order.revision) as mark, closing(ReadTable(table, store.name)) as read:
        _refuse_beside_prune(store, mark, order.grace)
        contents = _reliable(store, mark, order)
        upload = Upload(store, contents, read, settings, meter, mark)
        manifest = _manifest(order, created, tree, upload.run(tree))
        _may_commit(store, manifest, mark, order.grace)
        snapshot, committed = _commit(store, manifest, order.until, upload.tally.bytes_stored)
    meter.finish()
    tally = upload.tally
    return TakeReport(
        snapshot=snapshot,
        revision=order.revision,
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


def _manifest(
    order: TakeOrder,
    created: datetime,
    tree: SourceTree,
    chunks: Mapping[str, tuple[ChunkRef, ...]],
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


def _refuse_beside_prune(store: SnapshotStore, mark: RunningMark, grace: Grace) -> None:
    """See that no prune runs where it could delete what is stored anew meanwhile."""
    if store.objects.keeps_versions():
        return
    _, now = mark.now()
    for each in running(store, PRUNE):
        if now < each.beat + grace.margin:
            raise Retryable(
                f"a prune runs on {each.host}, and the bucket keeps no versions",
                where=store.shown,
                mend="take the snapshot when it is done; one that was killed counts for an hour",
            )


def _commit_by(mark: TakeMark, grace: Grace) -> datetime:
    """A quarter of the grace: what an interrupted take stored in the rest of it is relied on."""
    return mark.began + grace.keep / 4


def _reliable(store: SnapshotStore, mark: RunningMark, order: TakeOrder) -> Contents:
    """What the store holds; what a prune may delete before the snapshot is there counts as gone."""
    contents = store.contents()
    if order.until is not None:
        # What is relied on is locked.
        return contents
    by = _commit_by(mark.now()[0], order.grace)
    found = [Found(key, modified) for key, modified in contents.modified.items()]
    if old := set(to_store_again(found, (), commit_by=by, grace=order.grace)):
        named = store.named(contents)
        contents.stale.update(old - named)
    return contents


def _may_commit(
    store: SnapshotStore, manifest: Manifest, running: RunningMark, grace: Grace
) -> None:
    """See by a new listing that nothing was removed while the rest was stored."""
    held = store.contents()
    needed = map(ChunkRef._make, manifests.chunks_of(manifest).items())
    missing = [chunk.id for chunk in needed if held.place(chunk) is None]
    mark, now = running.now()
    may_commit(mark, now, missing, grace)
    if now > _commit_by(mark, grace):
        raise Retryable(
            f"the take ran for longer than {grace.keep / 4}: a prune may delete what it found",
            where=store.shown,
            mend="take the snapshot again: what is stored is not read again",
        )


def _commit(
    store: SnapshotStore, manifest: Manifest, until: datetime | None, stored_bytes: int
) -> tuple[str, int]:
    """Write summary and manifest; the snapshot's ID, and the bytes that were written."""
    body = manifests.encode(manifest)
    summary = manifests.summarize(manifest, body, stored_bytes=stored_bytes, signed=False)
    written = manifests.encode_summary(summary)
    key = snapshot_key(summary.id, MANIFEST)
    store.objects.put_new(snapshot_key(summary.id, SUMMARY), written, until)
    # Where another was first it is the same one: its ID follows from its content.
    if not store.objects.put_new(key, body, until) and store.objects.get(key) != body:
        raise Failed("another snapshot has this ID", where=f"{store.shown}/{key}")
    return summary.id, len(written) + len(body)
