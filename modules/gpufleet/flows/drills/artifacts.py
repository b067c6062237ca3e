"""The weights of a drill: the newest snapshot of a revision, restored and verified."""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gpufleet.core.weights import source_of
from gpufleet.flows.ground import Ground
from gpufleet.flows.snapshots.catalogue import listing
from gpufleet.flows.snapshots.requests import store_of
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.stores import places_of
from gpufleet.spec.errors import BadInput, Retryable
from gpufleet.spec.snapshots import SnapshotSummary

_DAMAGED_EVERY_BYTES: Final = 64 * 2**20
"""Once in each such piece: some chunks of a large file are damaged, others whole."""
_ROT: Final = bytes.fromhex("a5e3419bd07c2f68")
"""What no weights hold by chance at that very place."""


@dataclass(frozen=True)
class Restored:
    """What came back of one revision."""

    revision: str
    snapshot: str
    """Empty where the site has none."""
    bytes_total: int
    bytes_fetched: int
    seconds: float


def known_snapshot(ground: Ground, site: str, revision: str) -> SnapshotSummary | None:
    """As `newest_snapshot`, for plans: None also where the store does not answer now."""
    with suppress(BadInput, Retryable):
        return newest_snapshot(ground, site, revision)
    return None


def newest_snapshot(ground: Ground, site: str, revision: str) -> SnapshotSummary | None:
    """The newest snapshot of a revision in a site's store; None where there is none.

    Raises:
        BadInput: the store, or a snapshot in it, is of a newer format.
        Retryable: the store does not answer.
    """
    if site not in places_of(ground):
        return None
    source = source_of(ground.fleet, revision)
    found = listing(store_of(ground, site, bucket=source.bucket), source.revision).snapshots
    return found[0] if found else None


def restore_newest(  # noqa: PLR0913 - what, from where, and how
    ground: Ground,
    folder: Path,
    site: str,
    revision: str,
    *,
    keep: bool = False,
    reuse: bool = False,
) -> Restored:
    """Restore the newest snapshot of a revision from a site's store, every byte verified.

    Args:
        ground: the environment.
        folder: of the drill; the revision has one of its own in it.
        site: whose store.
        revision: its name.
        keep: leave the tree there; otherwise it is removed at once: what is proven is that it can
            be read, and how long that takes.
        reuse: take what is whole of the tree that is there.

    Raises:
        BadInput: the store, or a snapshot in it, is of a newer format.
        Retryable: the store does not answer, or the disk is full.
        Failed: a part of it is lost or damaged.
    """
    found = newest_snapshot(ground, site, revision)
    if found is None:
        return Restored(revision, "", 0, 0, 0.0)
    tree = folder / revision
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < found.plain_bytes:
        raise Retryable("the disk has no room for the weights", where=str(folder))
    begun = time.monotonic()
    try:
        order = RestoreOrder(found.id, tree, reuse=reuse)
        bucket = source_of(ground.fleet, revision).bucket
        report = restore(store_of(ground, site, bucket=bucket), order, lambda _: None)
    finally:
        if not keep:
            shutil.rmtree(tree, ignore_errors=True)
    seconds = time.monotonic() - begun
    return Restored(revision, found.id, found.plain_bytes, report.bytes_fetched, seconds)


def not_shown(revision: str, site: str) -> str:
    """What a drill cannot show of weights that no store has."""
    return f"no snapshot of {revision} is at {site}: that its weights come back is not shown"


def told(found: Restored, site: str) -> str:
    """What came back, in a few words."""
    if not found.snapshot:
        return f"{found.revision}: no snapshot at {site}"
    sizes = f"{_mib(found.bytes_fetched)} of {_mib(found.bytes_total)} MiB fetched"
    return f"{found.revision}: {sizes} of {found.snapshot} in {found.seconds:.1f} s, all verified"


def damage(file: Path) -> int:
    """Overwrite bytes of a file in place, as a disk that rots does; returns how many places.

    The same again changes nothing more.
    """
    size = file.stat().st_size
    places = range(size // 2 % _DAMAGED_EVERY_BYTES, size, _DAMAGED_EVERY_BYTES)
    file.chmod(file.stat().st_mode | 0o200)
    with file.open("r+b") as opened:
        for place in places:
            opened.seek(place)
            opened.write(_ROT[: size - place])
    return len(places)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.0f}"
