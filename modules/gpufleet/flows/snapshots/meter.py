"""Telling how far a snapshot is: bytes, rate, and the time that remains."""

import time
from collections.abc import Callable
from threading import Lock
from typing import Final

from gpufleet.spec.progress import SnapshotProgress

_EVERY_S: Final = 0.25

OnProgress = Callable[[SnapshotProgress], None]


def quiet(_: SnapshotProgress) -> None:
    """For work that nobody watches."""


class Meter:
    """Tells a few times a second how far work is; called from several threads.

    Args:
        what: revision or snapshot.
        state: what is being done.
        on_progress: is told.
    """

    def __init__(self, what: str, state: str, on_progress: OnProgress) -> None:
        self._what = what
        self._state = state
        self._on_progress = on_progress
        self._begun = time.monotonic()
        self._told = self._begun
        self._lock = Lock()
        self.total_bytes = 0
        self._done = 0
        self._moved = 0

    @property
    def elapsed_s(self) -> float:
        """Since the begin."""
        return time.monotonic() - self._begun

    def add(self, *, done: int = 0, moved: int = 0) -> None:
        """Count bytes that are done, and bytes that went over the wire."""
        with self._lock:
            self._done += done
            self._moved += moved
            now = time.monotonic()
            if now - self._told < _EVERY_S:
                return
            self._told = now
            event = self._event(self._state)
        self._on_progress(event)

    def finish(self) -> None:
        """Tell that all is done."""
        with self._lock:
            event = self._event("done")
        self._on_progress(event)

    def _event(self, state: str) -> SnapshotProgress:
        elapsed = self.elapsed_s
        rate = self._done / elapsed if elapsed > 0 else 0.0
        left = max(self.total_bytes - self._done, 0)
        return SnapshotProgress(
            what=self._what,
            state=state,
            bytes_done=self._done,
            bytes_total=self.total_bytes,
            bytes_moved=self._moved,
            rate_bytes_s=rate,
            remaining_s=left / rate if rate else None,
            elapsed_s=elapsed,
        )
