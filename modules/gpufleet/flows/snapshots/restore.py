"""Restoring a snapshot: whole or one file, from the store and from what is there already."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from gpufleet.core.snapshots.cuts import cuts
from gpufleet.edges.snapshots.source import OpenSource, scan
from gpufleet.edges.snapshots.target import OpenTarget, Target, TargetFile
from gpufleet.flows.snapshots.fetch import Fetch, stop_at_damage
from gpufleet.flows.snapshots.meter import Meter, OnProgress
from gpufleet.flows.snapshots.store import THREADS, SnapshotStore, manifest_of
from gpufleet.spec.errors import BadInput, FleetError
from gpufleet.spec.snapshots import ChunkRef, FileEntry, Manifest, RestoreReport


@dataclass(frozen=True)
class RestoreOrder:
    """What is restored, and where to."""

    snapshot: str
    to: Path
    only: str = ""
    """One file of the snapshot, or all below one folder; empty for the whole."""
    reuse: bool = True
    """Take chunks from the tree that is replaced, where it has them."""
    threads: int = THREADS


class _Spot(NamedTuple):
    """Where a chunk goes."""

    file: OpenTarget
    offset_bytes: int


class _Files:
    """Writes chunks into every file that has them."""

    def __init__(self, spots: Mapping[str, Sequence[_Spot]], meter: Meter) -> None:
        self._spots = spots
        self._meter = meter

    def write(self, chunk: ChunkRef, content: bytes | memoryview, offset: int) -> None:
        for spot in self._spots[chunk.id]:
            spot.file.write(content, spot.offset_bytes + offset)

    def done(self, chunk: ChunkRef) -> None:
        self.finish(chunk, moved=chunk.plain_bytes)

    def finish(self, chunk: ChunkRef, *, moved: int = 0) -> None:
        """Count a chunk that is in its places."""
        for spot in self._spots[chunk.id]:
            spot.file.started(spot.offset_bytes, chunk.plain_bytes)
            spot.file.done()
            self._meter.add(done=chunk.plain_bytes)
        self._meter.add(moved=moved)


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
    spots: dict[str, list[_Spot]] = defaultdict(list)
    for file, entry in zip(opened, manifest.files, strict=True):
        offset = 0
        for chunk in entry.chunks:
            spots[chunk.id].append(_Spot(file, offset))
            offset += chunk.plain_bytes
        if not entry.chunks:
            file.finish()
    sink = _Files(spots, meter)
    left = dict.fromkeys(chunk for entry in manifest.files for chunk in entry.chunks)
    local = 0
    with ThreadPoolExecutor(order.threads, thread_name_prefix="snapshot") as pool:
        if target.resumes:
            there = pool.map(lambda chunk: (chunk, _is_there(store, chunk, spots[chunk.id])), left)
            for chunk in [chunk for chunk, found in there if found]:
                sink.finish(chunk)
                del left[chunk]
                local += chunk.plain_bytes
        if order.reuse and left and target.folder.is_dir():
            old = _Old(store, target.folder, sink, left)
            for copied in pool.map(old.copy, old.parts()):
                if copied is not None:
                    del left[copied]
                    local += copied.plain_bytes
            old.close()
    fetch = Fetch(store, store.contents(), sink, order.threads, stop_at_damage)
    fetch.run(left)
    return _Filled(fetch.bytes_fetched, local)


def _is_there(store: SnapshotStore, chunk: ChunkRef, spots: Sequence[_Spot]) -> bool:
    """Whether an interrupted restore has put a chunk into all its places."""
    return all(
        len(held := spot.file.read(chunk.plain_bytes, spot.offset_bytes)) == chunk.plain_bytes
        and store.name_chunk(held) == chunk.id
        for spot in spots
    )


class _Old:
    """The tree that is replaced, as a source of chunks."""

    def __init__(
        self, store: SnapshotStore, folder: Path, sink: _Files, wanted: Mapping[ChunkRef, None]
    ) -> None:
        self._store = store
        self._sink = sink
        self._wanted = frozenset(wanted)
        self._lengths = {chunk.plain_bytes for chunk in wanted}
        self._taken: set[ChunkRef] = set()
        self._lock = Lock()
        self._sources = self._found(folder)

    @staticmethod
    def _found(folder: Path) -> list[OpenSource]:
        try:
            tree = scan(folder)
        except FleetError:
            return []
        return [OpenSource(tree.root, file) for file in tree.files]

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
        buffer = bytearray(length)
        try:
            with memoryview(buffer) as view:
                source.read_into(view, offset)
            source.done()
        except FleetError:
            return None
        chunk = ChunkRef(self._store.name_chunk(buffer), length)
        with self._lock:
            if chunk not in self._wanted or chunk in self._taken:
                return None
            self._taken.add(chunk)
        with memoryview(buffer) as view:
            self._sink.write(chunk, view, 0)
        self._sink.finish(chunk)
        return chunk

    def close(self) -> None:
        for source in self._sources:
            source.close()


def chosen_of(store: SnapshotStore, order: RestoreOrder) -> Manifest:
    """The part of a manifest that is restored: all, one file, or what is below one folder.

    Raises:
        BadInput: there is no such snapshot or file, or its manifest was changed.
    """
    manifest = manifest_of(store, order.snapshot)
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


def _above(entry: FileEntry) -> Iterable[str]:
    parts = entry.path.split("/")[:-1]
    return ("/".join(parts[: count + 1]) for count in range(len(parts)))
