"""Reading a source and storing what the store has not: several threads, one chunk in each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Final, NamedTuple

from gpufleet.core.snapshots.cuts import Cut, cuts
from gpufleet.core.snapshots.frames import HEADER_BYTES
from gpufleet.core.snapshots.layout import chunk_key, index_key, is_packed, pack_key
from gpufleet.core.snapshots.packing import PackBuilder, encode_index
from gpufleet.edges.snapshots.read_table import ReadPart, ReadTable
from gpufleet.edges.snapshots.source import OpenSource, SourceTree
from gpufleet.flows.snapshots.deposit import Deposit
from gpufleet.flows.snapshots.mark import RunningMark
from gpufleet.flows.snapshots.meter import Meter
from gpufleet.flows.snapshots.store import one_body
from gpufleet.flows.snapshots.threads import in_threads
from gpufleet.spec.snapshots import ChunkRef, Pack

_BATCH_BYTES: Final = 4 * 2**20
_BATCH_PARTS: Final = 64


class Part(NamedTuple):
    """A chunk's place in the source, and the chunk where an earlier take has read it."""

    source: OpenSource
    cut: Cut
    known: str | None


@dataclass
class Tally:
    """What an upload came to so far."""

    bytes_read: int = 0
    bytes_stored: int = 0
    chunks: int = 0
    chunks_new: int = 0


@dataclass(frozen=True)
class UploadSettings:
    """How a source is read and stored."""

    threads: int
    reread: bool = False
    """Read everything, whatever was read before."""


@dataclass
class Upload:
    """One source on its way into a store.

    Args:
        deposit: into the store.
        table: of what was read before.
        settings: how.
        meter: told after each chunk.
        mark: of the take; it beats after each chunk.
    """

    deposit: Deposit
    table: ReadTable
    settings: UploadSettings
    meter: Meter
    mark: RunningMark
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.store = self.deposit.store
        self._lock = Lock()
        self._pack_lock = Lock()
        self._pack = PackBuilder(self.store.key)
        self._in_pack: list[ReadPart] = []
        self._claimed: set[str] = set()
        self._ids: dict[tuple[str, Cut], str] = {}

    def run(self, tree: SourceTree) -> Mapping[str, tuple[ChunkRef, ...]]:
        """Store all of a tree's files.

        Returns:
            The chunks of each file, by its path.

        Raises:
            BadInput: a header lies.
            Retryable: the source changed or cannot be read, or the store does not answer.
        """
        sources: list[OpenSource] = []
        try:
            plan = list(self._planned(tree, sources))
            batches = _batches(part for _, parts in plan for part in parts)
            in_threads(self.settings.threads, (partial(self._store, each) for each in batches))
            if (full := self._pack.finish()) is not None:
                self._put_pack(*full, self._in_pack)
            for source in sources:
                source.check()
        finally:
            for source in sources:
                source.close()
        return {
            path: tuple(ChunkRef(self._ids[path, part.cut], part.cut.plain_bytes) for part in parts)
            for path, parts in plan
        }

    def _planned(
        self, tree: SourceTree, sources: list[OpenSource]
    ) -> Iterator[tuple[str, list[Part]]]:
        for file in tree.files:
            source = OpenSource(tree.root, file)
            sources.append(source)
            found = cuts(file.path, file.identity.size_bytes, source.read)
            source.expect(len(found))
            before = {} if self.settings.reread else self.table.known(source.path, file.identity)
            yield file.path, [Part(source, cut, before.get(cut)) for cut in found]

    def _store(self, batch: Sequence[Part]) -> None:
        for part in batch:
            self._store_one(part)
            self.mark.beat()

    def _store_one(self, part: Part) -> None:
        size = part.cut.plain_bytes
        if part.known is not None and self.deposit.shares(ChunkRef(part.known, size)):
            part.source.done()
            self._count(part, part.known, read=0, stored=0)
            return
        buffer = bytearray(HEADER_BYTES + size)
        with memoryview(buffer) as view:
            part.source.read_into(view[HEADER_BYTES:], part.cut.offset_bytes)
            part.source.done()
            chunk = ChunkRef(self.store.name_chunk(view[HEADER_BYTES:]), size)
        if self._claim(chunk.id) or self.deposit.shares(chunk):
            self._count(part, chunk.id, read=size, stored=0)
            self.table.keep([_read_part(part, chunk)])
        elif is_packed(size):
            self._add_to_pack(buffer, chunk, part)
        else:
            frame = self.store.framed(buffer, chunk.id)
            self.deposit.put(chunk_key(chunk.id), one_body(buffer, frame))
            self._count(part, chunk.id, read=size, stored=frame.stored_bytes)
            self.table.keep([_read_part(part, chunk)])

    def _claim(self, chunk: str) -> bool:
        """Whether another part of this source is the same chunk and stores it."""
        with self._lock:
            if chunk in self._claimed:
                return True
            self._claimed.add(chunk)
            return False

    def _add_to_pack(self, buffer: bytearray, chunk: ChunkRef, part: Part) -> None:
        frame = self.store.framed(buffer, chunk.id)
        with self._pack_lock:
            full = self._pack.add(chunk.id, memoryview(buffer)[HEADER_BYTES:], frame)
            within, self._in_pack = self._in_pack, [] if full else self._in_pack
            self._in_pack.append(_read_part(part, chunk))
        self._count(part, chunk.id, read=chunk.plain_bytes, stored=frame.stored_bytes)
        if full is not None:
            self._put_pack(*full, within)

    def _put_pack(self, pack: Pack, body: bytes, within: Sequence[ReadPart]) -> None:
        """Store a pack, then its index: an interrupted take finds it again."""
        self.deposit.put(pack_key(pack.id), body)
        name, index = encode_index([pack])
        self.deposit.put(index_key(name), index)
        self.table.keep(within)

    def _count(self, part: Part, chunk: str, *, read: int, stored: int) -> None:
        with self._lock:
            self._ids[part.source.file.path, part.cut] = chunk
            self.tally.bytes_read += read
            self.tally.bytes_stored += stored
            self.tally.chunks += 1
            self.tally.chunks_new += stored > 0
        self.meter.add(done=part.cut.plain_bytes, moved=stored)


def _read_part(part: Part, chunk: ChunkRef) -> ReadPart:
    source = part.source
    return ReadPart(source.path, source.file.identity, *part.cut, chunk.id)


def _batches(parts: Iterable[Part]) -> Iterator[Sequence[Part]]:
    """Parts that one thread takes together: a large one alone, small ones up to 4 MiB."""
    held: list[Part] = []
    size = 0
    for part in parts:
        if held and (size + part.cut.plain_bytes > _BATCH_BYTES or len(held) >= _BATCH_PARTS):
            yield held
            held, size = [], 0
        held.append(part)
        size += part.cut.plain_bytes
    if held:
        yield held
