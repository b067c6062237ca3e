"""What everybody who writes a snapshot does, so that no prune takes anything from it.

`core/snapshots/garbage.py` says why these steps, in this order, are enough.
"""

from collections.abc import Iterable
from datetime import datetime

from gpufleet.core.snapshots.garbage import Found, may_commit, to_store_again
from gpufleet.core.snapshots.layout import MANIFEST, snapshot_key
from gpufleet.flows.snapshots.mark import PRUNE, RunningMark, running
from gpufleet.flows.snapshots.store import Contents, SnapshotStore
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.snapshots import ChunkRef, Grace, TakeMark


class Deposit:
    """Objects on their way into a store, from several threads; each is locked for the snapshot.

    Args:
        store: opened.
        contents: what it holds.
        until: what the snapshot needs is locked until then; None on a plain bucket.
    """

    def __init__(self, store: SnapshotStore, contents: Contents, until: datetime | None) -> None:
        self.store = store
        self.contents = contents
        self._until = until
        self._extended: set[str] = set()

    def shares(self, chunk: ChunkRef) -> bool:
        """Whether the store has a chunk, which is locked for this snapshot then."""
        place = self.contents.place(chunk)
        if place is None:
            return False
        if self._until is None or place.key in self._extended:
            return True
        if not self.store.objects.extend(place.key, self._until):
            # A prune was faster: it is stored again.
            self.contents.modified.pop(place.key, None)
            return False
        self._extended.add(place.key)
        return True

    def put(self, key: str, body: bytes | bytearray) -> bool:
        """Put an object whose name follows from its content; one that is there is locked longer.

        Returns:
            False where it was there.
        """
        until, objects = self._until, self.store.objects
        is_new = True
        if key in self.contents.stale:
            objects.put(key, body, until)
        elif not (is_new := objects.put_new(key, body, until)) and until is not None:
            objects.extend(key, until)
        self._extended.add(key)
        return is_new

    def commit(self, snapshot: str, manifest: bytes) -> bool:
        """Put a manifest: the snapshot exists from then on.

        Returns:
            False where it was there.

        Raises:
            Failed: another snapshot has this ID.
        """
        key = snapshot_key(snapshot, MANIFEST)
        objects = self.store.objects
        # Where another was first it is the same one: its ID follows from its content.
        is_new = objects.put_new(key, manifest, self._until)
        if not is_new and objects.get(key) != manifest:
            raise Failed("another snapshot has this ID", where=f"{self.store.shown}/{key}")
        return is_new


def refuse_beside_prune(store: SnapshotStore, mark: RunningMark, grace: Grace) -> None:
    """See that no prune runs where it could delete what is stored anew meanwhile.

    Raises:
        Retryable: one does.
    """
    if store.objects.keeps_versions():
        return
    _, now = mark.now()
    for each in running(store, PRUNE):
        if now < each.beat + grace.margin:
            raise Retryable(
                f"a prune runs on {each.host}, and the bucket keeps no versions",
                where=store.shown,
                mend="try again when it is done; one that was killed counts for an hour",
            )


def reliable(
    store: SnapshotStore, mark: RunningMark, until: datetime | None, grace: Grace
) -> Contents:
    """What the store holds; what a prune may delete before the snapshot is there counts as gone."""
    contents = store.contents()
    if until is not None:
        # What is relied on is locked.
        return contents
    by = _commit_by(mark.now()[0], grace)
    found = [Found(key, modified) for key, modified in contents.modified.items()]
    if old := set(to_store_again(found, (), commit_by=by, grace=grace)):
        named = store.named(contents)
        contents.stale.update(old - named)
    return contents


def check_before_commit(
    store: SnapshotStore, needed: Iterable[ChunkRef], running: RunningMark, grace: Grace
) -> None:
    """See by a new listing that nothing was removed while the rest was stored.

    Raises:
        Retryable: something was, or it took too long.
    """
    held = store.contents()
    missing = [chunk.id for chunk in needed if held.place(chunk) is None]
    mark, now = running.now()
    may_commit(mark, now, missing, grace)
    if now > _commit_by(mark, grace):
        raise Retryable(
            f"it ran for longer than {grace.keep / 4}: a prune may delete what it found",
            where=store.shown,
            mend="run it again: what is stored is kept",
        )


def _commit_by(mark: TakeMark, grace: Grace) -> datetime:
    """A quarter of the grace: what an interrupted take stored in the rest of it is relied on."""
    return mark.began + grace.keep / 4
