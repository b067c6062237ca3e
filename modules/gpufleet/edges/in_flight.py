"""Counters that the gateway's workers share: how many requests are in flight, by name.

One file, mapped into every worker. Each worker has a row of its own and holds a lock on it for as
long as it lives, so that what a killed worker had in flight stops to count without anybody's doing.
Linux only: the locks belong to an open file (open file description locks), not to a process.
"""

import fcntl
import hashlib
import mmap
import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_MAGIC: Final = 0x6770_666C_6565_7401
ROWS: Final = 64
COLUMNS: Final = 4096
_WINDOWS: Final = 1024
_SLOTS: Final = 61
"""Whole seconds that touch the last minute."""
_HEADER: Final = 4096
_DIGEST: Final = 16
_NAMES_AT: Final = _HEADER
_ROWS_AT: Final = _NAMES_AT + COLUMNS * _DIGEST
_WINDOW_NAMES_AT: Final = _ROWS_AT + ROWS * COLUMNS * 8
_WINDOWS_AT: Final = _WINDOW_NAMES_AT + _WINDOWS * _DIGEST
_SIZE: Final = _WINDOWS_AT + _WINDOWS * _SLOTS * 2 * 8
_LIVENESS_S: Final = 0.25
"""How often it is looked whether the other rows' workers live."""
_FREE: Final = bytes(_DIGEST)
_LOCK: Final = "hh4xqqi4x"
"""struct flock of 64-bit Linux: type, whence, start, length, process."""


class BoardFull(RuntimeError):
    """More names or workers than the board has room for."""


class Board:
    """Counts by name over all workers, with limits that hold over all of them.

    Args:
        file: made where it is missing; anything else under that name is replaced.
        writes: whether this process counts. One that only reads takes no row.

    Raises:
        BoardFull: `ROWS` workers are there already.
        OSError: the disk has no room for it.
    """

    def __init__(self, file: Path, *, writes: bool = True) -> None:
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._columns: dict[str, int] = {}
        self._epoch = -1
        self._looked_at_s = float("-inf")
        self._others: list[int] = []
        if not self._is_made():
            with self._locked():
                self._make()
        self._map = mmap.mmap(self._descriptor, _SIZE)
        self._head = memoryview(self._map)[:_HEADER].cast("q")
        self._cells = memoryview(self._map)[_ROWS_AT:_WINDOW_NAMES_AT].cast("q")
        self._windows = memoryview(self._map)[_WINDOWS_AT:].cast("q")
        self._row = -1
        if writes:
            with self._locked():
                self._row = self._take_row()

    def take(self, limits: Mapping[str, int | None]) -> str | None:
        """Count one more under every name, or under none.

        Args:
            limits: by name, the most that may be in flight over all workers; None for no limit.

        Returns the first name whose limit is reached; None where all were counted.
        """
        with self._locked():
            columns = self._columns_of(limits)
            for (name, limit), column in zip(limits.items(), columns, strict=True):
                if limit is not None and self._sum(column) >= limit:
                    return name
            for column in columns:
                self._cells[self._row * COLUMNS + column] += 1
        return None

    def give(self, names: Sequence[str]) -> None:
        """Count one less under every name."""
        with self._locked():
            for column in self._columns_of(names):
                cell = self._row * COLUMNS + column
                self._cells[cell] = max(0, self._cells[cell] - 1)

    def total(self, name: str) -> int:
        """Requests in flight under a name, over all workers that live."""
        return self.totals([name])[name]

    def totals(self, names: Sequence[str]) -> dict[str, int]:
        """`total` of several names.

        Nobody is waited for: a worker that was stopped while it counted holds up no reader. What is
        counted meanwhile may be seen or not.
        """
        while True:
            epoch = self._head[1]
            found = {name: self._known(name) for name in names}
            totals = {
                name: 0 if column is None else self._sum(column) for name, column in found.items()
            }
            if self._head[1] == epoch:
                return totals

    def pass_rate(self, name: str, limit: int, now_s: float | None = None) -> float:
        """Count one more in the last minute, unless that passes a limit.

        Whole seconds are counted, and every second that touches the last minute counts, so that no
        minute ever has more than `limit`.

        Args:
            name: whose rate it is.
            limit: most in any minute.
            now_s: monotonic time, the same in every process; the machine's own when left out.

        Returns 0 where it was counted, else the time until there may be room, s.
        """
        moment_s = time.monotonic() if now_s is None else now_s
        second = int(moment_s)
        with self._locked():
            base = self._window(name, second) * _SLOTS * 2
            recent = [
                (stamp, self._windows[base + 2 * slot + 1])
                for slot in range(_SLOTS)
                if second - _SLOTS < (stamp := self._windows[base + 2 * slot]) <= second
            ]
            if sum(count for _, count in recent) >= limit:
                oldest = min(stamp for stamp, count in recent if count)
                return max(0.0, oldest + _SLOTS - moment_s)
            slot = base + 2 * (second % _SLOTS)
            if self._windows[slot] != second:
                self._windows[slot], self._windows[slot + 1] = second, 0
            self._windows[slot + 1] += 1
        return 0.0

    def close(self) -> None:
        """Give the row back; what it counted is gone."""
        if self._row >= 0:
            with self._locked():
                self._clear(self._row)
        for view in (self._head, self._cells, self._windows):
            view.release()
        self._map.close()
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock(fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, 0)
        try:
            yield
        finally:
            self._lock(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, 0)

    def _lock(self, command: int, kind: int, byte: int) -> int:
        asked = struct.pack(_LOCK, kind, os.SEEK_SET, byte, 1, 0)
        answer = fcntl.fcntl(self._descriptor, command, asked)
        return int(struct.unpack(_LOCK, answer)[0])

    def _is_made(self) -> bool:
        size = os.fstat(self._descriptor).st_size
        return size == _SIZE and os.pread(self._descriptor, 8, 0) == _MAGIC.to_bytes(8, "little")

    def _make(self) -> None:
        """Make the file anew, unless somebody else has done so meanwhile."""
        if not self._is_made():
            os.ftruncate(self._descriptor, 0)
            # Without holes: on a full disk a write into one would end the process (SIGBUS).
            os.posix_fallocate(self._descriptor, 0, _SIZE)
            os.pwrite(self._descriptor, _MAGIC.to_bytes(8, "little"), 0)

    def _take_row(self) -> int:
        for row in range(ROWS):
            with suppress(BlockingIOError):
                self._lock(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, 1 + row)
                self._clear(row)
                return row
        raise BoardFull(f"{ROWS} workers count on this board already")

    def _clear(self, row: int) -> None:
        start = _ROWS_AT + row * COLUMNS * 8
        self._map[start : start + COLUMNS * 8] = bytes(COLUMNS * 8)

    def _sum(self, column: int) -> int:
        """Over the rows whose workers live; those that do not are cleared on the way."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s >= _LIVENESS_S:
            self._looked_at_s = now_s
            self._others = [row for row in range(ROWS) if row != self._row and self._lives(row)]
        own = 0 if self._row < 0 else self._cells[self._row * COLUMNS + column]
        return own + sum(self._cells[row * COLUMNS + column] for row in self._others)

    def _lives(self, row: int) -> bool:
        return self._lock(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, 1 + row) != fcntl.F_UNLCK

    def _known(self, name: str) -> int | None:
        if self._epoch != self._head[1]:
            self._columns.clear()
            self._epoch = self._head[1]
        if (column := self._columns.get(name)) is None:
            digest = _digest(name)
            for step in range(COLUMNS):
                column = (int.from_bytes(digest[:4], "big") + step) % COLUMNS
                held = self._name_at(_NAMES_AT, column)
                if held == digest:
                    self._columns[name] = column
                    return column
                if held == _FREE:
                    return None
            return None
        return column

    def _columns_of(self, names: Iterable[str]) -> list[int]:
        wanted = list(names)
        columns = [self._column(name) for name in wanted]
        if any(self._known(name) != column for name, column in zip(wanted, columns, strict=True)):
            # The last of them made room, which moved the first ones.
            columns = [self._column(name) for name in wanted]
        return columns

    def _column(self, name: str) -> int:
        if (column := self._known(name)) is not None:
            return column
        if self._head[2] >= COLUMNS * 3 // 4:
            self._forget_unused()
        digest = _digest(name)
        for step in range(COLUMNS):
            column = (int.from_bytes(digest[:4], "big") + step) % COLUMNS
            if self._name_at(_NAMES_AT, column) == _FREE:
                at = _NAMES_AT + column * _DIGEST
                self._map[at : at + _DIGEST] = digest
                self._head[2] += 1
                self._columns[name] = column
                return column
        raise BoardFull(f"{COLUMNS} names are in flight on this board")

    def _forget_unused(self) -> None:
        """Make room: names with nothing in flight go, the others are put in anew."""
        rows = [row for row in range(ROWS) if row == self._row or self._lives(row)]
        kept: list[tuple[bytes, list[int]]] = []
        for column in range(COLUMNS):
            digest = self._name_at(_NAMES_AT, column)
            counts = [self._cells[row * COLUMNS + column] for row in rows]
            if digest != _FREE and any(counts):
                kept.append((digest, counts))
        self._map[_NAMES_AT:_WINDOW_NAMES_AT] = bytes(_WINDOW_NAMES_AT - _NAMES_AT)
        for digest, counts in kept:
            column = int.from_bytes(digest[:4], "big") % COLUMNS
            while self._name_at(_NAMES_AT, column) != _FREE:
                column = (column + 1) % COLUMNS
            at = _NAMES_AT + column * _DIGEST
            self._map[at : at + _DIGEST] = digest
            for row, count in zip(rows, counts, strict=True):
                self._cells[row * COLUMNS + column] = count
        self._head[2] = len(kept)
        self._head[1] += 1
        self._columns.clear()
        self._epoch = self._head[1]

    def _window(self, name: str, second: int) -> int:
        """The window of a name: its own, a free one, or that of the name not seen for longest."""
        digest = _digest(name)
        start = int.from_bytes(digest[:4], "big")
        for step in range(_WINDOWS):
            window = (start + step) % _WINDOWS
            held = self._name_at(_WINDOW_NAMES_AT, window)
            if held == digest:
                return window
            if held == _FREE:
                break
        else:
            window = next(
                (each for each in range(_WINDOWS) if self._last_seen(each) <= second - _SLOTS), -1
            )
            if window < 0:
                raise BoardFull(f"{_WINDOWS} keys have asked within a minute")
        at = _WINDOW_NAMES_AT + window * _DIGEST
        self._map[at : at + _DIGEST] = digest
        first = _WINDOWS_AT + window * _SLOTS * 16
        self._map[first : first + _SLOTS * 16] = bytes(_SLOTS * 16)
        return window

    def _last_seen(self, window: int) -> int:
        base = window * _SLOTS * 2
        return max(self._windows[base + 2 * slot] for slot in range(_SLOTS))

    def _name_at(self, start: int, index: int) -> bytes:
        at = start + index * _DIGEST
        return self._map[at : at + _DIGEST]


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=_DIGEST).digest()
