"""When drills are due, and the restores of revisions, which are proven by themselves."""

import shutil
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from pydantic import JsonValue, TypeAdapter

from gpufleet.core.drills.cadence import RESTORE, due_drills, due_restores
from gpufleet.flows.declared import LiveGround
from gpufleet.flows.drills.artifacts import restore_newest
from gpufleet.flows.durable import Run, flow
from gpufleet.flows.ground import Ground
from gpufleet.flows.operations import submit
from gpufleet.flows.snapshots.catalogue import listing
from gpufleet.flows.snapshots.requests import store_of
from gpufleet.flows.stores import places_of
from gpufleet.local.platform import embedded_sites
from gpufleet.spec.drills import Due, ProvenRestore
from gpufleet.spec.errors import Failed, FleetError

PROVE: Final = "restore-proof"
_PROVEN: Final = "drill.restored"
_REMEMBERED: Final = 500
SetDue = Callable[[Due], None]


def schedule(ground: Ground) -> list[Due]:
    """Every drill, and every revision that a store has, with when it was proven and is due.

    Raises:
        Retryable: the database does not answer; of a store that does not, nothing is told.
    """
    since, now = _begin(ground), ground.clock()
    drills = []
    if len(embedded_sites(ground.fleet)) == len(ground.fleet.sites):
        drills = due_drills(ground.fleet, ground.drills.reports(), since, now)
    restores = due_restores(ground.fleet, _held(ground), proven(ground), since, now)
    return [*drills, *restores]


def proven(ground: Ground) -> list[ProvenRestore]:
    """The restores that were proven, oldest first."""
    known = TypeAdapter(ProvenRestore)
    records = ground.journal.latest(_PROVEN, _REMEMBERED)
    return [known.validate_python({"at": record.at, **record.body}) for record in records]


@flow(PROVE)
def prove(run: Run, order: dict[str, Any]) -> dict[str, JsonValue]:
    """Restore the newest snapshot of a revision, verify every byte, and remember how long it took.

    Raises:
        Failed: it cannot be read back.
    """
    revision, site = str(order["revision"]), str(order["site"])
    folder = run.ground.state.root / "drills" / run.id

    def restore() -> dict[str, Any]:
        try:
            found = restore_newest(run.ground, folder, site, revision)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if not found.snapshot:
            raise Failed("its snapshot is gone", where=f"{revision} at {site}")
        return {
            "revision": revision,
            "site": site,
            "snapshot": found.snapshot,
            "seconds": round(found.seconds, 3),
            "bytes_total": found.bytes_total,
        }

    told: dict[str, JsonValue] = run.step("restore", restore)
    run.note(_PROVEN, target=f"{revision}@{site}", **told)
    return told


class DrillKeeper:
    """Begins the restores that are due, and tells Prometheus when each thing is.

    Args:
        ground: the environment, as its files declare it now.
        tell: takes each row.
    """

    def __init__(self, ground: LiveGround, tell: SetDue) -> None:
        self._ground = ground
        self._tell = tell
        self._begun: set[str] = set()

    def keep(self) -> None:
        """Once; called again and again.

        Raises:
            Retryable: the database does not answer.
        """
        ground = self._ground.now()
        now = ground.clock()
        for row in schedule(ground):
            self._tell(row)
            if row.scenario == RESTORE and row.due_at <= now:
                self._begin(ground, row.target, now)

    def _begin(self, ground: Ground, target: str, now: datetime) -> None:
        """Once a day, until it is proven."""
        revision, _, site = target.rpartition("@")
        id_ = f"{PROVE}-{revision}-{site}-{now:%Y%m%d}"
        if id_ not in self._begun and site in embedded_sites(ground.fleet):
            order = {"actor": "schedule", "revision": revision, "site": site}
            submit(ground, PROVE, id_, order)
            self._begun.add(id_)


def _begin(ground: Ground) -> datetime:
    """When the environment began: the first thing that its journal tells."""
    first = next(ground.journal.records(), None)
    return first.at if first else ground.clock()


def _held(ground: Ground) -> dict[str, set[str]]:
    """The revisions of which each site's store has a snapshot."""
    found = {}
    for site in places_of(ground):
        try:
            snapshots = listing(store_of(ground, site)).snapshots
        except FleetError:
            continue
        found[site] = {each.revision for each in snapshots}
    return found
