"""The tree that a snapshot is taken of: what is in it, and whether it stayed as it was."""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, NamedTuple

from gpufleet.spec.errors import BadInput, Retryable

_BLOCK_BYTES: Final = 512
_HASHED_BYTES: Final = 4 * 2**20


class Identity(NamedTuple):
    """What shows that a file is the one that was read before; times in ns."""

    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int


class SourceFile(NamedTuple):
    """Whatever is below the root, as `lstat` tells it."""

    path: str
    """Parts separated by `/`; what is not UTF-8 in it stands as surrogates."""
    mode: int
    """Type and permissions (`st_mode`)."""
    identity: Identity
    target: str = ""
    """Of a symbolic link, as it holds it."""
    sparse: bool = False


@dataclass(frozen=True)
class SourceTree:
    """All that is below a folder, sorted by path."""

    root: Path
    entries: tuple[SourceFile, ...]

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The regular files."""
        return tuple(entry for entry in self.entries if stat.S_ISREG(entry.mode))


def scan(root: Path) -> SourceTree:
    """What is below a folder; no link is followed.

    Raises:
        BadInput: it is no folder.
        Retryable: it cannot be read.
    """
    if not root.is_dir():
        raise BadInput("is not a folder", where=str(root), mend="name the folder of the artifact")
    try:
        return SourceTree(root, tuple(sorted(_entries(root, ""))))
    except OSError as error:
        where = str(error.filename or root)
        raise Retryable(f"cannot be read: {error.strerror}", where=where) from None


def sha256_of(root: Path, file: SourceFile) -> str:
    """SHA-256 of a whole file, 64 hexadecimal digits.

    Raises:
        Retryable: it is not the file that was found, or cannot be read.
    """
    source = OpenSource(root, file)
    found = hashlib.sha256()
    buffer = memoryview(bytearray(min(_HASHED_BYTES, max(file.identity.size_bytes, 1))))
    try:
        offset = 0
        while offset < file.identity.size_bytes:
            piece = buffer[: file.identity.size_bytes - offset]
            source.read_into(piece, offset)
            found.update(piece)
            offset += len(piece)
    finally:
        source.close()
    source.check()
    return found.hexdigest()


def identity_of(found: os.stat_result) -> Identity:
    """What to compare a file by."""
    return Identity(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class OpenSource:
    """One file while it is read, from several threads; open from the first read to the last.

    Args:
        root: of the tree.
        file: as the scan found it.
    """

    def __init__(self, root: Path, file: SourceFile) -> None:
        self.file = file
        self.path = root / file.path
        self._left = 0
        self._fd: int | None = None
        self._lock = Lock()

    def expect(self, reads: int) -> None:
        """Say how many parts are to be read: after so many calls of `done` it is closed."""
        self._left = reads
        self.close()

    def read(self, offset: int, count: int) -> bytes:
        """At most so many bytes from an offset on; not one of the reads."""
        try:
            return os.pread(self._opened(), count, offset)
        except OSError as error:
            raise Retryable(f"cannot be read: {error.strerror}", where=str(self.path)) from None

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer with what lies at an offset.

        Raises:
            Retryable: the file is not the one that was found, or cannot be read.
        """
        fd = self._opened()
        while buffer:
            try:
                count = os.preadv(fd, [buffer], offset)
            except OSError as error:
                raise Retryable(f"cannot be read: {error.strerror}", where=str(self.path)) from None
            if count == 0:
                raise self._changed()
            buffer, offset = buffer[count:], offset + count

    def done(self) -> None:
        """Tell that one part was read; after the last the file is compared and closed.

        Raises:
            Retryable: it changed meanwhile.
        """
        with self._lock:
            self._left -= 1
            if self._left > 0:
                return
        self.close()
        self.check()

    def check(self) -> None:
        """Compare the file with what the scan found.

        Raises:
            Retryable: it changed.
        """
        try:
            same = identity_of(self.path.lstat()) == self.file.identity
        except OSError:
            same = False
        if not same:
            raise self._changed()

    def close(self) -> None:
        """Close it; it may be closed already."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _opened(self) -> int:
        with self._lock:
            if self._fd is None:
                try:
                    self._fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                except OSError as error:
                    why = f"cannot be read: {error.strerror}"
                    raise Retryable(why, where=str(self.path)) from None
                if identity_of(os.fstat(self._fd)) != self.file.identity:
                    raise self._changed()
            return self._fd

    def _changed(self) -> Retryable:
        return Retryable(
            "changed while it was read: nothing is kept of this snapshot",
            where=str(self.path),
            mend="let nobody write to it, then take the snapshot again",
        )


def _entries(folder: Path, below: str) -> Iterator[SourceFile]:
    with os.scandir(folder) as found:
        for entry in found:
            path = f"{below}{entry.name}"
            details = entry.stat(follow_symlinks=False)
            target = os.fsdecode(Path(entry.path).readlink()) if entry.is_symlink() else ""
            sparse = stat.S_ISREG(details.st_mode) and _is_sparse(Path(entry.path), details)
            yield SourceFile(path, details.st_mode, identity_of(details), target, sparse)
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path), f"{path}/")


def _is_sparse(path: Path, details: os.stat_result) -> bool:
    # Fewer blocks than bytes is what a compressing file system shows as well.
    if details.st_blocks * _BLOCK_BYTES >= details.st_size:
        return False
    with path.open("rb") as file:
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) < details.st_size
