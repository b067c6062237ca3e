"""The mark of a take or prune that runs: the other sees it, and its time is the store's own."""

import json
import socket
import time
from contextlib import suppress
from datetime import datetime
from threading import Lock
from typing import Final, Self
from uuid import uuid4

from gpufleet.core.snapshots.layout import RUNNING, running_key
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.spec.errors import BadInput, FleetError
from gpufleet.spec.snapshots import TakeMark

TAKE: Final = "take"
PRUNE: Final = "prune"
_BEAT_S: Final = 60.0


class RunningMark:
    """Puts the mark when it is entered, again each minute that `beat` is called, and removes it.

    Args:
        store: opened.
        revision: that is taken; empty for a prune.
        what: runs.
    """

    def __init__(self, store: SnapshotStore, revision: str, what: str = TAKE) -> None:
        self._what = what
        self._store = store
        self._revision = revision
        self._id = uuid4().hex
        self._lock = Lock()
        self._put_at = 0.0
        self._began: datetime | None = None
        self._beat: datetime | None = None

    def __enter__(self) -> Self:
        # What the first one says of its begin is what the second one, a moment later, knows.
        self._began = self._put()
        self._put()
        return self

    def __exit__(self, *_: object) -> None:
        # A mark that stays is one of a take that no longer beats.
        with suppress(FleetError):
            objects = self._store.objects
            for each in objects.objects(running_key(self._id), versions=objects.keeps_versions()):
                objects.delete(each.key, each.version or None)

    def beat(self) -> None:
        """Say that the take goes on; from any thread, as often as one likes."""
        with self._lock:
            if time.monotonic() - self._put_at >= _BEAT_S:
                self._put()

    def now(self) -> tuple[TakeMark, datetime]:
        """The mark as it was last put, and the store's time."""
        with self._lock:
            assert self._began is not None  # noqa: S101 - it is entered
            assert self._beat is not None  # noqa: S101 - as above
            mark = TakeMark(self._id, self._began, self._beat, self._revision, socket.gethostname())
            return mark, self._put()

    def _put(self) -> datetime:
        content = {
            "what": self._what,
            "began": self._began.isoformat() if self._began else None,
            "revision": self._revision,
            "host": socket.gethostname(),
        }
        at = self._store.objects.put(running_key(self._id), json.dumps(content).encode())
        self._put_at, self._beat = time.monotonic(), at
        return at


def running(store: SnapshotStore, what: str) -> list[TakeMark]:
    """The marks of takes or prunes, also of those that were killed; `beat` tells them apart."""
    found = []
    for each in store.objects.objects(RUNNING):
        try:
            value = store.facts(each.key)
        except BadInput:
            # Nobody knows what runs there: it counts as either.
            value = {}
        if value is None or value.get("what", what) != what:
            continue
        began = value.get("began")
        found.append(
            TakeMark(
                id=each.key.removeprefix(RUNNING),
                began=datetime.fromisoformat(began) if began else each.modified,
                beat=each.modified,
                revision=value.get("revision", ""),
                host=value.get("host", "an unknown host"),
            )
        )
    return found
