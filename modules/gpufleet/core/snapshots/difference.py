"""What differs between two snapshots, and what a restore takes from where."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from gpufleet.core.snapshots.manifest import chunks_of
from gpufleet.spec.snapshots import FileEntry, Manifest


@dataclass(frozen=True)
class Difference:
    """From one snapshot to another; paths sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    """Files with other bytes or other cuts, and links that lead elsewhere."""
    modes: tuple[str, ...]
    """Files and folders with the same content and other permissions."""
    plain_bytes: int
    """In chunks that only the second has."""
    shared_bytes: int
    """In chunks of the second that the first has too."""

    @property
    def empty(self) -> bool:
        """Whether both hold the same."""
        return not (self.added or self.removed or self.changed or self.modes)


def difference(old: Manifest, new: Manifest) -> Difference:
    """What became of one snapshot in another."""
    before, after = _contents(old), _contents(new)
    both = before.keys() & after.keys()
    had, has = chunks_of(old), chunks_of(new)
    fresh = sum(length for chunk, length in has.items() if chunk not in had)
    return Difference(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(path for path in both if before[path][0] != after[path][0])),
        modes=tuple(
            sorted(
                path
                for path in both
                if before[path][0] == after[path][0] and before[path][1] != after[path][1]
            )
        ),
        plain_bytes=fresh,
        shared_bytes=sum(has.values()) - fresh,
    )


def _contents(manifest: Manifest) -> dict[str, tuple[tuple[object, ...], int]]:
    """What stands at each path, and its permissions."""
    found: dict[str, tuple[tuple[object, ...], int]] = {}
    found |= {path: (("folder",), mode) for path, mode in manifest.folders}
    found |= {path: (("link", target), 0) for path, target in manifest.links}
    found |= {one.path: (("file", one.blake3), one.mode) for one in manifest.files}
    return found


class Place(NamedTuple):
    """Where a chunk's bytes are in a file."""

    path: str
    offset_bytes: int


class ChunkPlan(NamedTuple):
    """One chunk of a restore: it is fetched or copied once, and written to each place."""

    id: str
    plain_bytes: int
    to: tuple[Place, ...]
    local: Place | None
    """Where its bytes should be in the tree that is there; None where it has to be fetched. Who
    copies them verifies them, and fetches the chunk where they are not right."""


@dataclass(frozen=True)
class RestorePlan:
    """What a restore does."""

    whole: Mapping[str, str]
    """Files that are in the tree as they have to be: the new path, and the path to clone."""
    chunks: tuple[ChunkPlan, ...]
    """Of all other files, in the order of their first place."""
    empty: tuple[str, ...]
    """Files without a byte."""

    @property
    def bytes_fetched(self) -> int:
        """Plain bytes of the chunks that the store gives."""
        return sum(chunk.plain_bytes for chunk in self.chunks if chunk.local is None)

    @property
    def bytes_local(self) -> int:
        """Plain bytes of the chunks that are copied; whole files are not among them."""
        return sum(chunk.plain_bytes for chunk in self.chunks if chunk.local is not None)


def restore_plan(
    new: Manifest, old: Manifest | None = None, *, only: Iterable[str] | None = None
) -> RestorePlan:
    """What to fetch, and what to take from a tree that was restored from another snapshot.

    Args:
        new: what is to be there.
        old: what the tree in place was restored from; None where there is none.
        only: paths of the files to restore; all where it is None.
    """
    wanted = _wanted(new, only)
    clones = {(one.blake3, one.plain_bytes): one.path for one in old.files} if old else {}
    # The same path first: on most file systems it is the nearest.
    clones |= (
        {(one.blake3, one.plain_bytes): one.path for one in old.files if one in wanted}
        if old
        else {}
    )
    whole = {
        one.path: clones[one.blake3, one.plain_bytes]
        for one in wanted
        if one.chunks and (one.blake3, one.plain_bytes) in clones
    }
    local = _places(old.files) if old else {}
    targets = _places([one for one in wanted if one.path not in whole])
    lengths = dict(chunk for one in wanted for chunk in one.chunks)
    return RestorePlan(
        whole=whole,
        chunks=tuple(
            ChunkPlan(chunk, lengths[chunk], tuple(places), local.get(chunk, [None])[0])
            for chunk, places in targets.items()
        ),
        empty=tuple(one.path for one in wanted if not one.chunks),
    )


def _wanted(new: Manifest, only: Iterable[str] | None) -> list[FileEntry]:
    if only is None:
        return list(new.files)
    paths = set(only)
    return [one for one in new.files if one.path in paths]


def _places(files: Iterable[FileEntry]) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for one in files:
        offset = 0
        for chunk, length in one.chunks:
            found.setdefault(chunk, []).append(Place(one.path, offset))
            offset += length
    return found
