"""Bringing back what a store has lost of a snapshot: from older versions, else from a replica.

Object Lock keeps the versions below whatever was put or deleted over them. A small chunk whose pack
is damaged is stored in a new pack: the newest one that has a chunk is read.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final

from gpufleet.core.snapshots.layout import (
    FORMAT_KEY,
    INDEXES,
    MANIFEST,
    REMOVED,
    SIGNATURE,
    SUMMARY,
    chunk_key,
    created_of,
    index_key,
    is_packed,
    name_of,
    snapshot_id,
    snapshot_key,
)
from gpufleet.core.snapshots.manifest import (
    chunks_of,
    decode,
    decode_summary,
    digest_of,
    encode_summary,
    summarize,
)
from gpufleet.core.snapshots.packing import decode_index
from gpufleet.edges.object_client import NothingThereError
from gpufleet.flows.snapshots.deposit import refuse_beside_prune
from gpufleet.flows.snapshots.mark import RunningMark
from gpufleet.flows.snapshots.mending import BENT, GONE, OLDER, Mending
from gpufleet.flows.snapshots.meter import Meter, OnProgress
from gpufleet.flows.snapshots.right_frames import (
    Frames,
    Stored,
    as_object,
    as_packs,
    by_object,
    read_frames,
)
from gpufleet.flows.snapshots.store import Contents, Place, SnapshotStore, is_json
from gpufleet.flows.snapshots.verify import note_verdict, read_back, told_damages
from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshot_copies import RepairReport
from gpufleet.spec.snapshots import ChunkRef, Damage, Grace, Manifest, Pack

Wrong = dict[ChunkRef, tuple[str, str]]
"""For each chunk the key of its object, where there is one, and what is wrong."""
_REBUILT: Final = "its manifest"


@dataclass(frozen=True)
class RepairOrder:
    """What is repaired."""

    snapshot: str
    apply: bool
    until: datetime | None = None
    """What is brought back is locked until then; None on a plain bucket."""
    grace: Grace = field(default_factory=Grace)
    """That every prune of the store keeps to."""


def repair(
    store: SnapshotStore,
    others: Sequence[tuple[str, SnapshotStore]],
    order: RepairOrder,
    on_progress: OnProgress,
) -> RepairReport:
    """Read a snapshot back, and bring back what is lost or damaged; that is read again then.

    Args:
        store: where the snapshot is.
        others: the stores of other sites, by how they are told to people.
        order: what; without `apply` nothing is changed.
        on_progress: told a few times a second.

    Raises:
        BadInput: there is no such snapshot or bucket, or a prune has removed it.
        Retryable: the store does not answer, or a prune runs and the bucket keeps no versions.
    """
    meter = Meter(order.snapshot, "reading", on_progress)
    created_of(order.snapshot)
    if store.objects.find(snapshot_key(order.snapshot, REMOVED)) is not None:
        raise BadInput("a prune has removed it", where=order.snapshot)
    try:
        mending = Mending(store, others, until=order.until, apply=order.apply)
    except NothingThereError:
        raise BadInput(
            "the whole bucket is gone",
            where=store.shown,
            mend="`snapshot.replicate --to SITE` brings every snapshot back from another site",
        ) from None
    _bring_format(mending)
    with ExitStack() as done:
        if order.apply:
            mark = done.enter_context(RunningMark(store, order.snapshot))
            refuse_beside_prune(store, mark, order.grace)
        body = _brought_manifest(mending, order.snapshot)
        if body is None:
            chunks = 0
            lost: tuple[Damage, ...] = (Damage(snapshot_key(order.snapshot, MANIFEST), GONE),)
        else:
            manifest = decode(body, snapshot=order.snapshot)
            _bring_summary(mending, manifest, body)
            chunks, lost = _repaired(mending, manifest, order, meter)
    if order.apply:
        note_verdict(store, order.snapshot, [each.key for each in lost])
    meter.finish()
    return RepairReport(
        snapshot=order.snapshot,
        chunks=chunks,
        mends=tuple(mending.mends),
        lost=lost,
        silent=tuple(mending.silent),
        bytes_put=mending.bytes_put,
        seconds=meter.elapsed_s,
    )


def _bring_format(mending: Mending) -> None:
    body = mending.right(FORMAT_KEY, is_json)
    if body is None:
        # There is no store.
        mending.store.open()
    else:
        # One of a newer format, or with another key, is not touched.
        mending.store.check_format(body)


def _brought_manifest(mending: Mending, snapshot: str) -> bytes | None:
    created, key = created_of(snapshot), snapshot_key(snapshot, MANIFEST)

    def is_right(body: bytes) -> bool:
        return snapshot_id(created, digest_of(body)) == snapshot

    def is_damaged() -> None:
        # With its manifest it lists, and a repair that ends here has not read its chunks.
        note_verdict(mending.store, snapshot, [key])

    body = mending.right(key, is_right, first=is_damaged)
    if body is None and mending.store.objects.find(snapshot_key(snapshot, SUMMARY)) is None:
        # It never was.
        mending.store.manifest_body(snapshot)
    return body


def _bring_summary(mending: Mending, manifest: Manifest, body: bytes) -> None:
    snapshot = snapshot_id(manifest.created, digest_of(body))

    def is_right(content: bytes) -> bool:
        try:
            return decode_summary(content, snapshot=snapshot).manifest_blake3 == digest_of(body)
        except BadInput:
            return False

    key = snapshot_key(snapshot, SUMMARY)
    signature = mending.right(snapshot_key(snapshot, SIGNATURE), bool)
    if mending.right(key, is_right) is None:
        # What the take added to the store nobody knows any more.
        made = summarize(manifest, body, stored_bytes=0, signed=signature is not None)
        mending.put(Stored(key, encode_summary(made)), BENT, _REBUILT)


def _repaired(
    mending: Mending, manifest: Manifest, order: RepairOrder, meter: Meter
) -> tuple[int, tuple[Damage, ...]]:
    """How many chunks the snapshot needs, and what of them is lost."""
    store = mending.store
    chunks = sorted(map(ChunkRef._make, chunks_of(manifest).items()))
    brought, worthless = _brought_indexes(mending, chunks)
    held = store.contents()
    held.add_packs(brought)
    meter.total_bytes = sum(chunk.plain_bytes for chunk in chunks)
    wrong, _ = read_back(store, held, chunks, meter)
    left = _brought_chunks(mending, held, wrong)
    mended = [chunk for chunk in wrong if chunk not in left]
    for key in worthless:
        mending.leave_out(key, BENT)
    if order.apply and mended:
        left |= read_back(store, store.contents(), mended, meter)[0]
    return len(chunks), told_damages(manifest, left)


def _brought_indexes(mending: Mending, chunks: Iterable[ChunkRef]) -> tuple[list[Pack], list[str]]:
    """What the indexes say that were brought back, and the keys of those that nobody has."""
    objects = mending.store.objects
    wanted = {chunk.id for chunk in chunks if is_packed(chunk.plain_bytes)}
    listed = {each.key for each in objects.objects(INDEXES)}
    brought: list[Pack] = []
    worthless: list[str] = []

    def is_right_for(key: str, body: bytes) -> bool:
        if index_key(digest_of(body)) != key:
            return False
        # One that was hidden is needed only where it places something.
        packs = decode_index(body)
        return key in listed or any(one.id in wanted for pack in packs for one in pack.chunks)

    versions = objects.objects(INDEXES, versions=objects.keeps_versions())
    for key in sorted({each.key for each in versions if name_of(each.key, INDEXES)}):
        before = len(mending.mends)
        body = mending.right(key, partial(is_right_for, key))
        if body is None and key in listed:
            worthless.append(key)
        elif body is not None and len(mending.mends) > before:
            brought += decode_index(body)
    return brought, worthless


def _brought_chunks(mending: Mending, held: Contents, wrong: Wrong) -> Wrong:
    """Bring chunks back, object by object; those that nobody has."""
    left = dict(wrong)
    for group in by_object(_places(held, wrong)):
        for version in mending.older(group[0][1].key):
            open_ = [each for each in group if each[0] in left or each[0] not in wrong]
            if any(each[0] in left for each in open_):
                found = read_frames(mending.store, open_, version)
                _put(mending, found, wrong, left, OLDER)
    for replica in mending.replicas() if left else ():
        places = [(each, replica.contents.place(each)) for each in left]
        for group in by_object([(chunk, place) for chunk, place in places if place is not None]):
            _put(mending, read_frames(replica.store, group), wrong, left, replica.shown)
    return left


def _places(held: Contents, wrong: Wrong) -> list[tuple[ChunkRef, Place]]:
    """Where damaged chunks lie or lay; with them everything else that a lost pack had."""
    found = {chunk: _lay(held, chunk) for chunk in wrong}
    lost = {place.key for place in found.values() if place is not None} - held.modified.keys()
    for chunk, (key, packed) in held.packed.items():
        if key in lost:
            one = ChunkRef(chunk, packed.plain_bytes)
            found[one] = Place(key, packed.offset_bytes, packed.stored_bytes)
    return [(chunk, place) for chunk, place in found.items() if place is not None]


def _lay(held: Contents, chunk: ChunkRef) -> Place | None:
    if not is_packed(chunk.plain_bytes):
        return Place(chunk_key(chunk.id))
    if chunk.id not in held.packed:
        return None
    key, packed = held.packed[chunk.id]
    return Place(key, packed.offset_bytes, packed.stored_bytes)


def _put(mending: Mending, found: Frames, wrong: Wrong, left: Wrong, source: str) -> None:
    """Put frames that are right; what was wrong is told of the object, and no longer left."""
    if not found.right:
        return
    packed = is_packed(found.right[0].chunk.plain_bytes)
    made = as_packs(mending.store, found.right) if packed else map(as_object, found.right)
    for each in made:
        what = next((wrong[chunk][1] for chunk in each.chunks if chunk in wrong), "")
        mending.put(each, what or "places what is brought back", source)
    for frame in found.right:
        left.pop(frame.chunk, None)
