"""What people ask of snapshots in the stores of two sites: copies, and repairs from a copy."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gpufleet.core.snapshots.layout import REMOVED, SNAPSHOTS, snapshot_key
from gpufleet.core.snapshots.retention import Standing, needed, retained
from gpufleet.core.weights import served_here
from gpufleet.edges.clock import system_clock
from gpufleet.flows.ground import Ground, whoami
from gpufleet.flows.snapshots.catalogue import listing
from gpufleet.flows.snapshots.meter import OnProgress
from gpufleet.flows.snapshots.repair import RepairOrder, repair
from gpufleet.flows.snapshots.replicate import ReplicateOrder, plan_replicate, replicate
from gpufleet.flows.snapshots.requests import locked_until, store_of
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.flows.snapshots.verify import is_damaged
from gpufleet.flows.stores import places_of
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.snapshot_copies import RepairReport, ReplicatePlan, ReplicateReport

if TYPE_CHECKING:
    from pydantic import JsonValue


@dataclass(frozen=True)
class ReplicateWish:
    """What somebody wants to have copied."""

    source: str
    """Site that it is copied from."""
    target: str
    """Site that it is copied to."""
    snapshot: str = ""
    """An ID; empty for every good one that the retention keeps."""
    revision: str = ""
    """Only those of one model revision; empty for all."""


@dataclass(frozen=True)
class RepairWish:
    """What somebody wants to have repaired."""

    snapshot: str
    site: str = ""
    """Whose store; empty where only one has one."""
    source: str = ""
    """Site that copies are taken from; empty for every other one."""


def planned_replicate(ground: Ground, wish: ReplicateWish) -> ReplicatePlan:
    """What replicating would do.

    Raises:
        BadInput: no such site, store or snapshot.
    """
    source, target = _stores(ground, wish, make=False)
    return plan_replicate(source, target, _order(ground, wish, source, target))


def replicated(ground: Ground, wish: ReplicateWish, on_progress: OnProgress) -> ReplicateReport:
    """Copy snapshots to another site, and write it into the journal; errors as of `replicate`."""
    source, target = _stores(ground, wish, make=True)
    report = replicate(source, target, _order(ground, wish, source, target), on_progress)
    if report.objects_copied:
        facts = {name: value for name, value in asdict(report).items() if name != "damaged"}
        lost: list[JsonValue] = [*sorted(report.damaged)]
        ground.note("snapshot.replicated", actor=whoami(), damaged=lost, **facts)
    return report


def repaired(
    ground: Ground, wish: RepairWish, on_progress: OnProgress, *, apply: bool
) -> RepairReport:
    """Bring back what a site's store lost of a snapshot, and write it into the journal.

    Errors as those of `repair`.
    """
    store = store_of(ground, wish.site)
    if wish.source:
        names = [wish.source]
    else:
        names = [name for name in places_of(ground) if store_of(ground, name).shown != store.shown]
    others = [(f"the store of {name}", store_of(ground, name)) for name in names]
    order = RepairOrder(wish.snapshot, apply, until=locked_until(ground, store))
    report = repair(store, others, order, on_progress)
    if apply and report.mends:
        ground.note(
            "snapshot.repaired",
            actor=whoami(),
            target=report.snapshot,
            store=store.shown,
            mends=[asdict(each) for each in report.mends],
            lost=[each.key for each in report.lost],
        )
    return report


def _stores(
    ground: Ground, wish: ReplicateWish, *, make: bool
) -> tuple[SnapshotStore, SnapshotStore]:
    if wish.source == wish.target:
        raise BadInput("is the site that it is copied from", where="--to")
    return store_of(ground, wish.source), store_of(ground, wish.target, make=make)


def _order(
    ground: Ground, wish: ReplicateWish, source: SnapshotStore, target: SnapshotStore
) -> ReplicateOrder:
    until = locked_until(ground, target)
    if wish.snapshot:
        return ReplicateOrder((wish.snapshot,), until)
    chosen = _chosen(source, target, wish.revision, ground.fleet, system_clock())
    return ReplicateOrder(chosen, until)


def _chosen(
    source: SnapshotStore,
    target: SnapshotStore,
    revision: str,
    fleet: Fleet,
    now: datetime,
) -> tuple[str, ...]:
    """The good snapshots that a prune of both stores together would keep, from the newest on."""
    here = listing(source, revision).snapshots
    if revision and not here:
        raise BadInput(
            f"there is no snapshot of `{revision}`",
            where=source.shown,
            mend="`snapshot.list` shows those that are there",
        )
    standings = [Standing(each, is_damaged(source, each.id)) for each in here]
    ids = {each.id for each in here}
    removed = set()
    if target.exists():
        there = listing(target, revision).snapshots
        standings += [
            Standing(each, is_damaged(target, each.id)) for each in there if each.id not in ids
        ]
        removed = {each.key for each in target.objects.objects(SNAPSHOTS)}
    standings = needed(standings, served_here(fleet))
    kept = retained(standings, fleet.snapshots, zone=UTC, now=now).keep
    good = {each.summary.id for each in standings if not each.damaged} & ids & kept.keys()
    return tuple(
        each.id
        for each in here
        # What a prune has removed there it would remove again.
        if each.id in good and snapshot_key(each.id, REMOVED) not in removed
    )
