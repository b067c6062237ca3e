"""The weights of a drill: the newest snapshot of each revision, restored and verified."""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass

from gpufleet.flows.ground import Ground
from gpufleet.flows.snapshots.catalogue import listing
from gpufleet.flows.snapshots.requests import store_of
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.spec.errors import BadInput, Retryable
from gpufleet.spec.snapshots import SnapshotSummary


@dataclass(frozen=True)
class Restored:
    """What came back of one revision."""

    revision: str
    snapshot: str
    """Empty where the site has none."""
    bytes_total: int
    seconds: float


def newest_snapshot(ground: Ground, site: str, revision: str) -> SnapshotSummary | None:
    """The newest snapshot of a revision in a site's store; None where there is none to be had."""
    with suppress(BadInput, Retryable):
        found = listing(store_of(ground, site), revision).snapshots
        return found[0] if found else None
    return None


def restore_newest(ground: Ground, flow: str, site: str, revision: str) -> Restored:
    """Restore the newest snapshot of a revision from a site's store, every byte verified.

    Into a folder of the drill, which is removed at once: what is proven is that it can be read, and
    how long that takes.

    Raises:
        Retryable: the store does not answer, or the disk is full.
        Failed: a part of it is lost or damaged.
    """
    found = newest_snapshot(ground, site, revision)
    if found is None:
        return Restored(revision, "", 0, 0.0)
    folder = ground.state.root / "drills" / flow / site / revision
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if shutil.disk_usage(folder.parent).free < found.plain_bytes:
        raise Retryable("the disk has no room for the weights", where=str(folder.parent))
    begun = time.monotonic()
    try:
        restore(store_of(ground, site), RestoreOrder(found.id, folder, reuse=False), lambda _: None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Restored(revision, found.id, found.plain_bytes, time.monotonic() - begun)
