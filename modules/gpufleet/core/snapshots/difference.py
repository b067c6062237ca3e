"""What differs between two snapshots."""

from dataclasses import dataclass

from gpufleet.core.snapshots.manifest import chunks_of
from gpufleet.spec.snapshots import Manifest


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
