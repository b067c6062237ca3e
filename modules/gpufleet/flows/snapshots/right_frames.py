"""Frames as the store holds them, verified by their chunks' digests, to be stored elsewhere."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, NamedTuple

from gpufleet.core.snapshots.frames import HEADER_BYTES, Bytes, DamagedChunk, Frame, decode
from gpufleet.core.snapshots.layout import chunk_key, index_key, pack_key
from gpufleet.core.snapshots.packing import PackBuilder, encode_index
from gpufleet.edges.snapshots.objects import BrokenBody
from gpufleet.flows.snapshots.fetch import Missing
from gpufleet.flows.snapshots.store import Place, SnapshotStore
from gpufleet.spec.snapshots import ChunkRef

_ATTEMPTS: Final = 4
_PAUSE_S: Final = 0.2


class RightFrame(NamedTuple):
    """A frame whose bytes are those of its chunk."""

    chunk: ChunkRef
    frame: bytes
    plain: Bytes


class Stored(NamedTuple):
    """An object that is to be put, and the chunks in it."""

    key: str
    body: bytes
    chunks: tuple[ChunkRef, ...] = ()


@dataclass
class Frames:
    """What reading some frames came to."""

    right: list[RightFrame] = field(default_factory=list)
    wrong: dict[ChunkRef, DamagedChunk] = field(default_factory=dict)


def read_frames(
    store: SnapshotStore, wanted: Sequence[tuple[ChunkRef, Place]], version: str | None = None
) -> Frames:
    """Read frames of one object, a few times where they come damaged.

    Args:
        store: opened.
        wanted: chunks of one object, and where they lie in it.
        version: of the object; None for the newest one.

    Raises:
        Retryable: the store does not answer.
    """
    found = Frames()
    left = list(wanted)
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE_S * attempt)
        try:
            begin, body = _read(store, [place for _, place in left], version)
        except BrokenBody:
            if attempt + 1 == _ATTEMPTS:
                raise
            continue
        found.wrong = {}
        for chunk, place in left:
            try:
                found.right.append(_verified(store, chunk, place, begin, body))
            except DamagedChunk as error:
                found.wrong[chunk] = error
        left = [each for each in left if each[0] in found.wrong]
        if not left or body is None:
            break
    return found


def _read(
    store: SnapshotStore, places: Sequence[Place], version: str | None
) -> tuple[int, memoryview | None]:
    """The bytes of an object that hold these frames, and where they begin; None where it is not."""
    body = bytearray()
    key = places[0].key
    if places[0].stored_bytes is None:
        there = store.objects.stream(key, body.extend, version=version)
        return 0, memoryview(body) if there else None
    begin = min(each.offset_bytes for each in places)
    end = max(each.offset_bytes + (each.stored_bytes or 0) for each in places)
    there = store.objects.stream(
        key, body.extend, offset=begin, length=end - begin, version=version
    )
    return begin, memoryview(body) if there else None


def _verified(
    store: SnapshotStore, chunk: ChunkRef, place: Place, begin: int, body: memoryview | None
) -> RightFrame:
    if body is None:
        raise Missing("is not in the store", where=place.key)
    at = place.offset_bytes - begin
    frame = body[at:] if place.stored_bytes is None else body[at : at + place.stored_bytes]
    plain = decode(frame, chunk.id, key=store.key)
    if len(plain) != chunk.plain_bytes:
        raise DamagedChunk("its length is not the manifest's", where=chunk.id)
    return RightFrame(chunk, bytes(frame), plain)


def by_object(
    places: Iterable[tuple[ChunkRef, Place]],
) -> list[list[tuple[ChunkRef, Place]]]:
    """Chunks that lie in one object together, in the order of their frames."""
    ordered = sorted(places, key=lambda each: each[1][:2])
    return [list(group) for _, group in groupby(ordered, key=lambda each: each[1].key)]


def as_object(frame: RightFrame) -> Stored:
    """A chunk that is an object of its own."""
    return Stored(chunk_key(frame.chunk.id), frame.frame, (frame.chunk,))


def as_packs(store: SnapshotStore, frames: Sequence[RightFrame]) -> list[Stored]:
    """Small chunks as packs, each before its index.

    What was a whole pack is the same one again, under its name.
    """
    builder = PackBuilder(store.key)
    full = [
        builder.add(
            each.chunk.id, each.plain, Frame(each.frame[:HEADER_BYTES], each.frame[HEADER_BYTES:])
        )
        for each in frames
    ]
    made: list[Stored] = []
    lengths = {each.chunk.id: each.chunk for each in frames}
    for built in (*full, builder.finish()):
        if built is not None:
            pack, body = built
            name, index = encode_index([pack])
            chunks = tuple(lengths[each.id] for each in pack.chunks)
            made += [Stored(pack_key(pack.id), body, chunks), Stored(index_key(name), index)]
    return made
