"""The protected sets of a store, and what one says of itself."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import ValidationError

from gpufleet.core.protection import decode
from gpufleet.core.snapshots.stored_json import broken
from gpufleet.flows.snapshots.catalogue import is_of_the_future, readable_summary
from gpufleet.flows.snapshots.meter import quiet
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.snapshots.store import THREADS, SnapshotStore
from gpufleet.spec.protection import HEADS_FILE, REVISION, SET_FILE, Heads, Part, ProtectedSet
from gpufleet.spec.snapshots import SnapshotKind, SnapshotSummary


def protected_sets(store: SnapshotStore) -> list[SnapshotSummary]:
    """The protected sets of a store that can be listed, newest first.

    Those that are dated in the future come last.

    Raises:
        Retryable: it does not answer.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        listed = store.listed() if store.exists() else []
        every = pool.map(lambda snapshot: readable_summary(store, snapshot), listed)
        found = [
            each
            for each in every
            if each and each.revision == REVISION and each.kind is SnapshotKind.STATE
        ]
    newest_first = sorted(found, key=lambda each: (each.created, each.id), reverse=True)
    return sorted(newest_first, key=is_of_the_future)


def read_set(store: SnapshotStore, snapshot: str) -> ProtectedSet:
    """What a protected set says of itself.

    Raises:
        BadInput: there is no such snapshot, or it is no protected set.
        Failed: it is lost or damaged.
        Retryable: the store does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="gpufleet-") as folder:
        to = Path(folder, "set")
        restore(store, RestoreOrder(snapshot, to, SET_FILE), quiet)
        return decode((to / SET_FILE).read_bytes(), where=f"snapshot {snapshot}")


def heads_of(store: SnapshotStore, snapshot: str) -> Heads:
    """The heads of all chains, as a protected set has them; errors as those of `read_set`."""
    with tempfile.TemporaryDirectory(prefix="gpufleet-") as folder:
        to = Path(folder, "set")
        restore(store, RestoreOrder(snapshot, to, Part.AUDIT_HEADS.value), quiet)
        content = (to / Part.AUDIT_HEADS.value / HEADS_FILE).read_bytes()
    try:
        return Heads.model_validate_json(content)
    except ValidationError:
        raise broken("heads of the chains", f"snapshot {snapshot}") from None
