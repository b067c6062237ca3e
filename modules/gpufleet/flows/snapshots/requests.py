"""What people ask of an environment's snapshots: where its store is, what was done, who did it."""

import hashlib
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from gpufleet.core.snapshots.prediction import HISTORY, measured
from gpufleet.core.weights import served_here, snapshots_bucket
from gpufleet.edges.clock import system_clock
from gpufleet.edges.object_client import NothingThereError
from gpufleet.edges.object_store import ObjectStore
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.ground import Ground, whoami
from gpufleet.flows.snapshots.keys import demanded_trust, key_of, signer_for
from gpufleet.flows.snapshots.meter import OnProgress
from gpufleet.flows.snapshots.prune import PruneOrder, prune
from gpufleet.flows.snapshots.restore import RestoreOrder, chosen_of, plan_restore, restore
from gpufleet.flows.snapshots.signed import check_signature
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.flows.snapshots.take import TakeOrder, plan_take, take
from gpufleet.flows.stores import places_of
from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshots import PruneReport, RestorePlan, RestoreReport, TakePlan, TakeReport

TAKEN: Final = "snapshot.taken"
PRUNED: Final = "snapshot.pruned"
"""Events of the journal."""
_RESTORED: Final = "snapshot.restored"
_DONE: Final = ("snapshot", "to", "files", "bytes_total", "bytes_fetched", "bytes_local", "seconds")


@dataclass(frozen=True)
class TakeWish:
    """What somebody wants to have taken."""

    source: Path
    revision: str
    reread: bool = False
    sign_key: Path | None = None
    """Private key to sign with, in place of the one that the fleet file names."""


def store_of(
    ground: Ground, site: str = "", *, bucket: str = "", make: bool = False
) -> SnapshotStore:
    """The snapshot store of a site.

    Args:
        ground: of the environment.
        site: whose; empty where only one has an object store.
        bucket: of it; empty for the environment's own.
        make: its bucket, with Object Lock, where it is not there.

    Raises:
        BadInput: no such site, it has no object store, several have one and none was named, or
            the key that chunks are encrypted with cannot be had.
        Retryable: it does not answer.
    """
    name = chosen_site(ground, site)
    place = places_of(ground)[name]
    bucket = bucket or snapshots_bucket(ground.fleet)
    if make:
        ObjectStore(place).make_locked_bucket(bucket)
    declared = ground.fleet.sites[name].object_store
    kms_key = declared.kms_key if declared else None
    return SnapshotStore(
        SnapshotObjects(SnapshotPlace(place, bucket, kms_key=kms_key)), key_of(ground)
    )


def chosen_site(ground: Ground, site: str) -> str:
    """The site that is named, or the only one that has an object store; errors as `store_of`."""
    places = places_of(ground)
    if site in places:
        return site
    have = ", ".join(f"`{name}`" for name in places) or "none"
    mend = f"sites with an object store: {have}"
    if site in ground.fleet.sites:
        raise BadInput("the site has no object store yet", where=site, mend=f"./fleet up; {mend}")
    if site:
        raise BadInput("no such site", where=site, mend=mend)
    if not places:
        raise BadInput(
            "no site has an object store",
            where=str(ground.fleet_file),
            mend="./fleet up starts those of embedded sites; `object_store` declares another",
        )
    if len(places) > 1:
        raise BadInput("several sites have an object store", mend=f"name one by --site: {have}")
    return next(iter(places))


def planned_take(ground: Ground, wish: TakeWish, site: str) -> TakePlan:
    """What a take would do.

    Raises:
        BadInput: the source cannot be taken as it is, or there is no such store.
    """
    store = store_of(ground, site)
    return plan_take(store, _order(ground, wish, store), _table(ground, wish))


def taken(ground: Ground, wish: TakeWish, site: str, on_progress: OnProgress) -> TakeReport:
    """Take a snapshot, and write it into the journal; errors as those of `take`."""
    store = store_of(ground, site, make=True)
    order = _order(ground, wish, store)
    report = take(store, order, _table(ground, wish), system_clock, on_progress)
    ground.note(TAKEN, actor=whoami(), target=report.snapshot, store=store.shown, **asdict(report))
    return report


def planned_restore(ground: Ground, order: RestoreOrder, site: str) -> RestorePlan:
    """What a restore would do, and how long it takes by the rate of earlier ones.

    Raises:
        BadInput: there is no such snapshot or file, or its signature is forged.
        Unsigned: the fleet file demands signatures, and it has none.
    """
    store = store_of(ground, site)
    _check_demanded(ground, store, order)
    manifest = chosen_of(store, order)
    return plan_restore(order, manifest, _predicted(ground, manifest.plain_bytes))


def restored(
    ground: Ground, order: RestoreOrder, site: str, on_progress: OnProgress
) -> RestoreReport:
    """Restore a snapshot, and write it into the journal; errors as those of `restore`.

    Raises:
        Unsigned: the fleet file demands signatures, and it has none.
        Forged: its signature is not one of it, or by somebody whose signatures do not count.
    """
    store = store_of(ground, site)
    _check_demanded(ground, store, order)
    predicted_s = _predicted(ground, chosen_of(store, order).plain_bytes)
    report = replace(restore(store, order, on_progress), predicted_s=predicted_s)
    facts = {name: getattr(report, name) for name in _DONE}
    ground.note(_RESTORED, actor=whoami(), target=report.snapshot, store=store.shown, **facts)
    return report


def _check_demanded(ground: Ground, store: SnapshotStore, order: RestoreOrder) -> None:
    """See that a snapshot is signed where the fleet file demands it."""
    if not order.unsigned and (trust := demanded_trust(ground)) is not None:
        store.open()
        check_signature(store, order.snapshot, trust)


def pruned(ground: Ground, site: str, *, apply: bool) -> PruneReport:
    """Prune a store by the fleet file's retention, and write it into the journal.

    Errors as those of `prune`.
    """
    store = store_of(ground, site)
    order = PruneOrder(ground.fleet.snapshots, apply, served=served_here(ground.fleet))
    report = prune(store, order, system_clock())
    if apply:
        ground.note(
            PRUNED,
            actor=whoami(),
            store=store.shown,
            removed=list(report.removed),
            expired=list(report.expired),
            objects_deleted=report.objects_deleted,
            bytes_deleted=report.bytes_deleted,
        )
    return report


def measured_rate(ground: Ground) -> float | None:
    """Bytes/s that earlier restores of the environment fetched; None where there was none."""
    known = TypeAdapter(RestoreReport)
    earlier = ground.journal.latest(_RESTORED, HISTORY)
    rate, _ = measured(
        known.validate_python({name: record.body[name] for name in _DONE}) for record in earlier
    )
    return rate


def _predicted(ground: Ground, bytes_total: int) -> float | None:
    rate = measured_rate(ground)
    return bytes_total / rate if rate else None


def locked_until(ground: Ground, store: SnapshotStore) -> datetime | None:
    """Until when what is stored now is locked: for as many days as one of each day is kept.

    Returns:
        None where the bucket is there and cannot lock.
    """
    try:
        if not store.objects.can_lock():
            return None
    except NothingThereError:
        # It is made with Object Lock.
        pass
    keep = timedelta(days=ground.fleet.snapshots.daily)
    return (system_clock() + keep).replace(microsecond=0)


def _order(ground: Ground, wish: TakeWish, store: SnapshotStore) -> TakeOrder:
    until = locked_until(ground, store)
    signer = signer_for(ground, wish.sign_key)
    return TakeOrder(wish.source, wish.revision, until=until, reread=wish.reread, signer=signer)


def _table(ground: Ground, wish: TakeWish) -> Path:
    """One for each revision: pods of several nodes may share the folder, and no SQLite file."""
    name = hashlib.sha256(wish.revision.encode()).hexdigest()[:16]
    return ground.state.root / "snapshots" / f"read-{name}.db"
