"""The files of audit logs: segments of records, and one file a writer with what is not yet ended.

A segment is `CHAIN.FIRST.OPENED.open` while it grows and `.sealed` afterwards: lines of JSON, then
zeros up to its preallocated size. `WRITER.intents` has slots of a fixed size: requests that have
begun, gaps, and the heads of chains. Its writer holds a lock on it for life.
"""

import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

OPEN: Final = ".open"
SEALED: Final = ".sealed"
INTENTS: Final = ".intents"
SLOT_BYTES: Final = 2048
"""A slot never spans two pages of memory, so that a kill cannot tear it."""
_GROWS_BY: Final = 256
"""Slots: half a MiB at a time."""
_PRIVATE: Final = 0o600
INTENT: Final = b"I"
GAP: Final = b"G"
HEAD: Final = b"H"
_EMPTY: Final = b"\0"
_PREFIX_BYTES: Final = 13
"""A letter, 8 digits of a checksum, 4 of a length."""


@dataclass(frozen=True)
class SegmentName:
    """What the name of a segment's file says."""

    chain: str
    """Writer, a dot, and data class."""
    first: int
    """Sequence of its first record."""
    opened_ms: int
    """When it was opened, milliseconds since 1970."""

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return f"{self.chain}.{self.first:012d}.{self.opened_ms}"

    @property
    def writer(self) -> str:
        """The process that wrote it."""
        return self.chain.rpartition(".")[0]

    @property
    def data_class(self) -> str:
        """The class of data that its records are about."""
        return self.chain.rpartition(".")[2]

    @classmethod
    def of(cls, file: Path) -> Self | None:
        """From a file; None where it is no segment."""
        parts = file.name.rsplit(".", 3)
        if len(parts) != 4 or not (parts[1].isdigit() and parts[2].isdigit()):  # noqa: PLR2004 - the parts
            return None
        return cls(parts[0], int(parts[1]), int(parts[2]))


def segments(folder: Path, ending: str) -> list[tuple[SegmentName, Path]]:
    """Segments with an ending, by chain and sequence."""
    found = ((SegmentName.of(file), file) for file in folder.glob(f"*{ending}"))
    named = [(name, file) for name, file in found if name is not None]
    return sorted(named, key=lambda pair: (pair[0].chain, pair[0].first))


def lines_of(content: bytes) -> list[bytes]:
    """The whole lines of a segment, without their ends; a torn last one is left out."""
    end = content.find(_EMPTY)
    written = content if end < 0 else content[:end]
    return written[: written.rfind(b"\n") + 1].splitlines()


@dataclass(frozen=True)
class Backlog:
    """What a folder holds that is not in the object store."""

    size_bytes: int
    segments: int
    oldest_at_s: float | None
    """When the oldest segment with a record was opened, seconds since 1970; None without any."""


def backlog(folder: Path) -> Backlog:
    """What is not shipped yet."""
    size, count, oldest = 0, 0, None
    for ending in (OPEN, SEALED):
        for name, file in segments(folder, ending):
            try:
                status = file.stat()
                empty = ending == OPEN and _is_empty(file)
            except FileNotFoundError:
                continue
            size, count = size + status.st_size, count + 1
            if not empty:
                opened_s = name.opened_ms / 1000
                oldest = opened_s if oldest is None else min(oldest, opened_s)
    return Backlog(size, count, oldest)


def _is_empty(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(1) in {b"", _EMPTY}


def sync_folder(folder: Path) -> None:
    """Make what was renamed in a folder outlive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_at(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of it, whatever the system takes at once."""
    view = memoryview(content)
    while view:
        done = os.pwrite(descriptor, view, offset)
        view, offset = view[done:], offset + done


def seal(descriptor: int, file: Path, length: int) -> None:
    """Cut a segment to its length, and give it its last name."""
    os.ftruncate(descriptor, length)
    os.fsync(descriptor)
    with contextlib.suppress(FileNotFoundError):
        # It has its last name already where only the folder was not synced.
        file.rename(file.with_suffix(SEALED))
    sync_folder(file.parent)


class Slots:
    """The slots of one writer's file.

    Args:
        descriptor: the file, open for reading and writing and locked.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        count = os.fstat(descriptor).st_size // SLOT_BYTES
        self._free = [number for number in reversed(range(count)) if self._head(number) == _EMPTY]

    @classmethod
    def create(cls, file: Path) -> Self:
        """A new file, locked before anybody else can see it.

        Raises:
            OSError: there is no space for it.
        """
        hidden = file.with_suffix(".new")
        descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, _PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(descriptor, 0, _GROWS_BY * SLOT_BYTES)
            hidden.rename(file)
            sync_folder(file.parent)
        except BaseException:
            os.close(descriptor)
            hidden.unlink(missing_ok=True)
            raise
        return cls(descriptor)

    @classmethod
    @contextmanager
    def of_the_dead(cls, file: Path) -> Iterator[Self | None]:
        """The slots of a writer that has ended, held for the block; None while it lives."""
        try:
            descriptor = os.open(file, os.O_RDWR)
        except FileNotFoundError:
            yield None
            return
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            yield cls(descriptor)
        finally:
            os.close(descriptor)

    def put(self, kind: bytes, value: Mapping[str, object], number: int | None = None) -> int:
        """Write a value into a free slot, or over another; returns the slot's number.

        Raises:
            OSError: there is no space for more slots.
        """
        text = json.dumps(value, separators=(",", ":")).encode()
        if len(text) > SLOT_BYTES - _PREFIX_BYTES:
            raise ValueError("it is too long for a slot")
        head = kind + b"%08x%04x" % (zlib.crc32(text), len(text))
        if number is None and not self._free:
            self._grow()
        place = self._free[-1] if number is None else number
        write_at(self.descriptor, head + text, place * SLOT_BYTES)
        if number is None:
            self._free.pop()
        return place

    def clear(self, number: int) -> None:
        """Free a slot."""
        write_at(self.descriptor, _EMPTY, number * SLOT_BYTES)
        self._free.append(number)

    def all(self) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
        """Number, kind and value of every slot that holds one; a torn one was never told of."""
        for number in range(os.fstat(self.descriptor).st_size // SLOT_BYTES):
            content = os.pread(self.descriptor, SLOT_BYTES, number * SLOT_BYTES)
            value = _slot_value(content)
            if value is not None:
                yield number, content[:1], value

    def close(self) -> None:
        """Let go of the file and its lock."""
        os.close(self.descriptor)

    def _head(self, number: int) -> bytes:
        return os.pread(self.descriptor, 1, number * SLOT_BYTES)

    def _grow(self) -> None:
        size = os.fstat(self.descriptor).st_size
        os.posix_fallocate(self.descriptor, size, _GROWS_BY * SLOT_BYTES)
        first = size // SLOT_BYTES
        self._free += reversed(range(first, first + _GROWS_BY))


def _slot_value(content: bytes) -> dict[str, Any] | None:
    if content[:1] not in {INTENT, GAP, HEAD}:
        return None
    try:
        checksum, length = int(content[1:9], 16), int(content[9:_PREFIX_BYTES], 16)
        text = content[_PREFIX_BYTES : _PREFIX_BYTES + length]
        if zlib.crc32(text) != checksum:
            return None
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
