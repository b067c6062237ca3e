"""A snapshot store: what it holds, read and written through its bucket."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from gpufleet.core.snapshots.frames import (
    HEADER_BYTES,
    NONCE_BYTES,
    Bytes,
    Frame,
    chunk_id,
    encode,
)
from gpufleet.core.snapshots.layout import (
    CHUNKS,
    FORMAT_KEY,
    INDEXES,
    MANIFEST,
    PACKS,
    REMOVED,
    SNAPSHOTS,
    chunk_key,
    created_of,
    index_key,
    is_packed,
    is_snapshot_id,
    name_of,
    pack_key,
    snapshot_id,
    snapshot_key,
)
from gpufleet.core.snapshots.manifest import (
    check_key,
    decode_format,
    digest_of,
    encode_format,
    needs_of,
)
from gpufleet.core.snapshots.manifest import decode as decode_manifest
from gpufleet.core.snapshots.packing import decode_index
from gpufleet.core.snapshots.stored_json import parsed
from gpufleet.edges.snapshots.objects import SnapshotObjects
from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshots import ChunkRef, Manifest, Pack, PackedChunk, StoreFormat

THREADS: Final = max(4, min(2 * (os.cpu_count() or 1), 8))
"""Requests at once. Each holds a chunk, so that memory is bounded by this, not by the artifact.

More than two for each core get in each other's way: they hash and write besides waiting.
"""


_READS: Final = 4
"""Of a small object that is not right: it may have been bent on its way."""
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class BrokenIndex(BadInput):
    """An index that is not as it was written."""


class KeyOfStore(NamedTuple):
    """What chunks are named and encrypted with."""

    id: str
    """As `format.json` of the store says."""
    key: bytes
    """32 bytes."""


class Place(NamedTuple):
    """Where a chunk's frame lies."""

    key: str
    offset_bytes: int = 0
    stored_bytes: int | None = None
    """None for all of the object."""


@dataclass
class Contents:
    """What a store held when it was listed, and what was put since; shared by threads."""

    modified: dict[str, datetime] = field(default_factory=dict)
    """Of each object of chunks and packs, by key."""
    packed: dict[str, tuple[str, PackedChunk]] = field(default_factory=dict)
    """The key of its pack, for each small chunk."""
    stale: set[str] = field(default_factory=set)
    """Keys that a prune may be about to delete: they are stored again before they are relied on."""
    broken: list[str] = field(default_factory=list)
    """Keys of indexes that are not as they were written; what only they place counts as gone."""

    def place(self, chunk: ChunkRef) -> Place | None:
        """Where a chunk lies; None where it does not, or may soon not."""
        if not is_packed(chunk.plain_bytes):
            key = chunk_key(chunk.id)
            return Place(key) if key in self.modified and key not in self.stale else None
        found = self.packed.get(chunk.id)
        if found is None or found[0] not in self.modified or found[0] in self.stale:
            return None
        return Place(found[0], found[1].offset_bytes, found[1].stored_bytes)

    def add_packs(self, packs: Iterable[Pack]) -> None:
        """Note what lies in packs."""
        for pack in packs:
            key = pack_key(pack.id)
            for chunk in pack.chunks:
                held = self.packed.get(chunk.id)
                if held is None or self._written(key) > self._written(held[0]):
                    self.packed[chunk.id] = (key, chunk)

    def _written(self, key: str) -> datetime:
        """A chunk may lie in several packs: one is gone, or damaged and a newer one is its mend."""
        return self.modified.get(key, _NEVER)


class SnapshotStore:
    """A store whose format is known here.

    Args:
        objects: its bucket.
        key: that its chunks are named and encrypted with; None where the client does not.
    """

    def __init__(self, objects: SnapshotObjects, key: KeyOfStore | None = None) -> None:
        self.objects = objects
        self._key = key
        self.shown = objects.shown

    @property
    def key(self) -> bytes | None:
        """32 bytes, or None where the client does not encrypt."""
        return self._key.key if self._key else None

    @property
    def name(self) -> str:
        """Of what was read for it: chunks of another key have other names."""
        return f"{self.shown} {self._key_id or ''}"

    @property
    def _key_id(self) -> str | None:
        return self._key.id if self._key else None

    def exists(self) -> bool:
        """Whether there is a store, which is opened then.

        Raises:
            BadInput: it has a newer format, or another key.
        """
        if self.objects.find(FORMAT_KEY) is None:
            return False
        self.open()
        return True

    def key_id(self) -> str | None:
        """The ID of the key that the store's chunks are encrypted with; None where they are not.

        Raises:
            BadInput: there is no store, or it has a newer format.
        """
        content = self._until_right(FORMAT_KEY, _is_format)
        if content is None:
            raise self._no_store()
        return decode_format(content, where=f"{self.shown}/{FORMAT_KEY}").key

    def open(self, *, make: bool = False) -> None:
        """Read the store's format, or write it where there is none.

        Raises:
            BadInput: there is no store, it has a newer format, or another key.
        """
        content = self._until_right(FORMAT_KEY, _is_format)
        if content is None and make:
            self.objects.put_new(FORMAT_KEY, encode_format(StoreFormat(key=self._key_id)))
            content = self._until_right(FORMAT_KEY, _is_format)
        if content is None:
            raise self._no_store()
        self.check_format(content)

    def _no_store(self) -> BadInput:
        return BadInput(
            "there is no snapshot store",
            where=f"{self.shown}/{FORMAT_KEY}",
            mend="a first snapshot makes one",
        )

    def check_format(self, content: bytes) -> None:
        """See that the store can be read.

        Raises:
            BadInput: it has a newer format, or another key.
        """
        check_key(decode_format(content, where=f"{self.shown}/{FORMAT_KEY}"), self._key_id)

    def contents(self) -> Contents:
        """What the store holds, by one listing and its indexes."""
        held = Contents()
        indexes: list[str] = []

        def listed(prefix: str) -> None:
            for each in self.objects.objects(prefix):
                if name_of(each.key, prefix) is None:
                    continue
                if prefix == INDEXES:
                    indexes.append(each.key)
                else:
                    held.modified[each.key] = each.modified

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(listed, (CHUNKS, PACKS, INDEXES)))
            for key, packs in zip(indexes, pool.map(self._packs_or_none, indexes), strict=True):
                if packs is None:
                    held.broken.append(key)
                else:
                    held.add_packs(packs)
        return held

    def listed(self) -> list[str]:
        """The IDs of the snapshots that are there and not removed."""
        parts: dict[str, set[str]] = {}
        for each in self.objects.objects(SNAPSHOTS):
            snapshot, _, part = each.key.removeprefix(SNAPSHOTS).partition("/")
            parts.setdefault(snapshot, set()).add(part)
        return [
            snapshot
            for snapshot, found in parts.items()
            if is_snapshot_id(snapshot) and MANIFEST in found and REMOVED not in found
        ]

    def manifest_body(self, snapshot: str) -> bytes:
        """A manifest as it is stored.

        Raises:
            BadInput: no ID of a snapshot, or no such snapshot.
        """
        created = created_of(snapshot)

        def is_right(body: bytes) -> bool:
            return snapshot_id(created, digest_of(body)) == snapshot

        body = self._until_right(snapshot_key(snapshot, MANIFEST), is_right)
        if body is None:
            raise BadInput(
                f"there is no snapshot `{snapshot}`",
                where=self.shown,
                mend="`snapshot.list` shows those that are there",
            )
        return body

    def named(self, contents: Contents) -> set[str]:
        """Keys of chunks and packs that a snapshot names which is not removed."""

        def needed(snapshot: str) -> dict[str, int]:
            body = self.objects.find(snapshot_key(snapshot, MANIFEST))
            return {} if body is None else needs_of(body, snapshot=snapshot)

        keys: set[str] = set()
        with ThreadPoolExecutor(THREADS) as pool:
            for chunks in pool.map(needed, self.listed()):
                places = map(contents.place, map(ChunkRef._make, chunks.items()))
                keys.update(place.key for place in places if place is not None)
        return keys

    def packs_of(self, index: str) -> tuple[Pack, ...]:
        """What an index says; nothing where a prune has just removed it.

        Raises:
            BrokenIndex: it is not as it was written.
            BadInput: it is of a newer format.
        """
        where = f"{self.shown}/{index}"

        def is_right(body: bytes) -> bool:
            return index_key(digest_of(body)) == index

        content = self._until_right(index, is_right)
        if content is None:
            return ()
        if not is_right(content):
            raise BrokenIndex(
                "the index is not as it was written",
                where=where,
                mend="`snapshot.repair` brings it back",
            )
        return decode_index(content, where=where)

    def _packs_or_none(self, index: str) -> tuple[Pack, ...] | None:
        try:
            return self.packs_of(index)
        except BrokenIndex:
            return None

    def _until_right(self, key: str, is_right: Callable[[bytes], bool]) -> bytes | None:
        """A small object, read a few times where it is not right; as it came last."""
        body = None
        for _ in range(_READS):
            body = self.objects.find(key)
            if body is None or is_right(body):
                break
        return body

    def facts(self, key: str) -> dict[str, Any] | None:
        """What a small object of JSON says; None where it is not there.

        Raises:
            BadInput: it is not as it was written.
        """
        body = self._until_right(key, is_json)
        return None if body is None else parsed(body, "object", f"{self.shown}/{key}")

    def name_chunk(self, plain: Bytes) -> str:
        """The ID of a chunk."""
        return chunk_id(plain, self.key)

    def framed(self, buffer: bytearray, chunk: str) -> Frame:
        """The frame of a chunk that lies in a buffer behind the room for its header."""
        nonce = os.urandom(NONCE_BYTES) if self._key else b""
        return encode(memoryview(buffer)[HEADER_BYTES:], chunk, key=self.key, nonce=nonce)


def is_json(body: bytes) -> bool:
    """Whether this is a JSON object."""
    try:
        parsed(body, "", "")
    except BadInput:
        return False
    return True


def _is_format(body: bytes) -> bool:
    try:
        decode_format(body)
    except BadInput:
        return False
    return True


def manifest_of(store: SnapshotStore, snapshot: str) -> Manifest:
    """What a snapshot holds.

    Raises:
        BadInput: no ID of a snapshot, no such snapshot, or its manifest was changed.
    """
    created_of(snapshot)
    store.open()
    return decode_manifest(store.manifest_body(snapshot), snapshot=snapshot)


def one_body(buffer: bytearray, frame: Frame) -> bytes | bytearray:
    """A frame as one body: the buffer itself where its bytes are stored as they are."""
    if isinstance(frame.body, memoryview) and frame.body.obj is buffer:
        buffer[:HEADER_BYTES] = frame.header
        return buffer
    return frame.header + frame.body
