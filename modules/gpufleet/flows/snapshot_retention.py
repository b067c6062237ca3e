"""The fleet file's retention of snapshots, kept by itself: every store is pruned once a day."""

from datetime import timedelta
from typing import Final

from gpufleet.edges.clock import system_clock
from gpufleet.flows.ground import Ground
from gpufleet.flows.snapshots.requests import PRUNED, pruned, store_of
from gpufleet.flows.stores import places_of
from gpufleet.spec.errors import FleetError

_EVERY: Final = timedelta(days=1)
_RECORDS: Final = 100
"""The newest prunes that are looked at, of all stores together."""


def keep_retention(ground: Ground) -> list[str]:
    """Prune each store that was not pruned for a day, by whomever; the sites of those.

    Raises:
        FleetError: a store could not be pruned; the others were.
    """
    last = {
        record.body.get("store"): record.at for record in ground.journal.latest(PRUNED, _RECORDS)
    }
    done: list[str] = []
    failures: list[FleetError] = []
    for site in places_of(ground):
        try:
            store = store_of(ground, site)
            before = last.get(store.shown)
            if before is not None and system_clock() - before < _EVERY:
                continue
            if not store.exists():
                continue
            with ground.holding(f"snapshot-retention:{site}", why="snapshot-retention"):
                pruned(ground, site, apply=True)
            done.append(site)
        except FleetError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return done
