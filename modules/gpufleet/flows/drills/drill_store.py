"""A snapshot store of a drill's own: a bucket beside those of production, empty after the drill."""

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from gpufleet.edges.clock import system_clock
from gpufleet.edges.object_client import Place
from gpufleet.edges.object_store import ObjectStore
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.ground import Ground
from gpufleet.flows.snapshots.catalogue import listing
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.flows.snapshots.take import TakeOrder, take
from gpufleet.flows.stores import places_of
from gpufleet.spec.errors import Failed

_EARLIER: Final = timedelta(minutes=1)
"""Between the good snapshot and the bad one."""
_ADDED: Final = "added-by-the-drill"
_ROTTEN: Final = b"not what its name says"


@dataclass(frozen=True)
class DrillStore:
    """The store of one drill at one site.

    Args:
        ground: the environment.
        site: whose object store it is in.
        flow: of the drill; everything is below it.
        folder: of the drill, on this machine.
    """

    ground: Ground
    site: str
    flow: str
    folder: Path

    @property
    def bucket(self) -> str:
        """Of all drills of an environment."""
        return f"{self.ground.fleet.slug}-drill"

    def fill(self, tree: Path, revision: str) -> None:
        """Two snapshots of a tree: a good one, and a newer one with a file more.

        What only the newer one needs is noted: it is what `rot` damages.
        """
        ObjectStore(self._place).make_bucket(self.bucket)
        now = system_clock()
        table = self.folder / "read.db"
        take(self._store, TakeOrder(tree, revision), table, lambda: now - _EARLIER, lambda _: None)
        if not self._noted.is_file():
            before = self._keys()
            (tree / _ADDED).write_text(f"{self.flow}\n", encoding="utf-8")
            take(self._store, TakeOrder(tree, revision), table, lambda: now, lambda _: None)
            fresh = [key for key in self._keys() if key not in before and _is_data(key)]
            self._noted.write_text(json.dumps(fresh), encoding="utf-8")

    def rot(self) -> int:
        """Damage what only the newest snapshot needs; returns how many objects that is."""
        fresh: list[str] = json.loads(self._noted.read_text(encoding="utf-8"))
        for key in fresh:
            ObjectStore(self._place).put(self.bucket, key, _ROTTEN)
        return len(fresh)

    def restore_last_good(self, revision: str, to: Path) -> str:
        """Restore the newest snapshot that is whole; says which were not.

        Raises:
            Failed: none is.
        """
        refused = []
        for each in listing(self._store, revision).snapshots:
            try:
                report = restore(
                    self._store, RestoreOrder(each.id, to, reuse=False), lambda _: None
                )
            except Failed as error:
                refused.append(f"{each.id} is damaged ({error.what})")
                continue
            told = f"{each.id} is whole: {report.bytes_total / 2**20:.0f} MiB, all verified"
            return "; ".join([*refused, told])
        raise Failed("no snapshot is whole", where=self._store.shown)

    def empty(self) -> None:
        """Delete all of it; nothing where there is none.

        Raises:
            Retryable: the store does not answer.
        """
        store = ObjectStore(self._place)
        store.delete(self.bucket, self._keys())

    def _keys(self) -> list[str]:
        return ObjectStore(self._place).keys(self.bucket, f"{self.flow}/")

    @property
    def _noted(self) -> Path:
        return self.folder / "fresh.json"

    @property
    def _place(self) -> Place:
        return places_of(self.ground)[self.site]

    @property
    def _store(self) -> SnapshotStore:
        return SnapshotStore(SnapshotObjects(SnapshotPlace(self._place, self.bucket, self.flow)))


def _is_data(key: str) -> bool:
    return "/chunks/" in key or "/packs/" in key
