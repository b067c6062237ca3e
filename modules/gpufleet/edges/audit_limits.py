"""How much an audit log may hold, and what it says when it can hold no more."""

import threading
from dataclasses import dataclass
from pathlib import Path

from gpufleet.edges.audit_files import backlog
from gpufleet.spec.audit import UNCLASSIFIED
from gpufleet.spec.errors import Retryable


class AuditUnavailable(Retryable):
    """A request cannot be recorded: one that has to be is refused."""


@dataclass(frozen=True)
class AuditLimits:
    """Sizes and ages of an audit log."""

    folder_bytes: int = 2**30
    """Most that waits for the object store in the folder; beyond it nothing begins."""
    segment_bytes: int = 2 * 2**20
    """Size at which a segment is sealed."""
    seal_after_s: float = 45.0
    """Age at which a segment is sealed."""
    sync_every_s: float = 0.1
    """Longest time whose records a loss of power loses."""


class Waiting:
    """How much waits for the object store, as it was looked at last, and what was opened since.

    Whoever looks has to read a folder of thousands of files: never with the log's lock held, but
    for the first time.

    Args:
        folder: where every process of the gateway has its files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counting = threading.Lock()
        self._seen: int | None = None
        self._opened = 0

    @property
    def size_bytes(self) -> int:
        """What waits, at most; segments that were sealed since the last look count in full."""
        if self._seen is None:
            self.look()
        with self._counting:
            return (self._seen or 0) + self._opened

    def opened(self, size_bytes: int) -> None:
        """Count a segment that was opened."""
        with self._counting:
            self._opened += size_bytes

    def look(self) -> None:
        """Look at the folder."""
        counted = self._opened
        seen = backlog(self._folder).size_bytes
        with self._counting:
            # What was opened meanwhile may count twice until the next look.
            self._seen, self._opened = seen, self._opened - counted


def check_backlog(folder: Path, waiting: Waiting, limits: AuditLimits, data_class: str) -> None:
    """Refuse another segment where too much waits for the object store.

    Requests that named no use case may take half of the space: whoever has no key can send them,
    and must not be able to stop those that have to be recorded.

    Raises:
        AuditUnavailable: it does.
    """
    most = limits.folder_bytes // (2 if data_class == UNCLASSIFIED else 1)
    size_bytes = waiting.size_bytes
    if size_bytes + limits.segment_bytes > most:
        raise AuditUnavailable(
            f"{size_bytes} bytes of records wait for the object store, the most",
            where=str(folder),
            mend="the store has to answer again, or the limit has to grow",
        )


def unavailable(folder: Path, error: OSError) -> AuditUnavailable:
    """What an error of the disk means for a request."""
    return AuditUnavailable(
        f"the audit log cannot be written: {error.strerror}",
        where=str(folder),
        mend="free some space; what was recorded is kept",
    )
