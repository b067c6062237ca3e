"""Restoring on a node: from an address, without a fleet file, a database or a journal."""

import os
from typing import Final

from gpufleet.edges.object_client import Place
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.snapshots.meter import quiet
from gpufleet.flows.snapshots.restore import RestoreOrder, chosen_of, plan_restore, restore
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.spec.snapshots import RestorePlan, RestoreReport

_CA: Final = "AWS_CA_BUNDLE"
"""AWS's own name for the file of a store's authority."""


def fill(
    order: RestoreOrder, *, endpoint: str, region: str, bucket: str, apply: bool
) -> RestoreReport | RestorePlan:
    """Restore a snapshot from the store at an address, or say what that would do.

    Its keys come from AWS's chain (variables, profile, the machine's role), the file of its
    authority from `AWS_CA_BUNDLE`.

    Raises:
        BadInput: there is no such snapshot.
        Retryable: the store does not answer, or the disk is full.
        Failed: a chunk of it is lost or damaged.
    """
    place = Place(endpoint, region, ca=os.environ.get(_CA))
    store = SnapshotStore(SnapshotObjects(SnapshotPlace(place, bucket)))
    if apply:
        # A pod's log has one line for all of it.
        return restore(store, order, quiet)
    return plan_restore(order, chosen_of(store, order), predicted_s=None)
