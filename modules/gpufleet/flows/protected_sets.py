"""The protected sets of a store, and what one says of itself."""

import tempfile
from pathlib import Path

from gpufleet.core.protection import decode
from gpufleet.flows.snapshots.catalogue import listing
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.spec.protection import HEADS_FILE, REVISION, SET_FILE, Heads, Part, ProtectedSet
from gpufleet.spec.snapshots import SnapshotKind, SnapshotSummary


def quiet(_: object) -> None:
    """For whoever wants to see no progress."""


def protected_sets(store: SnapshotStore) -> list[SnapshotSummary]:
    """The protected sets of a store, newest first.

    Raises:
        Retryable: it does not answer.
    """
    return [each for each in listing(store, REVISION).snapshots if each.kind is SnapshotKind.STATE]


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
        return Heads.model_validate_json(content)
