"""Fetching chunks: several threads, each byte verified before its chunk counts."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from gpufleet.core.snapshots.frames import (
    HEADER_BYTES,
    DamagedChunk,
    Header,
    decode,
    hasher,
    read_header,
)
from gpufleet.core.snapshots.layout import is_packed
from gpufleet.flows.snapshots.store import Contents, Place, SnapshotStore
from gpufleet.flows.snapshots.threads import in_threads
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.snapshots import ChunkRef, Cipher, Codec

_ATTEMPTS: Final = 4
_PAUSE_S: Final = 0.2
_RUN_BYTES: Final = 16 * 2**20
_GAP_BYTES: Final = 256 * 2**10
"""Bytes between two wanted chunks of a pack that cost less than another request."""


class Sink(Protocol):
    """Where a chunk goes."""

    def write(self, chunk: ChunkRef, content: bytes | memoryview, offset: int) -> None:
        """Take bytes of a chunk, from an offset of it on; they are not verified yet."""

    def done(self, chunk: ChunkRef) -> None:
        """All bytes that were written last are the chunk's."""


class Missing(DamagedChunk):
    """The store has not what a manifest names."""


@dataclass
class Fetch:
    """Chunks on their way out of a store.

    Args:
        store: opened.
        contents: what it holds.
        sink: where they go.
        threads: requests at once.
        on_damage: told of a chunk that cannot be had; where it raises, the fetch ends.
    """

    store: SnapshotStore
    contents: Contents
    sink: Sink
    threads: int
    on_damage: Callable[[ChunkRef, str, DamagedChunk], None]
    bytes_fetched: int = field(default=0, init=False)

    def run(self, chunks: Iterable[ChunkRef]) -> None:
        """Fetch every chunk once.

        Raises:
            Retryable: the store does not answer.
        """
        work = (partial(self._fetch, run) for run in self._runs(chunks))
        self.bytes_fetched += sum(in_threads(self.threads, work))

    def _runs(self, chunks: Iterable[ChunkRef]) -> Iterator[Sequence[tuple[ChunkRef, Place]]]:
        """What one request fetches: a large chunk, or chunks that lie together in a pack."""
        packed: list[tuple[ChunkRef, Place]] = []
        for chunk in chunks:
            place = self.contents.place(chunk)
            if place is None:
                where = "its pack" if is_packed(chunk.plain_bytes) else "the store"
                error = Missing(f"is not in {where}", where=chunk.id)
                self.on_damage(chunk, "", error)
            elif place.stored_bytes is None:
                yield [(chunk, place)]
            else:
                packed.append((chunk, place))
        held: list[tuple[ChunkRef, Place]] = []
        for chunk, place in sorted(packed, key=lambda each: each[1][:2]):
            if held and not _joins(held, place):
                yield held
                held = []
            held.append((chunk, place))
        if held:
            yield held

    def _fetch(self, run: Sequence[tuple[ChunkRef, Place]]) -> int:
        if run[0][1].stored_bytes is None:
            [(chunk, place)] = run
            return self._whole(chunk, place)
        return self._packed(run)

    def _whole(self, chunk: ChunkRef, place: Place) -> int:
        """One chunk that is an object, written as it comes."""
        fetched = 0

        def attempt() -> None:
            nonlocal fetched
            stream = _Stream(chunk, self.store.key, self.sink)
            try:
                if not self.store.objects.stream(place.key, stream.take):
                    raise Missing("is not in the store", where=chunk.id)
            finally:
                fetched += stream.taken
            stream.finish()

        self._until_right(attempt, lambda: chunk, place.key)
        return fetched

    def _packed(self, run: Sequence[tuple[ChunkRef, Place]]) -> int:
        """Neighbours of one pack."""
        key, begin = run[0][1].key, run[0][1].offset_bytes
        end = max(place.offset_bytes + (place.stored_bytes or 0) for _, place in run)
        left = list(run)
        fetched = 0

        def attempt() -> None:
            nonlocal fetched
            body = bytearray()
            there = self.store.objects.stream(key, body.extend, offset=begin, length=end - begin)
            fetched += len(body)
            if not there:
                raise Missing("its pack is not in the store", where=key)
            while left:
                chunk, place = left[0]
                at = place.offset_bytes - begin
                frame = memoryview(body)[at : at + (place.stored_bytes or 0)]
                self.sink.write(chunk, decode(frame, chunk.id, key=self.store.key), 0)
                self.sink.done(chunk)
                left.pop(0)

        while left:
            if not self._until_right(attempt, lambda: left[0][0], key):
                left.pop(0)
        return fetched

    def _until_right(
        self, attempt: Callable[[], None], damaged: Callable[[], ChunkRef], key: str
    ) -> bool:
        """Try a few times: a body that was cut or changed on its way may come right.

        Args:
            attempt: raises where it does not.
            damaged: the chunk that it came to last.
            key: of the object.
        """
        for number in range(_ATTEMPTS):
            try:
                attempt()
            except (DamagedChunk, Retryable) as error:
                if number + 1 < _ATTEMPTS and not isinstance(error, Missing):
                    time.sleep(_PAUSE_S * number)
                    continue
                if not isinstance(error, DamagedChunk):
                    raise
                self.on_damage(damaged(), key, error)
                return False
            else:
                return True
        return False


class _Stream:
    """A frame as it comes: bytes that are stored as they are go on at once."""

    def __init__(self, chunk: ChunkRef, key: bytes | None, sink: Sink) -> None:
        self._chunk = chunk
        self._key = key
        self._sink = sink
        self._hash = hasher(key)
        self._head = bytearray()
        self._header: Header | None = None
        self._held = bytearray()
        self._offset = 0
        self.taken = 0

    def take(self, piece: bytes) -> None:
        self.taken += len(piece)
        view = memoryview(piece)
        if self._header is None:
            need = HEADER_BYTES - len(self._head)
            self._head += view[:need]
            view = view[need:]
            if len(self._head) < HEADER_BYTES:
                return
            self._header = read_header(self._head, where=self._chunk.id)
            if self._header.plain_bytes != self._chunk.plain_bytes:
                raise DamagedChunk("its length is not the manifest's", where=self._chunk.id)
            if not self._as_is(self._header):
                self._held += self._head
        if not view:
            return
        if not self._as_is(self._header):
            self._held += view
        elif self._offset + len(view) > self._chunk.plain_bytes:
            raise DamagedChunk("it is longer than it says", where=self._chunk.id)
        else:
            self._hash.update(view)
            self._sink.write(self._chunk, view, self._offset)
            self._offset += len(view)

    def finish(self) -> None:
        if self._header is None:
            raise DamagedChunk("it is no frame", where=self._chunk.id)
        if not self._as_is(self._header):
            plain = decode(self._held, self._chunk.id, key=self._key)
            self._sink.write(self._chunk, plain, 0)
        elif self._hash.hexdigest() != self._chunk.id:
            raise DamagedChunk("its bytes are not those that were stored", where=self._chunk.id)
        self._sink.done(self._chunk)

    @staticmethod
    def _as_is(header: Header) -> bool:
        return header.codec is Codec.PLAIN and header.cipher is Cipher.NONE


def stop_at_damage(chunk: ChunkRef, key: str, error: DamagedChunk) -> None:
    """What a restore does with a chunk that cannot be had."""
    raise LostChunk(chunk, key, error)


class LostChunk(Failed):
    """A chunk that a restore needs cannot be had.

    Args:
        chunk: it.
        key: of the object; empty where there is none.
        error: what is wrong.
    """

    def __init__(self, chunk: ChunkRef, key: str, error: DamagedChunk) -> None:
        super().__init__(
            f"the snapshot is damaged: {error.what}",
            where=key or f"chunk {chunk.id}",
            mend="`snapshot.verify` says what is lost, `snapshot.repair` brings it back",
        )
        self.chunk = chunk


def _joins(held: Sequence[tuple[ChunkRef, Place]], place: Place) -> bool:
    last, first = held[-1][1], held[0][1]
    end = last.offset_bytes + (last.stored_bytes or 0)
    return (
        last.key == place.key
        and place.offset_bytes - end <= _GAP_BYTES
        and place.offset_bytes + (place.stored_bytes or 0) - first.offset_bytes <= _RUN_BYTES
    )
