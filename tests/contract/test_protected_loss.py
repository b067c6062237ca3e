"""What was lost is never taken for the newest good state of an environment."""

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.contract.protected_grounds import next_second, note, state_of
from tests.object_stores import StoreServer
from tests.snapshot_bench import now, quiet
from tests.watched_fleets import on_clusters

from gpufleet.core.cluster_worker import worker_site
from gpufleet.core.journal import RESTORED, restoration, sealed
from gpufleet.core.snapshots.layout import MANIFEST, SUMMARY, snapshot_key
from gpufleet.edges.clock import system_clock
from gpufleet.edges.journal_table import Journal
from gpufleet.edges.stack_states import PLATFORM, Stack, StackStates
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.ground import Ground
from gpufleet.flows.protected_sets import protected_sets
from gpufleet.flows.protection import bring_back, protect
from gpufleet.flows.record_keeping import anchor, verified
from gpufleet.flows.snapshots.catalogue import newest_good
from gpufleet.flows.snapshots.requests import store_of
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.snapshots.take import TakeOrder, take
from gpufleet.spec.errors import BadInput, Failed
from gpufleet.spec.protection import REVISION, Part
from gpufleet.spec.records import Fact
from gpufleet.spec.snapshots import SnapshotKind


def test_a_database_that_was_made_anew_after_a_loss_is_not_protected(
    ground: Ground, workspace: Workspace, fleet_file: Path, database_url: str
) -> None:
    if not database_url.startswith("sqlite"):
        pytest.skip("a file is what is lost here")
    note(ground, 3)
    kept = protect(ground).snapshots["main"]
    ground.close()
    next_second()
    for file in ground.state.root.glob("fleet.db*"):
        file.unlink()
    anew = Ground.open(workspace, fleet_file)
    try:
        # More records than there were, by the same writer: another chain all the same.
        note(anew, 9)
        with pytest.raises(Failed, match="the journal of") as refused:
            protect(anew)
        assert "--despite-loss" in refused.value.mend
        assert [each.id for each in protected_sets(store_of(anew))] == [kept]
        next_second()
        protect(anew, despite_loss=True)
        # What is to be gone is asked for once.
        protect(anew)
    finally:
        anew.close()


def test_a_state_that_is_gone_keeps_a_set_from_being_taken(ground: Ground) -> None:
    states, stack = StackStates(ground.state), Stack(PLATFORM, ground.fleet.slug, "main")
    states.replace(stack, state_of({}), system_clock())
    protect(ground)
    shutil.rmtree(states.file(stack).parent)
    with pytest.raises(Failed, match="the state of platform main"):
        protect(ground)
    next_second()
    protect(ground, despite_loss=True)
    protect(ground)


def test_a_newer_set_without_the_part_is_passed_over(ground: Ground, tmp_path: Path) -> None:
    states, stack = StackStates(ground.state), Stack(PLATFORM, ground.fleet.slug, "main")
    with pytest.raises(BadInput, match="there is no protected set"):
        bring_back(store_of(ground), Part.STATE, tmp_path / "back")
    states.replace(stack, state_of({}), system_clock())
    first = protect(ground).snapshots["main"]
    states.file(stack).unlink()
    next_second()
    second = protect(ground, despite_loss=True).snapshots["main"]
    brought = bring_back(store_of(ground), Part.STATE, tmp_path / "back")
    assert "no state" in brought.passed_over[second]
    assert brought.snapshot == first
    with pytest.raises(BadInput, match="no state"):
        bring_back(store_of(ground), Part.STATE, tmp_path / "back", snapshot=second)


def test_a_newest_set_whose_manifest_is_bent_is_passed_over(
    ground: Ground, snapshot_server: StoreServer, tmp_path: Path
) -> None:
    first = protect(ground).snapshots["main"]
    next_second()
    second = protect(ground).snapshots["main"]
    store = store_of(ground)
    for part in (MANIFEST, SUMMARY):
        bucket = snapshot_server.data / store.objects.bucket
        (bucket / snapshot_key(second, part)).write_bytes(b"{}")
        brought = bring_back(store, Part.DATABASE, tmp_path / "back")
        assert brought.snapshot == first
        with pytest.raises(BadInput):
            bring_back(store, Part.DATABASE, tmp_path / "back", snapshot=second)
    found = newest_good(store, REVISION, SnapshotKind.STATE)
    assert found is not None
    assert found.id == first


def test_a_set_without_heads_gives_its_database_and_says_that_nothing_holds_it(
    ground: Ground, tmp_path: Path, database_url: str
) -> None:
    note(ground, 2)
    protect(ground)
    next_second()
    store, whole = store_of(ground), tmp_path / "whole"
    restore(store, RestoreOrder(protected_sets(store)[0].id, whole), quiet)
    shutil.rmtree(whole / Part.AUDIT_HEADS)
    order = TakeOrder(whole, REVISION, SnapshotKind.STATE)
    headless = take(store, order, tmp_path / "read.db", now, quiet).snapshot
    brought = bring_back(store, Part.DATABASE, tmp_path / "back")
    assert brought.snapshot == headless
    if database_url.startswith("sqlite"):
        assert brought.journal is not None
        assert (brought.journal.records, brought.journal.anchors) == (2, 0)


def test_a_set_of_the_future_is_neither_the_newest_nor_the_first_to_come_back(
    ground: Ground, tmp_path: Path
) -> None:
    note(ground, 2)
    kept = protect(ground).snapshots["main"]
    store, whole = store_of(ground), tmp_path / "whole"
    restore(store, RestoreOrder(kept, whole), quiet)
    order = TakeOrder(whole, REVISION, SnapshotKind.STATE)
    ahead = now() + timedelta(days=30)
    future = take(store, order, tmp_path / "read.db", lambda: ahead, quiet).snapshot
    assert [each.id for each in protected_sets(store)] == [kept, future]
    newest = newest_good(store, REVISION, SnapshotKind.STATE)
    assert newest is not None
    assert newest.id == kept
    assert bring_back(store, Part.DATABASE, tmp_path / "back").snapshot == kept


def test_advisories_that_a_cluster_s_worker_is_not_given_are_not_missing(ground: Ground) -> None:
    declared = ground.fleet.model_copy(update={"advisories": ["not-there.json"]})
    assert worker_site(declared) is None
    (told,) = protect(replace(ground, fleet=declared)).missing
    assert "not-there.json" in told
    assert protect(replace(ground, fleet=on_clusters(declared))).missing == []


def test_a_forged_restoration_hides_no_cut_tail(ground: Ground, database_url: str) -> None:
    if not database_url.startswith("sqlite"):
        pytest.skip("one kind shows it")
    note(ground, 6)
    anchor(ground)
    kept, writer = protect(ground).snapshots["main"], ground.journal.writer
    for cut in (
        "DELETE FROM fleet_journal WHERE sequence > 2",
        "UPDATE fleet_journal_heads SET sequence = 2",
    ):
        with ground.database.engine.begin() as connection:
            connection.exec_driver_sql(cut)
    forger = Journal(ground.database, "forger", system_clock, sealed)
    body = restoration({writer: 2}, kept)
    forger.append(Fact(event=RESTORED, actor="eve", body=body))
    assert "truncated" in {each.fault for each in verified(ground).findings}
    forger.append(Fact(event=RESTORED, actor="eve", body={**body, "snapshot": "gone"}))
    report = verified(ground)
    assert [each.proven for each in report.lost] == [False]
    assert not report.is_good
