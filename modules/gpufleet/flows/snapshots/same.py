"""Whether a tree that is there already is the one of a snapshot, byte for byte."""

import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gpufleet.edges.snapshots.source import OpenSource, SourceTree, scan
from gpufleet.flows.snapshots.store import THREADS, SnapshotStore
from gpufleet.flows.snapshots.there import Buffers
from gpufleet.flows.snapshots.threads import in_threads
from gpufleet.spec.errors import FleetError
from gpufleet.spec.snapshots import ChunkRef, Manifest


class _DiffersError(Exception):
    """A chunk that is another; the message has its file."""


def difference_of_names(manifest: Manifest, tree: Path) -> str:
    """In what a tree differs from a snapshot's by paths, kinds, links and lengths; else empty.

    Modes may differ: a tree for several users has others than the snapshot.
    """
    try:
        return _names(manifest, scan(tree))
    except FleetError as error:
        return error.what


def difference_of_bytes(store: SnapshotStore, manifest: Manifest, tree: Path) -> str:
    """In what a tree differs from a snapshot's; empty where it is the same, every byte read.

    Args:
        store: names the chunks.
        manifest: of the snapshot.
        tree: a folder that may not be there.
    """
    try:
        found = scan(tree)
        if told := _names(manifest, found):
            return told
        _compare(store, manifest, found)
    except _DiffersError as error:
        return f"{error} has other bytes"
    except FleetError as error:
        return error.what
    return ""


def has_modes(manifest: Manifest, tree: Path) -> bool:
    """Whether all that a snapshot has in a tree has the snapshot's modes there too.

    Raises:
        FleetError: the tree cannot be listed.
    """
    wanted = {each.path: each.mode for each in manifest.files}
    wanted |= {each.path: each.mode for each in manifest.folders}
    found = {each.path: stat.S_IMODE(each.mode) for each in scan(tree).entries}
    return all(found.get(path) == mode for path, mode in wanted.items())


def _names(manifest: Manifest, tree: SourceTree) -> str:
    wanted: dict[str, tuple[int, int | str]] = {
        **{each.path: (stat.S_IFREG, each.plain_bytes) for each in manifest.files},
        **{each.path: (stat.S_IFDIR, 0) for each in manifest.folders},
        **{each.path: (stat.S_IFLNK, each.target) for each in manifest.links},
    }
    found: dict[str, tuple[int, int | str]] = {}
    for each in tree.entries:
        kind = stat.S_IFMT(each.mode)
        is_link = kind == stat.S_IFLNK
        length = each.identity.size_bytes if kind == stat.S_IFREG else 0
        found[each.path] = (kind, each.target if is_link else length)
    other = sorted(
        path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path)
    )
    if not other:
        return ""
    return f"{len(other)} of {len(wanted)} paths are others, such as {other[0]}"


def _compare(store: SnapshotStore, manifest: Manifest, tree: SourceTree) -> None:
    sources = {each.path: OpenSource(tree.root, each) for each in tree.files}
    buffers = Buffers()

    def checks() -> Iterator[partial[None]]:
        for entry in manifest.files:
            source, offset = sources[entry.path], 0
            source.expect(len(entry.chunks))
            for chunk in entry.chunks:
                yield partial(_check, store, buffers, source, chunk, offset)
                offset += chunk.plain_bytes

    try:
        in_threads(THREADS, checks())
    finally:
        for source in sources.values():
            source.close()


def _check(
    store: SnapshotStore, buffers: Buffers, source: OpenSource, chunk: ChunkRef, offset: int
) -> None:
    view = buffers.mine()[: chunk.plain_bytes]
    source.read_into(view, offset)
    if store.name_chunk(view) != chunk.id:
        raise _DiffersError(source.file.path)
    source.done()
