"""The weights of a pool's pod: the newest snapshot of a revision that has the pinned digest."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from gpufleet.core.snapshots.revision import revision_digest
from gpufleet.core.weights import Source
from gpufleet.edges.object_client import Place
from gpufleet.edges.snapshots.brought import Brought, Note, print_of
from gpufleet.flows.snapshots.catalogue import readable_summary
from gpufleet.flows.snapshots.fill import store_at
from gpufleet.flows.snapshots.meter import quiet
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.snapshots.same import difference_of_bytes, difference_of_names
from gpufleet.flows.snapshots.store import THREADS, SnapshotStore, manifest_of
from gpufleet.flows.snapshots.verify import is_damaged
from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshots import Manifest, SnapshotKind, SnapshotSummary
from gpufleet.spec.weights import Way, WeightsPlan, WeightsReport

_SHOWN: Final = 5
"""Snapshots that an error names."""


@dataclass(frozen=True)
class WeightsOrder:
    """What a pod asks for."""

    source: Source
    digest: str
    """Of the revision, as `core/snapshots/revision.py` makes it."""
    to: Path
    cache: Path | None = None
    """Folder with a tree for each revision, which is only read; it need not be there."""

    @property
    def cached(self) -> Path | None:
        """Where the cache has the revision, if it does."""
        return self.cache / self.source.revision if self.cache else None


def planned_weights(order: WeightsOrder, place: Place) -> WeightsPlan:
    """What `bring_weights` would do; errors as there."""
    note, way = Brought(order.to).note(order.digest), Way.THERE
    if note is None:
        found = _found(store_at(place, order.source.bucket), order)
        note, cached = _note(found, order, ""), order.cached
        by_cache = cached is not None and not difference_of_names(found.manifest, cached)
        way = Way.CACHE if by_cache else Way.STORE
    return WeightsPlan(
        snapshot=note.snapshot,
        revision=order.source.revision,
        digest=order.digest,
        to=str(order.to),
        way=way,
        files=note.files,
        bytes_total=note.bytes_total,
    )


def bring_weights(order: WeightsOrder, place: Place) -> WeightsReport:
    """See that a folder holds the revision with that digest, every byte verified.

    What an earlier run has brought is left alone, without a look at the store. A tree of the cache
    that is byte for byte the snapshot's is linked to; otherwise the snapshot is restored, with what
    is whole in the cache or of an interrupted run.

    Args:
        order: what, and where to.
        place: where the store is.

    Raises:
        BadInput: the store has no snapshot of the revision with that digest, or its key cannot be
            had.
        Retryable: the store does not answer, the disk is full, or another run writes there.
        Failed: a chunk of it is lost or damaged.
    """
    begun, brought = time.monotonic(), Brought(order.to)
    note = brought.note(order.digest)
    if note is not None:
        return _report(order, note, Way.THERE, begun)
    store = store_at(place, order.source.bucket)
    found = _found(store, order)
    tree = order.to if brought.is_tree else order.cached
    told = ""
    if tree is not None:
        before = print_of(tree)
        told = difference_of_bytes(store, found.manifest, tree)
        if not told and print_of(tree) == before:
            if not brought.is_tree:
                brought.link(tree)
            note = _note(found, order, before)
            brought.keep(note)
            way = Way.THERE if brought.is_tree else Way.CACHE
            return _report(order, note, way, begun, local=note.bytes_total)
    return _restored(store, found, order, told, begun)


class _Found(NamedTuple):
    snapshot: str
    manifest: Manifest


def _restored(
    store: SnapshotStore, found: _Found, order: WeightsOrder, told: str, begun: float
) -> WeightsReport:
    whole = RestoreOrder(found.snapshot, order.to, old=_folder(order.cached), readable=True)
    report = restore(store, whole, quiet)
    note = _note(found, order, print_of(order.to))
    Brought(order.to).keep(note)
    return _report(
        order,
        note,
        Way.STORE,
        begun,
        fetched=report.bytes_fetched,
        local=report.bytes_local,
        cache=told if order.cache else "",
    )


def _folder(path: Path | None) -> Path | None:
    return path if path is not None and path.is_dir() else None


def _found(store: SnapshotStore, order: WeightsOrder) -> _Found:
    """The newest snapshot with the digest; one that was found damaged only where all were."""
    store.open()
    mine = list(_of_revision(store, order.source.revision))
    damaged: _Found | None = None
    for found in _with_digest(store, mine, order.digest):
        if not is_damaged(store, found.snapshot):
            return found
        damaged = damaged or found
    if damaged is not None:
        return damaged
    raise _none_of(store, order, mine)


def _of_revision(store: SnapshotStore, revision: str) -> Iterator[SnapshotSummary]:
    """Those of a revision that can be read, from the newest on."""
    # IDs begin with when they were created.
    listed = sorted(store.listed(), reverse=True)
    with ThreadPoolExecutor(THREADS) as pool:
        for summary in pool.map(partial(readable_summary, store), listed):
            if summary is None or summary.kind is not SnapshotKind.ARTIFACT:
                continue
            if summary.revision == revision:
                yield summary


def _with_digest(
    store: SnapshotStore, summaries: Iterable[SnapshotSummary], digest: str
) -> Iterator[_Found]:
    """A summary only says it; the manifest is what counts."""
    for summary in summaries:
        if summary.digest in {"", digest}:
            manifest = _readable(store, summary.id)
            if manifest is not None and revision_digest(manifest) == digest:
                yield _Found(summary.id, manifest)


def _readable(store: SnapshotStore, snapshot: str) -> Manifest | None:
    try:
        return manifest_of(store, snapshot)
    except BadInput:
        return None


def _none_of(store: SnapshotStore, order: WeightsOrder, mine: list[SnapshotSummary]) -> BadInput:
    revision = order.source.revision
    take = f"`snapshot.take --revision {revision}` takes one"
    if not mine:
        return BadInput(f"there is no snapshot of `{revision}`", where=store.shown, mend=take)
    told = []
    for each in mine[:_SHOWN]:
        manifest = None if each.digest else _readable(store, each.id)
        told.append(f"{each.id} {each.digest or (revision_digest(manifest) if manifest else '?')}")
    more = f" and {len(mine) - _SHOWN} older ones" if len(mine) > _SHOWN else ""
    return BadInput(
        f"no snapshot of `{revision}` has the digest {order.digest}",
        where=store.shown,
        mend=f"there are {', '.join(told)}{more}: name one of them as the model's `digest` in the "
        f"fleet file, or {take}",
    )


def _note(found: _Found, order: WeightsOrder, tree: str) -> Note:
    manifest = found.manifest
    return Note(found.snapshot, order.digest, len(manifest.files), manifest.plain_bytes, tree)


def _report(  # noqa: PLR0913 - what a report says
    order: WeightsOrder,
    note: Note,
    way: Way,
    begun: float,
    *,
    fetched: int = 0,
    local: int = 0,
    cache: str = "",
) -> WeightsReport:
    return WeightsReport(
        snapshot=note.snapshot,
        revision=order.source.revision,
        digest=order.digest,
        to=str(order.to),
        way=way,
        files=note.files,
        bytes_total=note.bytes_total,
        bytes_fetched=fetched,
        bytes_local=local,
        seconds=time.monotonic() - begun,
        cache=cache,
    )
