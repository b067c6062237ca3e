"""Restoring on a node: from an address, without a fleet file, a database or a journal."""

import os
import shutil
from typing import Final

from gpufleet.edges.object_client import Place
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.snapshots.restore import RestoreOrder, chosen_of, restore
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.spec.progress import SnapshotProgress
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
        return restore(store, order, _quiet)
    manifest = chosen_of(store, order)
    above = next(folder for folder in (order.to, *order.to.absolute().parents) if folder.is_dir())
    return RestorePlan(
        snapshot=order.snapshot,
        revision=manifest.revision,
        to=str(order.to),
        files=len(manifest.files),
        bytes_total=manifest.plain_bytes,
        bytes_free=shutil.disk_usage(above).free,
        replaces=order.to.exists(),
        predicted_s=None,
    )


def _quiet(_: SnapshotProgress) -> None:
    """A pod's log has one line for all of it."""
