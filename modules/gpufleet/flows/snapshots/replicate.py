"""Copying snapshots from one store to another: what that one lacks, each frame verified.

For the second store it is a take: its mark is there while it runs, what is stored is locked, and a
snapshot's manifest is put last, when everything that it names is there.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from threading import Lock
from typing import NamedTuple

from gpufleet.core.snapshots.layout import (
    MANIFEST,
    REMOVED,
    SIGNATURE,
    SNAPSHOTS,
    SUMMARY,
    is_packed,
    snapshot_key,
)
from gpufleet.core.snapshots.manifest import decode, encode_summary, needs_of
from gpufleet.flows.snapshots.catalogue import summary_of
from gpufleet.flows.snapshots.deposit import (
    Deposit,
    check_before_commit,
    refuse_beside_prune,
    reliable,
)
from gpufleet.flows.snapshots.mark import RunningMark
from gpufleet.flows.snapshots.meter import Meter, OnProgress
from gpufleet.flows.snapshots.right_frames import (
    RightFrame,
    Stored,
    as_object,
    as_packs,
    by_object,
    read_frames,
)
from gpufleet.flows.snapshots.store import THREADS, Contents, Place, SnapshotStore
from gpufleet.flows.snapshots.threads import in_threads, pool_of
from gpufleet.flows.snapshots.verify import note_verdict, told_damages
from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshot_copies import ReplicatePlan, ReplicateReport
from gpufleet.spec.snapshots import ChunkRef, Damage, Grace


@dataclass(frozen=True)
class ReplicateOrder:
    """Which snapshots are copied, and how."""

    snapshots: tuple[str, ...]
    """IDs, in the order in which they are copied."""
    until: datetime | None = None
    """Everything that they need is locked in the target until then; None on a plain bucket."""
    threads: int = THREADS
    grace: Grace = field(default_factory=Grace)
    """That every prune of the target keeps to."""


class Lack(NamedTuple):
    """What the target lacks of one snapshot."""

    snapshot: str
    chunks: tuple[ChunkRef, ...]
    parts: tuple[str, ...]
    """Its summary, its signature, its manifest."""


def plan_replicate(
    source: SnapshotStore, target: SnapshotStore, order: ReplicateOrder
) -> ReplicatePlan:
    """What replicating would do; nothing is written.

    Raises:
        BadInput: there is no such snapshot, or the two stores have not the same key.
        Retryable: a store does not answer.
    """
    source.open()
    found = list(_lacks(source, target, order.snapshots)) if target.exists() else None
    if found is None:
        found = [Lack(each, _chunks(source, each), (MANIFEST,)) for each in order.snapshots]
    lacking = [each for each in found if each.chunks or each.parts]
    return ReplicatePlan(
        source=source.shown,
        target=target.shown,
        snapshots=tuple(each.snapshot for each in lacking),
        complete=len(found) - len(lacking),
        bytes_lacking=_plain_bytes(lacking),
        locked_until=order.until,
    )


def replicate(
    source: SnapshotStore, target: SnapshotStore, order: ReplicateOrder, on_progress: OnProgress
) -> ReplicateReport:
    """Copy snapshots; what was copied before an interruption is not copied again.

    A snapshot of which the source has lost something is not copied; the others are.

    Args:
        source: where from.
        target: where to; it is made where there is none.
        order: what.
        on_progress: told a few times a second.

    Raises:
        BadInput: there is no such snapshot, or the two stores have not the same key.
        Retryable: a store does not answer, or a prune runs in the target and it has no versions.
    """
    what = order.snapshots[0] if len(order.snapshots) == 1 else f"{len(order.snapshots)} snapshots"
    meter = Meter(what, "replicating", on_progress)
    source.open()
    target.open(make=True)
    found = list(_lacks(source, target, order.snapshots))
    lacking = [each for each in found if each.chunks or each.parts]
    meter.total_bytes = _plain_bytes(lacking)
    copies = _Copies(source, target, order, meter)
    damaged = {each.snapshot: damages for each in lacking if (damages := copies.run(each.snapshot))}
    meter.finish()
    return ReplicateReport(
        source=source.shown,
        target=target.shown,
        snapshots=tuple(each.snapshot for each in lacking if each.snapshot not in damaged),
        complete=len(found) - len(lacking),
        objects_copied=copies.objects,
        bytes_copied=copies.bytes,
        seconds=meter.elapsed_s,
        damaged=damaged,
    )


def _chunks(store: SnapshotStore, snapshot: str) -> tuple[ChunkRef, ...]:
    needs = needs_of(store.manifest_body(snapshot), snapshot=snapshot)
    return tuple(map(ChunkRef._make, needs.items()))


def _plain_bytes(lacks: Iterable[Lack]) -> int:
    return sum(chunk.plain_bytes for chunk in {chunk for one in lacks for chunk in one.chunks})


def _lacks(
    source: SnapshotStore, target: SnapshotStore, snapshots: Sequence[str]
) -> Iterator[Lack]:
    have = {each.key for each in target.objects.objects(SNAPSHOTS)}
    there = {each.key for each in source.objects.objects(SNAPSHOTS)}
    held = target.contents()
    for snapshot in snapshots:
        if snapshot_key(snapshot, REMOVED) in have:
            raise BadInput(
                f"a prune has removed `{snapshot}` there",
                where=target.shown,
                mend="it is deleted there a day after that; then it can be copied again",
            )
        lacking = [each for each in _chunks(source, snapshot) if held.place(each) is None]
        keys = {part: snapshot_key(snapshot, part) for part in (SUMMARY, SIGNATURE, MANIFEST)}
        parts = (
            part
            for part, key in keys.items()
            if key not in have and (part != SIGNATURE or key in there)
        )
        yield Lack(snapshot, tuple(lacking), tuple(parts))


class _Copies:
    """Snapshots on their way, one after another; the chunks of each by several threads."""

    def __init__(
        self, source: SnapshotStore, target: SnapshotStore, order: ReplicateOrder, meter: Meter
    ) -> None:
        self._source = source
        self._target = target
        self._order = order
        self._meter = meter
        self._held = source.contents()
        self._deposit = Deposit(target, Contents(), order.until)
        self._lock = Lock()
        self.objects = 0
        self.bytes = 0

    def run(self, snapshot: str) -> tuple[Damage, ...]:
        """Copy one; what the source lacks of it, where it could not be."""
        chunks = _chunks(self._source, snapshot)
        summary = summary_of(self._source, snapshot)
        target, grace = self._target, self._order.grace
        with RunningMark(target, summary.revision) as mark:
            refuse_beside_prune(target, mark, grace)
            self._deposit.contents = reliable(target, mark, self._order.until, grace)
            wrong = self._copy(chunks, mark)
            if wrong:
                return self._told(snapshot, wrong)
            check_before_commit(target, chunks, mark, grace)
            self._put(Stored(snapshot_key(snapshot, SUMMARY), encode_summary(summary)))
            key = snapshot_key(snapshot, SIGNATURE)
            if (signature := self._source.objects.find(key)) is not None:
                self._put(Stored(key, signature))
            body = self._source.manifest_body(snapshot)
            if self._deposit.commit(snapshot, body):
                self._count(body)
        return ()

    def _copy(
        self, chunks: Sequence[ChunkRef], mark: RunningMark
    ) -> dict[ChunkRef, tuple[str, str]]:
        """Copy chunks; of those that are lost or damaged, where they are and what is wrong."""
        wrong: dict[ChunkRef, tuple[str, str]] = {}
        places: list[tuple[ChunkRef, Place]] = []
        with pool_of(self._order.threads) as pool:
            shared = pool.map(self._deposit.shares, chunks)
            for chunk, is_there in zip(chunks, shared, strict=True):
                place = self._held.place(chunk)
                if place is not None and not is_there:
                    places.append((chunk, place))
                elif not is_there:
                    where = "its pack" if is_packed(chunk.plain_bytes) else "the store"
                    wrong[chunk] = ("", f"is not in {where}")

        def one(group: Sequence[tuple[ChunkRef, Place]]) -> None:
            found = read_frames(self._source, group)
            for made in self._made(found.right):
                self._put(made)
            for chunk, error in found.wrong.items():
                wrong[chunk] = (group[0][1].key, error.what)
            self._meter.add(done=sum(each.chunk.plain_bytes for each in found.right))
            mark.beat()

        in_threads(self._order.threads, (partial(one, group) for group in by_object(places)))
        return wrong

    def _made(self, frames: Sequence[RightFrame]) -> list[Stored]:
        if frames and not is_packed(frames[0].chunk.plain_bytes):
            return [as_object(each) for each in frames]
        return as_packs(self._target, frames)

    def _put(self, stored: Stored) -> None:
        if self._deposit.put(stored.key, stored.body):
            self._count(stored.body)

    def _count(self, body: bytes) -> None:
        with self._lock:
            self.objects += 1
            self.bytes += len(body)
        self._meter.add(moved=len(body))

    def _told(self, snapshot: str, wrong: dict[ChunkRef, tuple[str, str]]) -> tuple[Damage, ...]:
        manifest = decode(self._source.manifest_body(snapshot), snapshot=snapshot)
        damages = told_damages(manifest, wrong)
        note_verdict(self._source, snapshot, [each.key for each in damages])
        return damages
