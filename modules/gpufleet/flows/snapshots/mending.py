"""Where another copy of an object may be, and what was brought back from there."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from gpufleet.flows.snapshots.right_frames import Stored
from gpufleet.flows.snapshots.store import Contents, SnapshotStore
from gpufleet.spec.errors import Retryable
from gpufleet.spec.snapshot_copies import Mend

OLDER: Final = "an older version"
GONE: Final = "is not in the store"
BENT: Final = "is not as it was written"


class Replica(NamedTuple):
    """The store of another site, opened."""

    shown: str
    store: SnapshotStore
    contents: Contents


class Mending:
    """Objects of a store that are brought back; without `apply` it is only told what would be.

    Args:
        store: opened.
        others: the stores of other sites, by how they are told to people; they need not be there.
        until: what is put is locked until then; None on a plain bucket.
        apply: whether anything is put.
    """

    def __init__(
        self,
        store: SnapshotStore,
        others: Sequence[tuple[str, SnapshotStore]],
        *,
        until: datetime | None,
        apply: bool,
    ) -> None:
        self.store = store
        self.mends: list[Mend] = []
        self.bytes_put = 0
        self._others = others
        self._until = until
        self._apply = apply
        self.silent: list[str] = []
        """Stores of other sites that were asked and did not answer."""
        self._opened: list[Replica] | None = None
        self._versioned = store.objects.keeps_versions()

    def older(self, key: str) -> list[str]:
        """The versions below the one that lists, from the newest on."""
        if not self._versioned:
            return []
        found = [
            each
            for each in self.store.objects.objects(key, versions=True)
            if each.key == key and not each.marker and not each.latest
        ]
        return [each.version for each in sorted(found, key=lambda one: one.modified, reverse=True)]

    def replicas(self) -> list[Replica]:
        """The stores of other sites that are there; asked for when the first one is needed.

        Raises:
            BadInput: one has another key.
        """
        if self._opened is None:
            self._opened = []
            for shown, store in self._others:
                try:
                    if store.exists():
                        self._opened.append(Replica(shown, store, store.contents()))
                except Retryable:
                    # Another one may have what is needed.
                    self.silent.append(shown)
        return self._opened

    def right(
        self,
        key: str,
        is_right: Callable[[bytes], bool],
        *,
        first: Callable[[], None] = lambda: None,
    ) -> bytes | None:
        """A small object as it should be, brought back where it is not; None where nobody has it.

        Args:
            key: of the object.
            is_right: whether a copy is as it was written.
            first: done before one is put.

        Raises:
            Retryable: a store does not answer.
        """
        held = self.store.objects.find(key)
        if held is not None and is_right(held):
            return held
        for source, content in self._copies(key):
            if is_right(content):
                if self._apply:
                    first()
                self.put(Stored(key, content), GONE if held is None else BENT, source)
                return content
        return None

    def put(self, stored: Stored, what: str, source: str) -> None:
        """Put an object over whatever is there.

        Args:
            stored: it.
            what: was wrong.
            source: where the good copy is.
        """
        if self._apply:
            self.store.objects.put(stored.key, stored.body, self._until)
            self.bytes_put += len(stored.body)
        self.mends.append(Mend(stored.key, what, source))

    def leave_out(self, key: str, what: str) -> None:
        """Remove an object that says nothing any more; its versions stay."""
        if self._apply:
            self.store.objects.delete(key)
        self.mends.append(Mend(key, what, "left out: what it says is said anew"))

    def _copies(self, key: str) -> Iterator[tuple[str, bytes]]:
        for version in self.older(key):
            if (content := self.store.objects.find(key, version)) is not None:
                yield OLDER, content
        for replica in self.replicas():
            if (content := replica.store.objects.find(key)) is not None:
                yield replica.shown, content
