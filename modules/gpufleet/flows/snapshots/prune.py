"""Pruning a store: snapshots past their retention are removed, then what nothing names any more.

The order of its steps is that of `core/snapshots/garbage.py`, which says why nobody is harmed.
"""

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Final, NamedTuple

from gpufleet.core.snapshots.garbage import SnapshotState, Stock, Sweep, order_of, renewed, sweep
from gpufleet.core.snapshots.layout import (
    INDEXES,
    MANIFEST,
    REMOVED,
    SNAPSHOTS,
    is_snapshot_id,
    name_of,
    snapshot_key,
)
from gpufleet.core.snapshots.manifest import needs_of
from gpufleet.core.snapshots.retention import Retained, Standing, needed, retained
from gpufleet.edges.object_client import NothingThereError
from gpufleet.flows.snapshots.catalogue import with_digest
from gpufleet.flows.snapshots.mark import PRUNE, TAKE, RunningMark, running
from gpufleet.flows.snapshots.store import THREADS, SnapshotStore
from gpufleet.flows.snapshots.verify import is_damaged
from gpufleet.spec.errors import BadInput
from gpufleet.spec.governance import SnapshotRetention
from gpufleet.spec.snapshots import Grace, PruneReport, StoredObject

_BATCH: Final = 256
"""Objects that are deleted between two looks at whether others took this prune for dead."""


@dataclass(frozen=True)
class PruneOrder:
    """What is kept, and for how long."""

    policy: SnapshotRetention
    apply: bool
    grace: Grace = field(default_factory=Grace)
    """That every take of the store keeps to."""
    served: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Revisions of which a snapshot stays: by name and digest, what serves them."""


def prune(store: SnapshotStore, order: PruneOrder, now: datetime) -> PruneReport:
    """Remove snapshots past their retention, and delete what was named by nothing for the grace.

    Args:
        store: which.
        order: what is kept; without `apply` nothing is changed.
        now: used where nothing is changed; else the store's own time is.

    Raises:
        BadInput: there is no store.
        Failed: a manifest cannot be read; nothing is removed or deleted then.
        Retryable: the store does not answer, or this prune stood still for too long.
    """
    begun = time.monotonic()
    store.open()
    with ExitStack() as done:
        mark = done.enter_context(RunningMark(store, "", PRUNE)) if order.apply else None
        at = now if mark is None else mark.now()[1]
        pool = done.enter_context(ThreadPoolExecutor(THREADS, thread_name_prefix="snapshot"))
        stock = _stock(store, pool)
        found = _swept(store, stock, at, order.grace, pool)
        chosen = _chosen(store, stock.snapshots, order, at, pool)
        if mark is not None:
            for snapshot in chosen.remove:
                store.objects.put(snapshot_key(snapshot, REMOVED), b"")
            _delete(store, found.delete, mark, order.grace, pool)
    return PruneReport(
        kept=tuple(chosen.keep),
        removed=chosen.remove,
        expired=found.expired,
        objects_deleted=len(found.delete),
        bytes_deleted=sum(each.stored_bytes for each in found.delete),
        objects_waiting=len(found.waiting),
        seconds=time.monotonic() - begun,
        blocked=found.blocked,
        reasons=dict(chosen.keep),
    )


def _stock(store: SnapshotStore, pool: Executor) -> Stock:
    """What the store holds: objects before snapshots, so that no younger manifest is missed."""
    versioned = store.objects.keeps_versions()
    objects = list(store.objects.objects("", versions=versioned))
    indexes = {
        name: each.key for each in objects if (name := name_of(each.key, INDEXES)) is not None
    }
    packs = dict(zip(indexes, pool.map(store.packs_of, indexes.values()), strict=True))
    takes = running(store, TAKE)
    states = pool.map(lambda one: _state(store, one), _manifests(store, versioned=versioned))
    there = [each for each in states if each is not None]
    return Stock(objects, there, packs, takes, versioned)


class _Manifest(NamedTuple):
    """A manifest that is in the store, whatever hides it."""

    snapshot: str
    version: str
    removed: datetime | None


def _manifests(store: SnapshotStore, *, versioned: bool) -> Iterator[_Manifest]:
    parts: dict[str, dict[str, list[StoredObject]]] = defaultdict(lambda: defaultdict(list))
    for each in store.objects.objects(SNAPSHOTS, versions=versioned):
        snapshot, _, part = each.key.removeprefix(SNAPSHOTS).partition("/")
        if is_snapshot_id(snapshot):
            parts[snapshot][part].append(each)
    for snapshot, found in parts.items():
        versions = [each for each in found[MANIFEST] if not each.marker]
        if not versions:
            continue
        marks = [each.modified for each in found[REMOVED] if each.latest and not each.marker]
        marks += [each.modified for each in found[MANIFEST] if each.marker and each.latest]
        newest = max(versions, key=lambda each: each.modified)
        yield _Manifest(snapshot, newest.version, min(marks, default=None))


def _state(store: SnapshotStore, one: _Manifest) -> SnapshotState | None:
    """A snapshot as it is found; None where another prune has deleted it just now."""
    body = store.objects.find(snapshot_key(one.snapshot, MANIFEST), one.version or None)
    if body is None:
        return None
    try:
        chunks = needs_of(body, snapshot=one.snapshot)
    except BadInput:
        return SnapshotState(one.snapshot, None, one.removed)
    return SnapshotState(one.snapshot, chunks, one.removed)


def _swept(
    store: SnapshotStore, stock: Stock, now: datetime, grace: Grace, pool: Executor
) -> Sweep:
    """What to delete; only of that it is asked whether Object Lock holds it."""
    found = sweep(stock, now=now, grace=grace)
    if not found.delete or not store.objects.can_lock():
        return found
    asked = [each for each in found.delete if not each.marker]
    until = pool.map(lambda each: _locked_until(store, each), asked)
    locked = {
        (each.key, each.version): moment
        for each, moment in zip(asked, until, strict=True)
        if moment is not None
    }
    return sweep(replace(stock, locked_until=locked), now=now, grace=grace)


def _locked_until(store: SnapshotStore, one: StoredObject) -> datetime | None:
    try:
        return store.objects.locked_until(one.key, one.version)
    except NothingThereError:
        # Another prune was faster.
        return None


def _chosen(
    store: SnapshotStore,
    states: Sequence[SnapshotState],
    order: PruneOrder,
    now: datetime,
    pool: Executor,
) -> Retained:
    def standing(snapshot: str) -> Standing:
        return Standing(with_digest(store, snapshot), is_damaged(store, snapshot))

    listed = [each.id for each in states if each.removed is None]
    standings = needed(pool.map(standing, listed), order.served)
    return retained(standings, order.policy, zone=UTC, now=now)


def _delete(
    store: SnapshotStore,
    objects: Sequence[StoredObject],
    mark: RunningMark,
    grace: Grace,
    pool: Executor,
) -> None:
    """Delete one kind after the other, in the order of the sweep."""
    for _, group in groupby(objects, key=order_of):
        left = list(group)
        while left:
            batch, left = left[:_BATCH], left[_BATCH:]
            renewed(*mark.now(), grace)
            gone = pool.map(
                lambda each: store.objects.delete(each.key, each.version or None), batch
            )
            deque(gone, maxlen=0)
