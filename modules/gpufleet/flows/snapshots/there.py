"""Chunks of a restore that are there already: they are verified, and need not be fetched."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from threading import Lock, local
from typing import NamedTuple

from gpufleet.core.snapshots.cuts import cuts
from gpufleet.edges.snapshots.source import OpenSource, scan
from gpufleet.edges.snapshots.target import OpenTarget
from gpufleet.flows.snapshots.meter import Meter
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.spec.errors import FleetError
from gpufleet.spec.snapshots import PIECE_BYTES, ChunkRef


class Spot(NamedTuple):
    """Where a chunk goes."""

    file: OpenTarget
    offset_bytes: int


class Files:
    """Writes chunks into every file that has them.

    Args:
        spots: the places of each chunk.
        meter: told of each.
    """

    def __init__(self, spots: Mapping[str, Sequence[Spot]], meter: Meter) -> None:
        self._spots = spots
        self._meter = meter

    def spots(self, chunk: ChunkRef) -> Sequence[Spot]:
        """Where a chunk goes."""
        return self._spots[chunk.id]

    def write(self, chunk: ChunkRef, content: bytes | memoryview, offset: int) -> None:
        """Write a part of a chunk."""
        for spot in self.spots(chunk):
            spot.file.write(content, spot.offset_bytes + offset)

    def done(self, chunk: ChunkRef) -> None:
        """Count a chunk that was fetched and is in its places."""
        self.finish(chunk, moved=chunk.plain_bytes)

    def finish(self, chunk: ChunkRef, *, moved: int = 0) -> None:
        """Count a chunk that is in its places."""
        spots = self.spots(chunk)
        for spot in spots:
            spot.file.started(spot.offset_bytes, chunk.plain_bytes)
            spot.file.done()
        self._meter.add(done=chunk.plain_bytes * len(spots), moved=moved)


class Buffers:
    """Room for a chunk, one for each thread: to clear a new one takes as long as to hash it."""

    def __init__(self) -> None:
        self._local = local()

    def mine(self) -> memoryview:
        """This thread's."""
        if not hasattr(self._local, "view"):
            self._local.view = memoryview(bytearray(PIECE_BYTES))
        view: memoryview = self._local.view
        return view


class There:
    """Takes what is there out of what is left to fetch.

    Args:
        store: names chunks.
        sink: where they go.
        left: chunks that are to be had; those that are found are taken out.
        pool: works on several at once.
    """

    def __init__(
        self, store: SnapshotStore, sink: Files, left: dict[ChunkRef, None], pool: Executor
    ) -> None:
        self._store = store
        self._sink = sink
        self._left = left
        self._pool = pool
        self.taken_bytes = 0

    def take_right(self) -> None:
        """Take chunks that are in all their places."""
        chunks = list(self._left)
        for chunk, is_there in zip(chunks, self._pool.map(self._is_there, chunks), strict=True):
            if is_there:
                self._sink.finish(chunk)
                self._take(chunk)

    def take_old(self, folder: Path, new: Sequence[OpenTarget]) -> None:
        """Take chunks of the tree that is replaced.

        A file that keeps its path and length keeps most chunks in their places: it is copied whole,
        by the kernel, then compared. In all others a chunk may be anywhere.

        Args:
            folder: the tree.
            new: files to which nothing was written yet.
        """
        seeded = self._pool.map(lambda file: file.seed(folder / file.file.path), new)
        same = {file.file.path for file, found in zip(new, seeded, strict=True) if found}
        if same:
            self.take_right()
        if not self._left:
            return
        old = _Old(self._store, folder, self._sink, self._left, without=same)
        try:
            for copied in self._pool.map(old.copy, old.parts()):
                if copied is not None:
                    self._take(copied)
        finally:
            old.close()

    def _take(self, chunk: ChunkRef) -> None:
        del self._left[chunk]
        self.taken_bytes += chunk.plain_bytes

    def _is_there(self, chunk: ChunkRef) -> bool:
        return all(
            len(held := spot.file.read(chunk.plain_bytes, spot.offset_bytes)) == chunk.plain_bytes
            and self._store.name_chunk(held) == chunk.id
            for spot in self._sink.spots(chunk)
        )


class _Old:
    """The tree that is replaced, as a source of chunks that lie elsewhere in the new one.

    Args:
        store: names them.
        folder: the tree.
        sink: where they go.
        wanted: chunks that are.
        without: files that were looked at already.
    """

    def __init__(
        self,
        store: SnapshotStore,
        folder: Path,
        sink: Files,
        wanted: Mapping[ChunkRef, None],
        *,
        without: Collection[str],
    ) -> None:
        self._store = store
        self._sink = sink
        self._wanted = frozenset(wanted)
        self._lengths = {chunk.plain_bytes for chunk in wanted}
        self._taken: set[ChunkRef] = set()
        self._lock = Lock()
        self._buffers = Buffers()
        self._sources = self._found(folder, without)

    @staticmethod
    def _found(folder: Path, without: Collection[str]) -> list[OpenSource]:
        try:
            tree = scan(folder)
        except FleetError:
            return []
        return [OpenSource(tree.root, file) for file in tree.files if file.path not in without]

    def parts(self) -> Iterator[tuple[OpenSource, int, int]]:
        """Offset and length of what may be a chunk that is wanted."""
        for source in self._sources:
            file = source.file
            try:
                found = cuts(file.path, file.identity.size_bytes, source.read)
            except FleetError:
                # It is not what it was; the store has what it was.
                continue
            fitting = [each for each in found if each.plain_bytes in self._lengths]
            source.expect(len(fitting))
            for each in fitting:
                yield source, each.offset_bytes, each.plain_bytes

    def copy(self, part: tuple[OpenSource, int, int]) -> ChunkRef | None:
        """Put a part into its new places if it is a chunk that is wanted still; that chunk."""
        source, offset, length = part
        view = self._buffers.mine()[:length]
        try:
            source.read_into(view, offset)
            source.done()
        except FleetError:
            return None
        chunk = ChunkRef(self._store.name_chunk(view), length)
        with self._lock:
            if chunk not in self._wanted or chunk in self._taken:
                return None
            self._taken.add(chunk)
        self._sink.write(chunk, view, 0)
        self._sink.finish(chunk)
        return chunk

    def close(self) -> None:
        for source in self._sources:
            source.close()
