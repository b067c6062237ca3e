"""Restoring on a node: from an address, without a fleet file, a database or a journal."""

import time

from gpufleet.edges.object_client import Place
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.snapshots.keys import key_for
from gpufleet.flows.snapshots.meter import quiet
from gpufleet.flows.snapshots.restore import RestoreOrder, chosen_of, plan_restore, restore
from gpufleet.flows.snapshots.same import difference_of_bytes, has_modes
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.spec.snapshots import RestorePlan, RestoreReport


def store_at(place: Place, bucket: str) -> SnapshotStore:
    """A store by its address, with the key that the environment's variable names if it has one.

    Raises:
        BadInput: there is no store, it has a newer format, or its key cannot be had.
        Retryable: it does not answer.
    """
    objects = SnapshotObjects(SnapshotPlace(place, bucket))
    key_id = SnapshotStore(objects).key_id()
    return SnapshotStore(objects, key_for(key_id, where=objects.shown))


def fill(
    order: RestoreOrder, place: Place, bucket: str, *, apply: bool
) -> RestoreReport | RestorePlan:
    """Restore a snapshot from the store at an address, or say what that would do.

    A folder that holds it already, each byte and mode, is left as it is: engines have it open, and
    a node has no room for two.

    Raises:
        BadInput: there is no such snapshot, or the store's key cannot be had.
        Retryable: the store does not answer, or the disk is full.
        Failed: a chunk of it is lost or damaged.
    """
    store = store_at(place, bucket)
    manifest, begun = chosen_of(store, order), time.monotonic()
    if not apply:
        return plan_restore(order, manifest, predicted_s=None)
    if not difference_of_bytes(store, manifest, order.to) and has_modes(manifest, order.to):
        return RestoreReport(
            snapshot=order.snapshot,
            to=str(order.to),
            files=len(manifest.files),
            bytes_total=manifest.plain_bytes,
            bytes_fetched=0,
            bytes_local=manifest.plain_bytes,
            seconds=time.monotonic() - begun,
        )
    # A pod's log has one line for all of it.
    return restore(store, order, quiet)
