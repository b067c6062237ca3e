"""Snapshots that are taken by themselves, against a real object store."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.conftest import small_fleet
from tests.object_stores import StoreServer
from tests.snapshot_bench import now
from tests.watched_fleets import on_clusters

from gpufleet.core.monitoring import platform
from gpufleet.core.snapshots.layout import VERDICT, snapshot_key
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import Database
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows.declared import LiveGround
from gpufleet.flows.ground import Ground
from gpufleet.flows.protected_sets import protected_sets
from gpufleet.flows.snapshot_ages import SnapshotAges
from gpufleet.flows.snapshot_retention import keep_retention
from gpufleet.flows.snapshot_schedule import WORKER, ScheduleKeeper, schedule
from gpufleet.flows.snapshots.catalogue import listing
from gpufleet.flows.snapshots.requests import store_of
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.snapshot_schedule import ScheduledRevision, SnapshotSchedule
from gpufleet.spec.snapshots import SnapshotKind
from gpufleet.tasks.schedule_view import show


class Declared(LiveGround):
    """An environment whose fleet a test changes."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    def now(self) -> Ground:
        return self.ground

    def declare(self, fleet: Fleet) -> None:
        self.ground = replace(self.ground, fleet=fleet)


@pytest.fixture
def live(snapshot_server: StoreServer, tmp_path: Path) -> Iterator[Declared]:
    """An environment of its own name with a store at one site, and one scheduled revision."""
    state = EnvironmentDir(tmp_path / "state").make()
    snapshot_server.declare(state, "east")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights").write_bytes(os.urandom(2**21))
    name = "".join(each for each in tmp_path.name if each.isalnum())[-20:]
    revision = ScheduledRevision(source=str(tmp_path / "models"))
    fleet = small_fleet("east").model_copy(
        update={
            "fleet": f"{name}{os.getpid()}",
            "snapshot_schedule": SnapshotSchedule(revisions={"chat": revision}),
        }
    )
    database = Database(f"sqlite:///{tmp_path / 'fleet.db'}")
    database.migrate()
    file = PROJECT_ROOT / "fleets" / "article" / "production.yaml"
    yield Declared(Ground(Workspace(PROJECT_ROOT), file, fleet, state, database, system_clock))
    database.close()


def keeper_of(
    live: Declared, kind: SnapshotKind = SnapshotKind.ARTIFACT
) -> tuple[ScheduleKeeper, CollectorRegistry]:
    registry = CollectorRegistry()
    return ScheduleKeeper(live, kind, SnapshotAges(registry).tell), registry


def test_what_is_due_is_taken_once_and_its_age_is_told(live: Declared) -> None:
    before = now().replace(microsecond=0)
    keeper, registry = keeper_of(live)
    for _ in range(3):
        keeper.keep()
    (summary,) = listing(store_of(live.ground), "chat").snapshots
    labels = {"revision": "chat", "store": "east"}
    told = registry.get_sample_value(platform.SNAPSHOT_AT, labels)
    assert told == summary.created.timestamp() >= before.timestamp()
    assert registry.get_sample_value(platform.SNAPSHOT_RPO_S, labels) == 2 * 86_400
    row = next(row for row in schedule(live.ground).rows if row.revision == "chat")
    assert (row.newest, row.late, row.runs) == (summary.id, False, WORKER)


def test_a_damaged_newest_one_is_no_good_one_and_another_is_taken(live: Declared) -> None:
    keeper, _ = keeper_of(live)
    keeper.keep()
    store = store_of(live.ground)
    (first,) = listing(store, "chat").snapshots
    store.objects.put(snapshot_key(first.id, VERDICT), b'{"good": false, "damaged": []}')
    assert not schedule(live.ground).is_good
    # It was tried a moment ago: what keeps failing is not tried at each look.
    keeper.keep()
    assert len(listing(store, "chat").snapshots) == 1
    Path(live.ground.fleet.snapshot_schedule.revisions["chat"].source, "more").write_text("m")
    keeper_of(live)[0].keep()
    assert len(listing(store, "chat").snapshots) == 2


def test_two_workers_take_one_protected_set(live: Declared) -> None:
    keepers = [keeper_of(live, SnapshotKind.STATE)[0] for _ in range(2)]
    threads = [threading.Thread(target=keeper.keep) for keeper in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(protected_sets(store_of(live.ground))) == 1


def test_on_a_cluster_the_worker_only_looks(live: Declared) -> None:
    live.declare(on_clusters(live.ground.fleet))
    keeper_of(live, SnapshotKind.STATE)[0].keep()
    assert not store_of(live.ground).exists()
    rows = schedule(live.ground).rows
    assert {row.runs.split(",")[0].split(" at ")[0] for row in rows} >= {"CronJob gpufleet-protect"}


def test_a_line_that_is_not_declared_any_more_is_told_no_more(live: Declared) -> None:
    keeper, registry = keeper_of(live)
    keeper.keep()
    live.declare(live.ground.fleet.model_copy(update={"snapshot_schedule": SnapshotSchedule()}))
    keeper.keep()
    labels = {"revision": "chat", "store": "east"}
    assert registry.get_sample_value(platform.SNAPSHOT_AT, labels) is None


@pytest.mark.slow
def test_a_store_that_does_not_answer_makes_the_last_known_one_older(
    live: Declared, snapshot_server: StoreServer
) -> None:
    keeper, registry = keeper_of(live)
    keeper.keep()
    labels = {"revision": "chat", "store": "east"}
    known = registry.get_sample_value(platform.SNAPSHOT_AT, labels)
    snapshot_server.stop()
    try:
        keeper.keep()
        report = schedule(live.ground)
    finally:
        snapshot_server.start()
    assert registry.get_sample_value(platform.SNAPSHOT_AT, labels) == known
    assert not report.is_good
    assert all("does not answer" in row.fault for row in report.rows)


def test_where_none_was_ever_taken_it_is_late_from_the_first_look(live: Declared) -> None:
    live.declare(on_clusters(live.ground.fleet))
    keeper, registry = keeper_of(live)
    keeper.keep()
    labels = {"revision": "chat", "store": "east"}
    assert registry.get_sample_value(platform.SNAPSHOT_AT, labels) == 0


def test_a_worker_that_begins_while_a_store_is_down_tells_what_the_journal_knows(
    live: Declared, snapshot_server: StoreServer
) -> None:
    for kind in (SnapshotKind.ARTIFACT, SnapshotKind.STATE):
        keeper_of(live, kind)[0].keep()
    taken = live.ground.journal.latest("snapshot.taken", 1)[0].at
    protected = live.ground.journal.latest("dr.protected", 1)[0].body["at"]
    snapshot_server.stop()
    try:
        (artifacts, told), (states, told_of_sets) = (
            keeper_of(live, kind) for kind in (SnapshotKind.ARTIFACT, SnapshotKind.STATE)
        )
        artifacts.keep()
        states.keep()
    finally:
        snapshot_server.start()
    labels = {"revision": "chat", "store": "east"}
    assert told.get_sample_value(platform.SNAPSHOT_AT, labels) == taken.timestamp()
    expected = datetime.fromisoformat(str(protected)).timestamp()
    assert told_of_sets.get_sample_value(platform.PROTECTED_AT, {"store": "east"}) == expected


def test_every_store_is_pruned_by_itself_once_a_day(live: Declared) -> None:
    assert keep_retention(live.ground) == []
    keeper_of(live)[0].keep()
    assert keep_retention(live.ground) == ["east"]
    assert keep_retention(live.ground) == []
    assert len(live.ground.journal.latest("snapshot.pruned", 9)) == 1


def test_revisions_share_no_table_of_what_was_read(live: Declared) -> None:
    there = live.ground.fleet.snapshot_schedule.revisions["chat"]
    made = SnapshotSchedule(revisions={"adapter": there, "chat": there})
    live.declare(live.ground.fleet.model_copy(update={"snapshot_schedule": made}))
    keeper_of(live)[0].keep()
    assert len(list((live.ground.state.root / "snapshots").glob("*.db"))) == 2


def test_a_source_that_is_not_there_is_told_and_the_others_are_taken(
    live: Declared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = live.ground.fleet.snapshot_schedule.revisions["chat"]
    gone = there.model_copy(update={"source": str(tmp_path / "gone")})
    made = SnapshotSchedule(revisions={"adapter": gone, "chat": there})
    live.declare(live.ground.fleet.model_copy(update={"snapshot_schedule": made}))
    with pytest.raises(BadInput, match="is not a folder"):
        keeper_of(live)[0].keep()
    assert [each.revision for each in listing(store_of(live.ground)).snapshots] == ["chat"]
    report = schedule(live.ground)
    assert [row.late for row in report.rows if row.revision == "adapter"] == [True]
    show(report)
    shown = capsys.readouterr()
    assert "adapter at east: older than its RPO" in shown.out + shown.err
