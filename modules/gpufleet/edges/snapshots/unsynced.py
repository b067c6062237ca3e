"""Files that are whole and that the disk has still to keep: many cost little more than one.

A file system keeps a file's size and place in its journal. Synced one by one, small files wait for
one write of the journal each; when the bytes of all of them are on the disk before, the first one's
write is that of all.
"""

import ctypes
import errno
import os
from contextlib import suppress
from threading import Lock
from typing import Final

MOST: Final = 64
"""Descriptors that are held open."""
_LARGE_BYTES: Final = 16 * 2**20
"""A file of so many bytes waits for no other."""
_START: Final = 2
_WAIT: Final = 1 | 2 | 4
_LOST: Final = {errno.EIO, errno.ENOSPC, errno.EDQUOT}
_libc: Final = ctypes.CDLL(None, use_errno=True)


def start_writing(fd: int, offset: int, count: int) -> None:
    """Let the disk begin with what was written, so that the end has not to wait for all."""
    _libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(count), _START)


class Unsynced:
    """Descriptors that are to be synced and closed; shared by all threads."""

    def __init__(self) -> None:
        self._held: list[int] = []
        self._lock = Lock()

    def add(self, fd: int) -> None:
        """Take over a file's descriptor; by now or later it is synced, and closed.

        Raises:
            OSError: the disk does not take it, or another that was added before.
        """
        with self._lock:
            self._held.append(fd)
            if len(self._held) < MOST and os.fstat(fd).st_size < _LARGE_BYTES:
                start_writing(fd, 0, 0)
                return
            full, self._held = self._held, []
        _sync(full)

    def sync(self) -> None:
        """Have the disk keep all of them.

        Raises:
            OSError: it does not.
        """
        with self._lock:
            full, self._held = self._held, []
        _sync(full)

    def drop(self) -> None:
        """Close what is left: it was not to be kept."""
        with self._lock:
            full, self._held = self._held, []
        for fd in full:
            with suppress(OSError):
                os.close(fd)


def _written(fd: int) -> None:
    failed = _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _WAIT)
    # The kernel tells once that a write has failed: the sync after it would say that all is well.
    if failed and (number := ctypes.get_errno()) in _LOST:
        raise OSError(number, os.strerror(number))


def _sync(held: list[int]) -> None:
    try:
        for fd in held:
            _written(fd)
        for fd in held:
            os.fsync(fd)
    finally:
        for fd in held:
            os.close(fd)
