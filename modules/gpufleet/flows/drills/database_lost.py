"""gpufleet's database is lost: in one of the drill's own the newest protected set comes back."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from gpufleet.core.journal import sealed
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import Database
from gpufleet.edges.database_copy import kind_of
from gpufleet.edges.database_spare import drop_spare, restored_spare
from gpufleet.edges.journal_table import Journal
from gpufleet.edges.key_table import KeyTable
from gpufleet.edges.whole_files import write_whole
from gpufleet.flows.drills.script import Common, Doubted
from gpufleet.flows.ground import Ground
from gpufleet.flows.operations import open_flows
from gpufleet.flows.protected_database import journal_in
from gpufleet.flows.protected_sets import heads_of
from gpufleet.flows.protection import bring_back, stores_of
from gpufleet.flows.snapshots.catalogue import newest_good
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.spec.drills import Placed
from gpufleet.spec.errors import BadInput, Failed
from gpufleet.spec.protection import (
    POSTGRESQL_FILE,
    REVISION,
    SQLITE_FILE,
    BroughtBack,
    DatabaseKind,
    Part,
)
from gpufleet.spec.records import JournalReport
from gpufleet.spec.snapshots import SnapshotKind, SnapshotSummary

_BROUGHT: Final = "brought.json"
_NEWEST: Final = "newest.json"


def newest_set(ground: Ground) -> tuple[SnapshotStore, SnapshotSummary] | None:
    """The newest good protected set of any site's store; None before the first.

    Raises:
        Retryable: a store does not answer.
    """
    found = [
        (store, newest)
        for store in stores_of(ground).values()
        if (newest := newest_good(store, REVISION, SnapshotKind.STATE))
    ]
    return max(found, key=lambda each: each[1].created, default=None)


class DatabaseLost(Common):
    """The newest protected set is restored beside the environment's database, and proven."""

    def fail(self) -> str:
        """Nothing of the environment's own; which set is the newest now: a later one comes late."""
        found = newest_set(self.ground)
        if found is None:
            raise Failed("there is no protected set", where=self.ground.fleet.slug)
        store, newest = found
        (site,) = (name for name, each in stores_of(self.ground).items() if each.name == store.name)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self.folder / _NEWEST, json.dumps({"site": site, "snapshot": newest.id}))
        return newest.id

    def notice(self, fact: str, doubted: Doubted) -> str:
        """An empty database lacks what the newest set says of the journal."""
        del fact
        store, newest = self._newest()
        heads = heads_of(store, newest).journal
        with closing(Database(f"sqlite:///{self.folder / 'empty.db'}")) as empty:
            empty.migrate()
            # Nothing is written: the name is that of no writer.
            lacking = Journal(empty, "", system_clock, sealed).lacks(heads)
        if not lacking:
            doubted("an empty database is not told from the environment's")
        records = sum(anchor.sequence for anchor in lacking)
        return f"an empty database lacks {records} records of {len(lacking)} journals"

    def choose(self, fact: str) -> str:
        """The newest good set."""
        del fact
        store, newest = self._newest()
        return f"the protected set {newest} of {store.shown}"

    def restore(self, placed: Sequence[Placed], doubted: Doubted) -> str:
        """Bring it back beside the environment's, and prove journal, keys and flows."""
        del placed
        store, newest = self._newest()
        to = self.folder / "database"
        brought = bring_back(store, Part.DATABASE, to, not_after=newest)
        (self.folder / _BROUGHT).write_text(brought.model_dump_json(), encoding="utf-8")
        with self._opened(brought) as database:
            journal = brought.journal or _journal(database, store, brought.snapshot)
            if not journal.anchors:
                doubted(f"the set {brought.snapshot} has no heads to hold its journal against")
            if journal.findings:
                raise Failed(
                    f"its journal does not verify: {journal.findings[0]}",
                    where=f"snapshot {brought.snapshot}",
                )
            keys = self._keys(database, brought.at)
            # Its tables of flows may be of an older version of the code: it is a copy.
            flows = len(open_flows(replace(self.ground, database=database)))
            tables = _counts(database)
        return (
            f"{brought.size_bytes / 2**20:.1f} MiB of {brought.snapshot}: {journal.records} "
            f"records of the journal verify to {journal.anchors} heads, {keys} keys, {flows} open "
            f"flows, {sum(tables.values())} rows in {len(tables)} tables: {_largest(tables)}"
        )

    def lost_s(self, fact: str, failed_at: datetime) -> float:
        """What was written since the set, s."""
        del fact
        content = (self.folder / _BROUGHT).read_text(encoding="utf-8")
        at = BroughtBack.model_validate_json(content).at
        return round(max(0.0, (failed_at - at).total_seconds()), 3)

    def _newest(self) -> tuple[SnapshotStore, str]:
        """The set that was the newest at the failure."""
        kept = json.loads((self.folder / _NEWEST).read_text(encoding="utf-8"))
        return stores_of(self.ground)[kept["site"]], str(kept["snapshot"])

    def _keys(self, database: Database, at: datetime) -> int:
        """How many keys came back.

        Raises:
            Failed: one that was issued before the set is not there, or is another one.
        """
        back = {key.id: key.hash for key in KeyTable(database).all()}
        for key in KeyTable(self.ground.database).all():
            if key.created_at <= at and back.get(key.id) != key.hash:
                raise Failed("a gateway key did not come back", where=f"key {key.id}")
        return len(back)

    @contextmanager
    def _opened(self, brought: BroughtBack) -> Iterator[Database]:
        folder, kind = Path(brought.folder), kind_of(self.ground.database)
        name = SQLITE_FILE if kind is DatabaseKind.SQLITE else POSTGRESQL_FILE
        if not (folder / name).is_file():
            raise BadInput(f"the set has no copy for {kind.value}", where=brought.snapshot)
        if kind is DatabaseKind.SQLITE:
            with closing(Database(f"sqlite:///{(folder / name).absolute()}")) as database:
                yield database
            return
        try:
            spare = restored_spare(self.ground.database, self.stage.flow, folder / name)
            with closing(spare) as database:
                yield database
        finally:
            drop_spare(self.ground.database, self.stage.flow)


def _journal(database: Database, store: SnapshotStore, snapshot: str) -> JournalReport:
    """The journal of a dump, which can be read once it was restored only."""
    anchors = heads_of(store, snapshot).journal
    return journal_in(database, anchors)


def _counts(database: Database) -> dict[str, int]:
    """Rows of each table."""
    names = sa.inspect(database.engine).get_table_names()

    def count(connection: sa.Connection) -> dict[str, int]:
        found = sa.func.count()
        return {
            name: connection.execute(sa.select(found).select_from(sa.table(name))).scalar_one()
            for name in names
        }

    return database.read(count)


def _largest(tables: dict[str, int]) -> str:
    ordered = sorted(tables, key=lambda name: tables[name], reverse=True)[:5]
    return ", ".join(f"{name} {tables[name]}" for name in ordered)
