"""What was read of sources, and which chunks it was: a later take need not read it again.

Only a saving: a row counts while the file's inode, size and both times are the same and the store
has the chunk, and a table that is lost or fails costs a reading.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final, NamedTuple

from gpufleet.edges.snapshots.source import Identity
from gpufleet.spec.errors import Retryable

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS parts (
    store TEXT NOT NULL, path TEXT NOT NULL, inode INTEGER NOT NULL, size_bytes INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL,
    offset_bytes INTEGER NOT NULL, plain_bytes INTEGER NOT NULL, chunk TEXT NOT NULL,
    PRIMARY KEY (store, path, offset_bytes, plain_bytes)
) WITHOUT ROWID
"""


class ReadPart(NamedTuple):
    """A part of a file, and the chunk that it is."""

    path: Path
    identity: Identity
    offset: int
    length: int
    chunk: str


class ReadTable:
    """Keeps which chunk each part of a file was; shared by threads.

    Args:
        file: of the database; its folder is made.
        store: whose chunks they are, with the key that names them.

    Raises:
        Retryable: the file cannot be opened, as where another process holds it.
    """

    def __init__(self, file: Path, store: str) -> None:
        self._store = store
        self._lock = Lock()
        self._file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._database = self._opened_or_anew()
        except (OSError, sqlite3.Error) as error:
            raise Retryable(f"cannot be made: {error}", where=str(file)) from None

    def known(self, path: Path, identity: Identity) -> Mapping[tuple[int, int], str]:
        """The chunks of a file's parts, by offset and length; none if the file is another."""
        with self._lock, suppress(sqlite3.Error):
            rows = self._database.execute(
                "SELECT offset_bytes, plain_bytes, chunk FROM parts WHERE store=? AND path=?"
                " AND inode=? AND size_bytes=? AND modified_ns=? AND changed_ns=?",
                (self._store, str(path), *identity),
            ).fetchall()
            return {(offset, length): chunk for offset, length, chunk in rows}
        return {}

    def keep(self, parts: Iterable[ReadPart]) -> None:
        """Note parts that are in the store; a process that is killed right after has them noted."""
        rows = [
            (self._store, str(part.path), *part.identity, part.offset, part.length, part.chunk)
            for part in parts
        ]
        with self._lock, suppress(sqlite3.Error):
            self._database.executemany("REPLACE INTO parts VALUES (?,?,?,?,?,?,?,?,?)", rows)
            self._database.commit()

    def close(self) -> None:
        """Close its file."""
        with self._lock:
            self._database.close()

    def _opened_or_anew(self) -> sqlite3.Connection:
        try:
            return self._opened()
        except sqlite3.OperationalError:
            # Another process has it, or the disk is full: it is not damaged.
            raise
        except sqlite3.DatabaseError:
            # It holds nothing that cannot be had again.
            self._file.unlink(missing_ok=True)
            return self._opened()

    def _opened(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._file, check_same_thread=False, timeout=30)
        database.execute("PRAGMA journal_mode=WAL")
        # What a failing power supply takes away is read again.
        database.execute("PRAGMA synchronous=OFF")
        database.execute(_SCHEMA)
        return database
