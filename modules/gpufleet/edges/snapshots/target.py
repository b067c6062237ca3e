"""The tree that a restore makes: beside its target until it is whole, then in its place at once."""

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Final, NamedTuple, Self

from filelock import FileLock, Timeout

from gpufleet.edges.snapshots.unsynced import Unsynced, start_writing
from gpufleet.spec.errors import BadInput, FleetError, Retryable

_FULL: Final = {errno.ENOSPC, errno.EDQUOT}
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_NOT_HERE: Final = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV}
_libc: Final = ctypes.CDLL(None, use_errno=True)


class TargetFile(NamedTuple):
    """A file to be made."""

    path: str
    mode: int
    plain_bytes: int


class Target:
    """A folder and the one that will take its place; one restore at a time.

    Until `switch`, nothing in the folder itself changes. What was written stays beside it when a
    restore ends early, so that the next one of the same snapshot goes on from there.

    Args:
        folder: that is made or replaced; the one above it must be there.
        snapshot: its ID.
    """

    def __init__(self, folder: Path, snapshot: str) -> None:
        self.folder = Path(os.path.abspath(folder))  # noqa: PTH100 - the last link is not followed
        self.partial = self.folder.with_name(f".{self.folder.name}.partial-{snapshot}")
        self._aside = self.folder.with_name(f".{self.folder.name}.old-{snapshot}")
        self._lock = FileLock(self.folder.with_name(f".{self.folder.name}.restoring"), timeout=0)
        self.unsynced = Unsynced()
        self.resumes = False

    def __enter__(self) -> Self:
        if not self.folder.parent.is_dir():
            raise BadInput("the folder above it is not there", where=str(self.folder))
        if self.folder.exists() and not self.folder.is_dir():
            raise BadInput("is not a folder", where=str(self.folder))
        try:
            self._lock.acquire()
        except Timeout:
            raise Retryable(
                "another restore writes there", where=str(self.folder), mend="wait until it is done"
            ) from None
        except OSError as error:
            raise self._failed(error) from None
        if self._aside.exists() and not self.folder.exists():
            # A restore ended between the two renames of a switch that could not be one.
            self._aside.rename(self.folder)
        self.resumes = self.partial.is_dir() and not self.partial.is_symlink()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unsynced.drop()
        # Its file stays: removed, it could be locked twice.
        self._lock.release()

    def prepare(
        self, files: Sequence[TargetFile], folders: Collection[str], links: Collection[str]
    ) -> None:
        """Make every folder, and remove what an earlier restore left and this one has not.

        Raises:
            Retryable: the disk has no room for it.
        """
        needed = sum(file.plain_bytes for file in files)
        try:
            self.partial.mkdir(mode=0o700, exist_ok=True)
            have = self._swept({file.path for file in files} | set(links), set(folders))
            free = shutil.disk_usage(self.partial).free
            if needed - have > free:
                if not self.resumes:
                    self.partial.rmdir()
                raise _full(self.folder, needed - have, free)
            for folder in sorted(folders):
                (self.partial / folder).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._failed(error) from None

    def finish(
        self,
        folders: Sequence[tuple[str, int]],
        links: Sequence[tuple[str, str]],
        *,
        mode: int = 0o755,
    ) -> None:
        """Make the links, give the folders their modes, and have the disk keep all of it."""
        try:
            self.unsynced.sync()
            for path, to in links:
                (self.partial / path).unlink(missing_ok=True)
                (self.partial / path).symlink_to(to)
            for path, folder_mode in sorted(folders, reverse=True):
                (self.partial / path).chmod(folder_mode)
                _sync_folder(self.partial / path)
            self.partial.chmod(mode)
            _sync_folder(self.partial)
        except OSError as error:
            raise self._failed(error) from None

    def switch(self) -> None:
        """Put the new tree in place of the old one, which is removed.

        At every moment the folder is the whole old tree or the whole new one. Where the file system
        cannot exchange two names, there is a moment without it.
        """
        try:
            if not os.path.lexists(self.folder):
                self.partial.rename(self.folder)
            elif not _exchange(self.partial, self.folder):
                self.folder.rename(self._aside)
                self.partial.rename(self.folder)
            _sync_folder(self.folder.parent)
            for old in (self.partial, self._aside):
                _remove(old)
        except OSError as error:
            raise self._failed(error) from None

    def discard(self) -> None:
        """Remove what was written beside the folder."""
        _remove(self.partial)

    def _swept(self, leaves: Collection[str], folders: Collection[str]) -> int:
        """Remove strays; how many bytes of the disk what stays has."""
        held = 0
        for above, below, names in os.walk(self.partial):
            for name in [*below, *names]:
                found = Path(above, name)
                path = found.relative_to(self.partial).as_posix()
                details = found.lstat()
                if stat.S_ISDIR(details.st_mode):
                    found.chmod(0o700)
                    if path not in folders:
                        below.remove(name)
                        shutil.rmtree(found)
                elif path not in leaves or not stat.S_ISREG(details.st_mode):
                    found.unlink()
                else:
                    held += details.st_blocks * 512
        return held

    def _failed(self, error: OSError) -> FleetError:
        if error.errno in _FULL:
            return _full(self.folder, None, shutil.disk_usage(self.folder.parent).free)
        return Retryable(f"cannot be written: {error.strerror or error}", where=str(self.folder))


class OpenTarget:
    """One file while it is written, from several threads; open from the first write to the last.

    Args:
        target: it belongs to.
        file: what it is to be.
        writes: how many chunks go into it; after so many calls of `done` it is whole.
    """

    def __init__(self, target: Target, file: TargetFile, writes: int) -> None:
        self.file = file
        self._target = target
        self._path = target.partial / file.path
        self._left = writes
        self._fd: int | None = None
        self._lock = Lock()

    def write(self, content: bytes | memoryview, offset: int) -> None:
        """Write at an offset.

        Raises:
            Retryable: the disk is full, or does not take it.
        """
        try:
            fd = self._opened()
            view = memoryview(content)
            while view:
                count = os.pwrite(fd, view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise self._target._failed(error) from None  # noqa: SLF001 - the two are one

    def read(self, count: int, offset: int) -> bytes:
        """What an earlier restore left at an offset; empty where it wrote nothing."""
        fd = self._opened()
        try:
            if os.lseek(fd, offset, os.SEEK_DATA) >= offset + count:
                return b""
        except OSError as error:
            if error.errno == errno.ENXIO:
                return b""
        return os.pread(fd, count, offset)

    def seed(self, old: Path) -> bool:
        """Begin with a copy of a file that may be much like it; what differs is written after.

        The kernel copies, so that file systems that can share the two files' blocks. Nothing of it
        counts before it was read and compared.

        Returns:
            False where there is no such file, or it has another length.
        """
        size = self.file.plain_bytes
        try:
            source = os.open(old, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            details = os.fstat(source)
            if not stat.S_ISREG(details.st_mode) or details.st_size != size:
                return False
            fd, offset = self._opened(), 0
            while offset < size:
                count = os.copy_file_range(source, fd, size - offset, offset, offset)
                if count == 0:
                    return False
                offset += count
        except OSError as error:
            if error.errno in _NOT_HERE:
                return False
            raise self._target._failed(error) from None  # noqa: SLF001 - the two are one
        finally:
            os.close(source)
        return True

    def started(self, offset: int, count: int) -> None:
        """Let the disk begin with what was written."""
        start_writing(self._opened(), offset, count)

    def done(self) -> None:
        """Tell that one chunk is in its place; after the last the file is finished."""
        with self._lock:
            self._left -= 1
            if self._left > 0:
                return
        self.finish()

    def finish(self) -> None:
        """Give the file its mode, and close it; the disk keeps it at `Target.finish` at last."""
        try:
            fd = self._opened()
            os.fchmod(fd, self.file.mode)
            with self._lock:
                self._fd = None
            self._target.unsynced.add(fd)
        except OSError as error:
            raise self._target._failed(error) from None  # noqa: SLF001 - the two are one

    def close(self) -> None:
        """Close it; it may be closed already."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _opened(self) -> int:
        with self._lock:
            if self._fd is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, 0o600)
                os.ftruncate(self._fd, self.file.plain_bytes)
                if self.file.plain_bytes:
                    _allocate(self._fd, self.file.plain_bytes)
            return self._fd


def _allocate(fd: int, size_bytes: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size_bytes)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names at once; False where the file system cannot."""
    done = _libc.renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_HERE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        for above, below, _ in os.walk(path):
            for name in below:
                # What cannot be entered cannot be emptied.
                folder = Path(above, name)
                if not folder.is_symlink():
                    folder.chmod(0o700)
        shutil.rmtree(path)


def _full(folder: Path, needed: int | None, free: int) -> Retryable:
    what = f"{needed / 2**30:.2f} GiB are needed and " if needed is not None else ""
    return Retryable(
        f"the disk is full: {what}{free / 2**30:.2f} GiB are free",
        where=str(folder),
        mend="make room, then restore again; what is there stays as it is",
    )
