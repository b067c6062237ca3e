"""Protected sets: what else must come back besides model artifacts, kept and brought back.

`protect` takes one into the stores of all sites, `bring_back` restores one part of the newest that
is good, and `flows/put_back.py` puts it in place.
"""

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from gpufleet.core.protection import ELSEWHERE, encode, tightest_rpo
from gpufleet.core.snapshots.retention import lock_for
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database_copy import check_sqlite, kind_of
from gpufleet.edges.own_folder import own_folder
from gpufleet.flows.ground import Ground, whoami
from gpufleet.flows.protected_database import journal_of
from gpufleet.flows.protected_loss import check_nothing_lost
from gpufleet.flows.protected_parts import gather
from gpufleet.flows.protected_sets import heads_of, protected_sets, read_set
from gpufleet.flows.snapshots.catalogue import newest_good
from gpufleet.flows.snapshots.meter import OnProgress, quiet
from gpufleet.flows.snapshots.requests import store_of
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.flows.snapshots.take import TOOL, TakeOrder, take
from gpufleet.flows.stores import places_of
from gpufleet.spec.errors import BadInput, Failed, FleetError
from gpufleet.spec.protection import (
    REVISION,
    SET_FILE,
    SQLITE_FILE,
    BroughtBack,
    Part,
    ProtectedSet,
    ProtectPlan,
    ProtectReport,
)
from gpufleet.spec.records import JournalReport
from gpufleet.spec.snapshots import SnapshotKind, TakeReport

PROTECTED: Final = "dr.protected"
"""Event of the journal."""


def stores_of(ground: Ground) -> dict[str, SnapshotStore]:
    """The snapshot store of every site that has an object store, by site."""
    return {site: store_of(ground, site) for site in places_of(ground)}


def plan(ground: Ground) -> ProtectPlan:
    """What taking a protected set would do.

    Raises:
        BadInput: no site has an object store.
        Retryable: none of them answers.
    """
    stores = _some(stores_of(ground))
    return ProtectPlan(
        stores={site: store.shown for site, store in stores.items()},
        parts=list(Part),
        database=kind_of(ground.database),
        newest=newest_point(stores),
        rpo_s=tightest_rpo(ground.fleet).total_seconds(),
    )


def protect(
    ground: Ground, on_progress: OnProgress = quiet, *, despite_loss: bool = False
) -> ProtectReport:
    """Take a protected set into the store of every site; the journal says so.

    A store that does not answer, or refuses, holds up no other.

    Args:
        ground: the environment.
        on_progress: told a few times a second.
        despite_loss: also take one that has less than the newest one: after a loss it would be the
            newest, and the last one that holds everything would be pruned.

    Raises:
        BadInput: no site has an object store, or there is no `pg_dump`.
        Retryable: no store could be reached, or another process takes one.
        Failed: the database is damaged, something that was protected is gone, or every store
            refuses.
    """
    stores = _some(stores_of(ground))
    begun = time.monotonic()
    snapshots: dict[str, str] = {}
    failures = {} if despite_loss else check_nothing_lost(ground, stores)
    stored = 0
    with own_folder(ground.state.root / "protect" / "set", what="a protected set") as folder:
        found = _made(ground, folder)
        for site in [site for site in stores if site not in failures]:
            try:
                taken = _taken(ground, site, folder, found.at, on_progress)
            except FleetError as error:
                failures[site] = error
                continue
            snapshots[site] = taken.snapshot
            stored += taken.bytes_stored
    if not snapshots:
        # What one store says stands for all.
        raise next(iter(failures.values()))
    unreached = {site: error.what for site, error in failures.items()}
    report = ProtectReport(
        snapshots=snapshots,
        unreached=unreached,
        at=found.at,
        parts=found.parts,
        bytes_total=sum(facts.size_bytes for facts in found.parts),
        bytes_stored=stored,
        seconds=time.monotonic() - begun,
    )
    ground.note(
        PROTECTED,
        actor=whoami(),
        snapshots=dict(snapshots),
        unreached=dict(unreached),
        missing=list(report.missing),
        at=found.at.isoformat(),
        bytes_stored=stored,
    )
    return report


def newest_point(stores: Mapping[str, SnapshotStore]) -> datetime | None:
    """The recovery point that could be had now, of all stores that answer; None before the first.

    Raises:
        Retryable: none of them answers.
    """
    points: list[datetime] = []
    failures: list[FleetError] = []
    for store in stores.values():
        try:
            found = newest_good(store, REVISION, SnapshotKind.STATE)
            points += [found.created] if found else []
        except FleetError as error:
            failures.append(error)
    if failures and len(failures) == len(stores):
        raise failures[0]
    return max(points, default=None)


def bring_back(  # noqa: PLR0913 - what, from where, to where, and how new
    store: SnapshotStore,
    part: Part,
    to: Path,
    *,
    snapshot: str = "",
    not_after: str = "",
    on_progress: OnProgress = quiet,
) -> BroughtBack:
    """Restore one part into a folder, every byte verified; nothing is put in place.

    The part's files are in `to/PART`. A database is opened, and its journal is verified against its
    hashes and the heads of the same set, where it has any.

    Args:
        store: of any site.
        part: what.
        to: folder that is made, or replaced at once when all of it is there.
        snapshot: ID of one set; empty for the newest that can be read.
        not_after: ID of a set: then of it and those before it.
        on_progress: told a few times a second.

    Raises:
        BadInput: there is no protected set, or it has nothing of this part.
        Failed: what was chosen is lost or damaged; of several, the oldest one as well.
        Retryable: the store does not answer, or the disk is full.
    """
    found = [each.id for each in protected_sets(store)]
    if not_after in found:
        found = found[found.index(not_after) :]
    chosen = [snapshot] if snapshot else found
    passed: dict[str, str] = {}
    last: FleetError | None = None
    for each in chosen:
        try:
            return _brought(store, part, to, each, passed, on_progress)
        except (BadInput, Failed) as error:
            passed[each] = error.what
            # What could come back, were it not damaged, says more than what never was there.
            last = error if last is None or isinstance(error, Failed) else last
    if last is not None:
        raise last
    raise BadInput("there is no protected set", where=store.shown, mend="dr.protect takes one")


def _brought(  # noqa: PLR0913, PLR0917 - what was asked, and what was tried
    store: SnapshotStore,
    part: Part,
    to: Path,
    snapshot: str,
    passed: Mapping[str, str],
    on_progress: OnProgress,
) -> BroughtBack:
    found = read_set(store, snapshot)
    facts = found.facts_of(part)
    if facts is None or not facts.files:
        raise BadInput(f"the set has no {part.value}", where=f"snapshot {snapshot}")
    report = restore(store, RestoreOrder(snapshot, to, part.value), on_progress)
    return BroughtBack(
        snapshot=snapshot,
        passed_over=dict(passed),
        part=part,
        at=facts.at,
        folder=str(to / part.value),
        files=report.files,
        size_bytes=report.bytes_total,
        bytes_fetched=report.bytes_fetched,
        seconds=report.seconds,
        journal=_journal(store, snapshot, to / part.value) if part is Part.DATABASE else None,
    )


def _journal(store: SnapshotStore, snapshot: str, folder: Path) -> JournalReport | None:
    file = folder / SQLITE_FILE
    if not file.is_file():
        return None
    check_sqlite(file)
    try:
        anchors = heads_of(store, snapshot).journal
    except (BadInput, Failed):
        # The database is whole; the report says that nothing was there to hold it against.
        anchors = []
    return journal_of(file, anchors)


def _made(ground: Ground, folder: Path) -> ProtectedSet:
    parts = gather(ground, folder)
    found = ProtectedSet(
        fleet=ground.fleet.fleet,
        environment=ground.fleet.environment,
        at=min(facts.at for facts in parts),
        database=kind_of(ground.database),
        fleet_file=ground.fleet_file.name,
        tool=TOOL,
        parts=parts,
        elsewhere=list(ELSEWHERE),
    )
    (folder / SET_FILE).write_bytes(encode(found))
    return found


def _taken(
    ground: Ground, site: str, folder: Path, at: datetime, on_progress: OnProgress
) -> TakeReport:
    store = store_of(ground, site, make=True)
    now = system_clock()
    until: datetime | None = None
    if store.objects.can_lock():
        last = newest_good(store, REVISION, SnapshotKind.STATE)
        earlier = last.created if last else None
        until = (now + lock_for(ground.fleet.snapshots, earlier, now)).replace(microsecond=0)
    order = TakeOrder(folder, REVISION, SnapshotKind.STATE, until=until)
    # Its snapshot is as old as what it holds.
    return take(store, order, ground.state.root / "protect" / "read.db", lambda: at, on_progress)


def _some(stores: dict[str, SnapshotStore]) -> dict[str, SnapshotStore]:
    if not stores:
        raise BadInput(
            "no site has an object store",
            where="sites",
            mend="./fleet up starts those of embedded sites; `object_store` declares another",
        )
    return stores
