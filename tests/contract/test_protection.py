"""Protected sets against a real object store and databases of both kinds."""

import json
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from tests.contract.protected_grounds import note, state_of
from tests.object_stores import StoreServer
from tests.snapshot_bench import now, quiet

from gpufleet.edges.clock import system_clock
from gpufleet.edges.own_folder import own_folder
from gpufleet.edges.stack_states import PLATFORM, POOLS, Stack, StackStates
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.ground import Ground
from gpufleet.flows.protected_sets import heads_of, protected_sets, read_set
from gpufleet.flows.protection import bring_back, newest_point, plan, protect, stores_of
from gpufleet.flows.put_back import put_back_database, put_back_state
from gpufleet.flows.record_keeping import anchor, verified
from gpufleet.flows.snapshots.requests import store_of
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.spec.errors import BadInput, Failed, Retryable
from gpufleet.spec.protection import DatabaseKind, Part

SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}


def test_a_database_comes_back_with_a_journal_that_verifies(ground: Ground, tmp_path: Path) -> None:
    note(ground, 20)
    assert plan(ground).newest is None
    before = now().replace(microsecond=0)
    report = protect(ground)
    assert (report.missing, set(report.snapshots)) == ([], {"main"})
    assert before <= report.at <= now()
    brought = bring_back(store_of(ground), Part.DATABASE, tmp_path / "back")
    assert brought.snapshot == report.snapshots["main"]
    if plan(ground).database is DatabaseKind.SQLITE:
        assert brought.journal is not None
        assert brought.journal.is_good
        assert (brought.journal.records, brought.journal.anchors) == (20, 1)
    else:
        dump = (Path(brought.folder) / "fleet.dump").read_bytes()
        assert dump.startswith(b"PGDMP")
        assert b"test.noted" in dump
    assert len(ground.journal.latest("dr.protected", 2)) == 1
    assert newest_point(stores_of(ground)) == report.at.replace(microsecond=0)


def test_a_database_that_was_lost_is_put_in_place_and_its_loss_is_no_tampering(
    ground: Ground, workspace: Workspace, fleet_file: Path, tmp_path: Path
) -> None:
    note(ground, 5)
    anchor(ground)
    protect(ground)
    store, writer = store_of(ground), ground.journal.writer
    reached = ground.journal.heads()[writer] - 1
    note(ground, 7)
    anchor(ground)
    ground.close()
    brought = bring_back(store, Part.DATABASE, tmp_path / "back")
    put = put_back_database(workspace, fleet_file, brought)
    assert [Path(each).is_file() for each in put.replaced] == [True]
    back = Ground.open(workspace, fleet_file)
    try:
        assert back.journal.writer != writer
        assert back.journal.heads()[writer] == reached
        note(back, 3)
        anchor(back)
        report = verified(back)
        assert report.findings == []
        assert [(each.writer, each.first) for each in report.lost] == [(writer, reached + 1)]
        # What nobody restored stays a finding: here, a tail that was cut later.
        back.database.write(
            lambda connection: connection.exec_driver_sql(
                "DELETE FROM fleet_journal WHERE event = 'test.noted' AND sequence > 2"
            )
        )
        assert "truncated" in {each.fault for each in verified(back).findings}
    finally:
        back.close()


def test_a_copy_is_whole_while_others_write(ground: Ground, tmp_path: Path) -> None:
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            ground.note("test.busy", actor="writer")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        snapshots = [protect(ground).snapshots["main"] for _ in range(3)]
    finally:
        ended.set()
        thread.join()
    for snapshot in snapshots:
        brought = bring_back(
            store_of(ground), Part.DATABASE, tmp_path / snapshot, snapshot=snapshot
        )
        heads = heads_of(store_of(ground), snapshot).journal
        if brought.journal is not None:
            assert brought.journal.is_good
            assert brought.journal.records >= max(head.sequence for head in heads)


def test_no_secret_in_clear_is_in_a_set_and_its_absence_is_told(
    ground: Ground, tmp_path: Path
) -> None:
    states, slug = StackStates(ground.state), ground.fleet.slug
    good, bad = Stack(PLATFORM, slug, "main"), Stack(POOLS, slug, "main")
    states.replace(good, state_of({"key": {**SECRET, "ciphertext": "v1:x"}}), system_clock())
    states.replace(bad, state_of({"a": [{"key": {**SECRET, "plaintext": "p"}}]}), system_clock())
    config = ground.workspace.stack_config(good.project, good.name)
    config.parent.mkdir(parents=True)
    config.write_text("encryptionsalt: v1:salt\n")
    (ground.state.root / "pulumi" / "passphrase").write_text("not-in-any-set")
    report = protect(ground)
    assert [each.partition(":")[0] for each in report.missing] == ["pools main"]
    store = store_of(ground)
    brought = bring_back(store, Part.STATE, tmp_path / "back")
    folder = Path(brought.folder)
    found = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    assert found == [f"platform/Pulumi.{good.name}.yaml", f"platform/{good.name}.json"]
    restore(store, RestoreOrder(brought.snapshot, tmp_path / "whole"), quiet)
    every = [file for file in (tmp_path / "whole").rglob("*") if file.is_file()]
    assert len(every) > 5
    assert not [file for file in every if b"not-in-any-set" in file.read_bytes()]
    assert any("passphrase" in each for each in read_set(store, brought.snapshot).elsewhere)
    # A state that was lost or is another one is put in place; the same one is left.
    states.file(good).unlink()
    config.unlink()
    assert put_back_state(ground, brought).replaced == ["platform main"]
    assert config.read_text() == "encryptionsalt: v1:salt\n"
    assert put_back_state(ground, brought).kept == ["platform main"]
    with pytest.raises(BadInput, match="no such stack came back"):
        put_back_state(ground, brought, stacks=["pools main"])


def test_a_newest_set_that_is_damaged_is_passed_over(
    ground: Ground, snapshot_server: StoreServer, tmp_path: Path
) -> None:
    note(ground, 1)
    first = protect(ground).snapshots["main"]
    note(ground, 1)
    second = protect(ground).snapshots["main"]
    if first[:16] == second[:16]:
        pytest.skip("both are of one second")
    store = store_of(ground)
    new = {each.key for each in store.objects.objects("packs/")} | {
        each.key for each in store.objects.objects("chunks/")
    }
    bucket = snapshot_server.data / store.objects.bucket
    old = bring_back(store, Part.DATABASE, tmp_path / "first", snapshot=first)
    newest = max(new, key=lambda key: (bucket / key).stat().st_mtime_ns)
    (bucket / newest).write_bytes(b"x" * (bucket / newest).stat().st_size)
    brought = bring_back(store, Part.DATABASE, tmp_path / "back")
    assert (brought.snapshot, list(brought.passed_over)) == (first, [second])
    assert brought.size_bytes == old.size_bytes
    with pytest.raises(Failed):
        bring_back(store, Part.DATABASE, tmp_path / "back", snapshot=second)


def test_fleet_files_and_pointers_come_back_as_they_were(ground: Ground, tmp_path: Path) -> None:
    protect(ground)
    store = store_of(ground)
    folder = Path(bring_back(store, Part.FLEET, tmp_path / "fleet").folder)
    assert (folder / "production.yaml").read_bytes() == ground.fleet_file.read_bytes()
    assert (folder / "calendars").is_dir()
    told = json.loads(
        (
            Path(bring_back(store, Part.POINTERS, tmp_path / "p").folder) / "pointers.json"
        ).read_text()
    )
    assert told["images"]["gpufleet"] == ground.fleet.images.gpufleet
    assert told["models"].keys() == ground.fleet.models.keys()
    assert set(told["signers"]) == set(ground.fleet.identities)


@pytest.mark.slow
def test_a_store_that_is_down_holds_up_no_other_and_is_named(
    ground: Ground, workspace: Workspace, fleet_file: Path
) -> None:
    text = fleet_file.read_text()
    west = "sites:\n  west: {region: eu, power_price_per_kwh: 0.21, pue: 1.3}\n"
    fleet_file.write_text(text.replace("sites:\n", west, 1))
    both = Ground.open(workspace, fleet_file)
    try:
        folder = both.state.site("west")
        folder.mkdir(parents=True)
        down = {"endpoint": "http://127.0.0.1:9", "region": "west", "access_key": "a"}
        (folder / "s3.json").write_text(json.dumps({**down, "secret_key": "b"}))
        report = protect(both)
        assert set(report.snapshots) == {"main"}
        assert "does not answer" in report.unreached["west"]
        assert newest_point(stores_of(both)) == report.at.replace(microsecond=0)
        (both.state.site("main") / "s3.json").write_text(json.dumps({**down, "secret_key": "b"}))
        with pytest.raises(Retryable, match="does not answer"):
            protect(both)
    finally:
        both.close()
    (record,) = ground.journal.latest("dr.protected", 2)
    assert isinstance(record.body["unreached"], dict)
    assert set(record.body["unreached"]) == {"west"}


def test_one_set_is_taken_at_a_time_and_what_a_killed_one_left_is_no_hindrance(
    ground: Ground,
) -> None:
    folder = ground.state.root / "protect" / "set"
    with (
        own_folder(folder, what="a protected set"),
        pytest.raises(Retryable, match="under way already"),
    ):
        protect(ground)
    folder.mkdir()
    (folder / "left").write_text("by a killed one")
    snapshot = protect(ground).snapshots["main"]
    assert not folder.exists()
    assert [each.id for each in protected_sets(store_of(ground))] == [snapshot]


def test_sets_are_locked_and_only_the_first_of_a_day_for_long(ground: Ground) -> None:
    first, second = protect(ground).snapshots["main"], protect(ground).snapshots["main"]
    objects, days = store_of(ground).objects, {}
    for snapshot in (first, second):
        until = objects.locked_until(f"snapshots/{snapshot}/manifest")
        assert until is not None
        days[snapshot] = round((until - now()).total_seconds() / 86_400)
    if first[:8] == second[:8] and first != second:
        assert days == {first: ground.fleet.snapshots.daily, second: 1}


def test_a_damaged_database_is_told_and_nothing_is_kept(ground: Ground, database_url: str) -> None:
    if not database_url.startswith("sqlite"):
        pytest.skip("PostgreSQL checks its own pages")
    note(ground, 200)
    ground.close()
    file = ground.state.root / "fleet.db"
    with closing(sqlite3.connect(file)) as found:
        found.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(file.read_bytes())
    content[4096 * 3 : 4096 * 30] = os.urandom(4096 * 27)
    file.write_bytes(content)
    with pytest.raises((Failed, Retryable), match=r"damaged|malformed|does not answer"):
        protect(ground)
    assert not store_of(ground).exists()


def test_a_database_that_somebody_has_open_is_not_replaced(
    ground: Ground, workspace: Workspace, fleet_file: Path, tmp_path: Path
) -> None:
    protect(ground)
    brought = bring_back(store_of(ground), Part.DATABASE, tmp_path / "back")
    with pytest.raises(Retryable, match=r"have the database open|others are connected"):
        put_back_database(workspace, fleet_file, brought)
    assert len(ground.journal.latest("dr.protected", 2)) == 1


def test_without_pg_dump_the_mend_is_told(
    ground: Ground, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("SQLite needs no tool")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BadInput, match="no pg_dump on PATH"):
        protect(ground)


def test_a_database_that_is_damaged_is_replaced_where_one_says_so(
    ground: Ground, workspace: Workspace, fleet_file: Path, database_url: str, tmp_path: Path
) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("a file is moved aside, whatever is in it")
    note(ground, 3)
    protect(ground)
    brought = bring_back(store_of(ground), Part.DATABASE, tmp_path / "back")
    with closing(ground.database.engine.raw_connection()) as found:
        cursor = found.cursor()
        cursor.execute("CREATE TABLE lost (x text)")
        cursor.execute("SELECT current_setting('data_directory'), pg_relation_filepath('lost')")
        [(folder, file)] = cursor.fetchall()
        found.commit()
    Path(folder, file).unlink()
    ground.close()
    with pytest.raises(Failed, match="cannot be kept"):
        put_back_database(workspace, fleet_file, brought)
    put = put_back_database(workspace, fleet_file, brought, despite_damage=True)
    assert put.replaced == []
    back = Ground.open(workspace, fleet_file)
    try:
        assert len(back.journal.latest("test.noted", 9)) == 3
    finally:
        back.close()
