"""Restoring a snapshot: whole or one file, from the store and from what is there already."""

import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from gpufleet.edges.snapshots.target import OpenTarget, Target, TargetFile
from gpufleet.flows.snapshots.fetch import Fetch, stop_at_damage
from gpufleet.flows.snapshots.meter import Meter, OnProgress
from gpufleet.flows.snapshots.store import THREADS, SnapshotStore, manifest_of
from gpufleet.flows.snapshots.there import Files, Spot, There
from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshots import FileEntry, Manifest, RestorePlan, RestoreReport

_READ: Final = 0o444
_RUN: Final = 0o111


@dataclass(frozen=True)
class RestoreOrder:
    """What is restored, and where to."""

    snapshot: str
    to: Path
    only: str = ""
    """One file of the snapshot, or all below one folder; empty for the whole."""
    reuse: bool = True
    """Take chunks from the tree that is replaced, where it has them."""
    old: Path | None = None
    """Tree to take them from where none is replaced."""
    readable: bool = False
    """Let every user read it, whatever its modes were."""
    threads: int = THREADS
    unsigned: bool = False
    """Whatever signatures the fleet file demands, this one is restored without."""


def restore(store: SnapshotStore, order: RestoreOrder, on_progress: OnProgress) -> RestoreReport:
    """Restore a snapshot into a folder: whole and verified, or not at all.

    The tree is made beside the folder and put in its place at the end; an earlier restore of the
    same snapshot that was interrupted goes on.

    Args:
        store: where from.
        order: what, and where to.
        on_progress: told a few times a second.

    Raises:
        BadInput: there is no such snapshot or file.
        Retryable: the store does not answer, the disk is full, or another restore writes there.
        Failed: a chunk of it is lost or damaged.
    """
    meter = Meter(order.snapshot, "restoring", on_progress)
    manifest = chosen_of(store, order)
    meter.total_bytes = manifest.plain_bytes
    with Target(order.to, order.snapshot) as target:
        files = [TargetFile(each.path, each.mode, each.plain_bytes) for each in manifest.files]
        target.prepare(
            files, [each.path for each in manifest.folders], [each.path for each in manifest.links]
        )
        opened = [
            OpenTarget(target, file, len(each.chunks))
            for file, each in zip(files, manifest.files, strict=True)
        ]
        try:
            fetched = _filled(store, order, manifest, target, opened, meter)
        finally:
            for each in opened:
                each.close()
        target.finish(manifest.folders, manifest.links)
        target.switch()
    meter.finish()
    return RestoreReport(
        snapshot=order.snapshot,
        to=str(order.to),
        files=len(manifest.files),
        bytes_total=manifest.plain_bytes,
        bytes_fetched=fetched.wire,
        bytes_local=fetched.local,
        seconds=meter.elapsed_s,
    )


def plan_restore(order: RestoreOrder, manifest: Manifest, predicted_s: float | None) -> RestorePlan:
    """What a restore would do; nothing is written.

    Args:
        order: what, and where to.
        manifest: the part of it that is restored.
        predicted_s: how long it takes; None where nobody knows.
    """
    above = next(folder for folder in (order.to, *order.to.absolute().parents) if folder.is_dir())
    return RestorePlan(
        snapshot=order.snapshot,
        revision=manifest.revision,
        to=str(order.to),
        files=len(manifest.files),
        bytes_total=manifest.plain_bytes,
        bytes_free=shutil.disk_usage(above).free,
        replaces=order.to.exists(),
        predicted_s=predicted_s,
    )


class _Filled(NamedTuple):
    wire: int
    local: int


def _filled(  # noqa: PLR0913, PLR0917 - the parts of one restore
    store: SnapshotStore,
    order: RestoreOrder,
    manifest: Manifest,
    target: Target,
    opened: Sequence[OpenTarget],
    meter: Meter,
) -> _Filled:
    spots: dict[str, list[Spot]] = defaultdict(list)
    for file, entry in zip(opened, manifest.files, strict=True):
        offset = 0
        for chunk in entry.chunks:
            spots[chunk.id].append(Spot(file, offset))
            offset += chunk.plain_bytes
        if not entry.chunks:
            file.finish()
    sink = Files(spots, meter)
    left = dict.fromkeys(chunk for entry in manifest.files for chunk in entry.chunks)
    with ThreadPoolExecutor(order.threads, thread_name_prefix="snapshot") as pool:
        there = There(store, sink, left, pool)
        if target.resumes:
            there.take_right()
        old = target.folder if target.folder.is_dir() else order.old
        if order.reuse and left and old is not None:
            there.take_old(old, () if target.resumes else opened)
    fetch = Fetch(store, store.contents(), sink, order.threads, stop_at_damage)
    fetch.run(left)
    return _Filled(fetch.bytes_fetched, there.taken_bytes)


def chosen_of(store: SnapshotStore, order: RestoreOrder) -> Manifest:
    """The part of a manifest that is restored: all, one file, or what is below one folder.

    Raises:
        BadInput: there is no such snapshot or file, or its manifest was changed.
    """
    manifest = manifest_of(store, order.snapshot)
    if order.readable:
        manifest = readable(manifest)
    if not order.only:
        return manifest

    def of(path: str) -> bool:
        return path == order.only or path.startswith(f"{order.only.rstrip('/')}/")

    files = tuple(entry for entry in manifest.files if of(entry.path))
    if not files:
        raise BadInput(
            f"the snapshot has no `{order.only}`",
            where=order.snapshot,
            mend="`snapshot.show` lists what it has",
        )
    folders = {above for entry in files for above in _above(entry)}
    return Manifest(
        created=manifest.created,
        revision=manifest.revision,
        tool=manifest.tool,
        files=files,
        folders=tuple(each for each in manifest.folders if of(each.path) or each.path in folders),
        links=tuple(each for each in manifest.links if of(each.path)),
        kind=manifest.kind,
        parent=manifest.parent,
    )


def readable(manifest: Manifest) -> Manifest:
    """The same tree with what every user needs to read it; programs can be run by all."""
    return replace(
        manifest,
        files=tuple(
            each._replace(mode=each.mode | _READ | (_RUN if each.mode & _RUN else 0))
            for each in manifest.files
        ),
        folders=tuple(each._replace(mode=each.mode | _READ | _RUN) for each in manifest.folders),
    )


def _above(entry: FileEntry) -> Iterable[str]:
    parts = entry.path.split("/")[:-1]
    return ("/".join(parts[: count + 1]) for count in range(len(parts)))
