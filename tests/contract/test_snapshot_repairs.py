"""What a store has lost of a snapshot comes back: from older versions, else from a replica."""

import os
from collections.abc import Callable
from datetime import timedelta

import pytest
from tests.object_stores import StoreServer
from tests.snapshot_bench import MIB, Bench, age, fill, now, picture, quiet

from gpufleet.core.snapshots.layout import (
    FORMAT_KEY,
    MANIFEST,
    REMOVED,
    SIGNATURE,
    SUMMARY,
    chunk_key,
    snapshot_key,
)
from gpufleet.edges.object_client import Place
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.snapshots.catalogue import listing
from gpufleet.flows.snapshots.mending import OLDER
from gpufleet.flows.snapshots.repair import RepairOrder, repair
from gpufleet.flows.snapshots.replicate import ReplicateOrder, replicate
from gpufleet.flows.snapshots.store import SnapshotStore, manifest_of
from gpufleet.flows.snapshots.take import TakeOrder, take
from gpufleet.flows.snapshots.verify import VerifyOrder, is_damaged, verify
from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshot_copies import RepairReport

WEST = "the store of west"


@pytest.fixture
def locked(snapshot_server: StoreServer, bench: Bench) -> Bench:
    """The bench with its store in a bucket that keeps versions and locks them."""
    place = SnapshotPlace(snapshot_server.place, "locked", bench.folder.name, "GOVERNANCE")
    bench.store = SnapshotStore(SnapshotObjects(place))
    return bench


def replica(bench: Bench, *snapshots: str) -> SnapshotStore:
    """A second store that has these snapshots."""
    place = SnapshotPlace(bench.server.place, "plain", f"{bench.folder.name}-west")
    made = SnapshotStore(SnapshotObjects(place))
    replicate(bench.store, made, ReplicateOrder(snapshots), quiet)
    return made


def repaired(
    bench: Bench, snapshot: str, *others: SnapshotStore, apply: bool = True
) -> RepairReport:
    order = RepairOrder(snapshot, apply)
    return repair(bench.store, [(WEST, each) for each in others], order, quiet)


def taken(bench: Bench) -> str:
    fill(bench.source)
    return bench.take().snapshot


def restores(bench: Bench, snapshot: str) -> bool:
    bench.restore(snapshot, reuse=False)
    return picture(bench.out) == picture(bench.source)


def of_kind(bench: Bench, folder: str) -> list[str]:
    return [each.key for each in bench.store.objects.objects(folder)]


def bend(bench: Bench, key: str) -> None:
    """Change bytes on the store's disk."""
    with bench.object_file(key).open("r+b") as file:
        file.seek(20)
        file.write(b"?????")
    age(bench, key, timedelta(minutes=1))


def test_what_was_deleted_or_put_over_comes_back_from_the_versions_below(locked: Bench) -> None:
    fill(locked.source)
    until = now().replace(microsecond=0) + timedelta(days=1)
    order = TakeOrder(locked.source, "r1", until=until)
    snapshot = take(locked.store, order, locked.folder / "read.db", now, quiet).snapshot
    deleted, over, *_ = of_kind(locked, "chunks/")
    objects = locked.store.objects
    for key in (deleted, *of_kind(locked, "packs/"), snapshot_key(snapshot, MANIFEST)):
        objects.delete(key)
    for key in (over, *of_kind(locked, "indexes/"), snapshot_key(snapshot, SUMMARY)):
        objects.put(key, b"not what was there")
    objects.delete(FORMAT_KEY)
    before = {(each.key, each.version) for each in objects.objects("", versions=True)}
    plan = repaired(locked, snapshot, apply=False)
    assert plan.good
    assert {each.source for each in plan.mends} == {OLDER}
    assert {(each.key, each.version) for each in objects.objects("", versions=True)} == before
    report = repaired(locked, snapshot)
    assert report.good
    assert [each.key for each in report.mends] == [each.key for each in plan.mends]
    assert verify(locked.store, VerifyOrder(snapshot), quiet).good
    assert [each.id for each in listing(locked.store).snapshots] == [snapshot]
    assert restores(locked, snapshot)
    assert repaired(locked, snapshot).mends == ()


def test_what_is_brought_back_is_locked(locked: Bench) -> None:
    snapshot = taken(locked)
    [key, *_] = of_kind(locked, "chunks/")
    locked.store.objects.delete(key)
    until = now().replace(microsecond=0) + timedelta(days=2)
    repair(locked.store, [], RepairOrder(snapshot, apply=True, until=until), quiet)
    assert locked.store.objects.locked_until(key) == until


def lose_chunks(bench: Bench) -> None:
    lost, bent, *_ = of_kind(bench, "chunks/")
    bench.store.objects.delete(lost)
    bend(bench, bent)


def lose_pack(bench: Bench) -> None:
    for key in of_kind(bench, "packs/"):
        bench.store.objects.delete(key)


def bend_pack(bench: Bench) -> None:
    for key in of_kind(bench, "packs/"):
        bend(bench, key)


def lose_index(bench: Bench) -> None:
    for key in of_kind(bench, "indexes/"):
        bench.store.objects.delete(key)


def bend_index(bench: Bench) -> None:
    for key in of_kind(bench, "indexes/"):
        bend(bench, key)


def bend_snapshot(bench: Bench) -> None:
    for key in of_kind(bench, "snapshots/"):
        bend(bench, key)


def lose_format(bench: Bench) -> None:
    bench.store.objects.delete(FORMAT_KEY)


@pytest.mark.parametrize(
    "harm",
    [lose_chunks, lose_pack, bend_pack, lose_index, bend_index, bend_snapshot, lose_format],
)
def test_what_is_lost_without_versions_comes_back_from_the_replica(
    bench: Bench, harm: Callable[[Bench], None]
) -> None:
    snapshot = taken(bench)
    west = replica(bench, snapshot)
    harm(bench)
    report = repaired(bench, snapshot, west)
    assert report.good
    assert {each.source for each in report.mends} == {WEST}
    assert verify(bench.store, VerifyOrder(snapshot), quiet).good
    assert not is_damaged(bench.store, snapshot)
    assert [each.id for each in listing(bench.store).snapshots] == [snapshot]
    assert restores(bench, snapshot)


def test_an_index_that_nobody_has_is_left_out_when_what_it_placed_is_there_again(
    bench: Bench,
) -> None:
    snapshot = taken(bench)
    west = replica(bench, snapshot)
    # The replica has the same small chunks in another pack.
    [old] = of_kind(bench, "indexes/")
    west.objects.delete(old)
    (bench.source / "a" / "lora-40").write_bytes(b"one more")
    order = TakeOrder(bench.source, "r2")
    take(west, order, bench.folder / "west.db", now, quiet)
    bend_index(bench)
    assert not verify(bench.store, VerifyOrder(snapshot), quiet).good
    report = repaired(bench, snapshot, west)
    assert report.good
    assert old not in of_kind(bench, "indexes/")
    assert verify(bench.store, VerifyOrder(snapshot), quiet).good


def test_what_nobody_has_is_named_with_its_files_and_the_rest_comes_back(bench: Bench) -> None:
    snapshot = taken(bench)
    west = replica(bench, snapshot)
    entry = next(
        each for each in manifest_of(bench.store, snapshot).files if each.path == "noise.bin"
    )
    lost, there = (chunk_key(chunk.id) for chunk in entry.chunks)
    west.objects.delete(lost)
    for key in (lost, there):
        bench.store.objects.delete(key)
    report = repaired(bench, snapshot, west)
    assert [each.key for each in report.mends] == [there]
    assert [(each.key, each.files) for each in report.lost] == [(lost, ("noise.bin",))]
    assert is_damaged(bench.store, snapshot)
    assert repaired(bench, snapshot).lost == report.lost


def test_a_repair_that_ends_before_it_has_read_the_chunks_leaves_no_good_snapshot(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = taken(bench)
    west = replica(bench, snapshot)
    for key in (snapshot_key(snapshot, MANIFEST), of_kind(bench, "chunks/")[0]):
        bench.store.objects.delete(key)

    def ends(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gpufleet.flows.snapshots.repair.read_back", ends)
        with pytest.raises(KeyboardInterrupt):
            repaired(bench, snapshot, west)
    assert [each.id for each in listing(bench.store).snapshots] == [snapshot]
    assert is_damaged(bench.store, snapshot)
    assert repaired(bench, snapshot, west).good
    assert not is_damaged(bench.store, snapshot)


def test_a_site_that_does_not_answer_is_told_and_another_one_mends(bench: Bench) -> None:
    snapshot = taken(bench)
    west = replica(bench, snapshot)
    nobody = Place("http://127.0.0.1:9", "us-east-1", "a", "b")
    silent = SnapshotStore(SnapshotObjects(SnapshotPlace(nobody, "plain", "x")))
    bench.store.objects.delete(of_kind(bench, "chunks/")[0])
    report = repaired(bench, snapshot, silent, west)
    assert (report.good, report.silent) == (True, (WEST,))


def test_a_bucket_that_is_gone_is_told_as_such(bench: Bench) -> None:
    snapshot = taken(bench)
    gone = SnapshotPlace(bench.server.place, "no-such-bucket", "x")
    with pytest.raises(BadInput, match="bucket is gone"):
        repair(SnapshotStore(SnapshotObjects(gone)), [], RepairOrder(snapshot, apply=True), quiet)


def test_a_damaged_replica_harms_nothing(bench: Bench) -> None:
    snapshot = taken(bench)
    west = replica(bench, snapshot)
    [key, *_] = of_kind(bench, "chunks/")
    west.objects.put(key, b"?" * MIB)
    bench.store.objects.delete(key)
    assert [each.key for each in repaired(bench, snapshot, west).lost] == [key]
    assert key not in of_kind(bench, "chunks/")


def test_a_signature_comes_back_and_what_a_prune_removed_does_not(bench: Bench) -> None:
    (bench.source / "small").write_bytes(b"1")
    snapshot = bench.take().snapshot
    key = snapshot_key(snapshot, SIGNATURE)
    bench.store.objects.put(key, b"signed")
    west = replica(bench, snapshot)
    bench.store.objects.delete(key)
    assert [each.key for each in repaired(bench, snapshot, west).mends] == [key]
    assert bench.store.objects.get(key) == b"signed"
    with pytest.raises(BadInput, match="no snapshot"):
        repaired(bench, "20261126T101500Z-00000000", west)
    bench.store.objects.put(snapshot_key(snapshot, REMOVED), b"")
    with pytest.raises(BadInput, match="a prune has removed"):
        repaired(bench, snapshot, west)


def test_a_store_of_a_newer_format_is_not_touched(locked: Bench) -> None:
    snapshot = taken(locked)
    locked.store.objects.put(FORMAT_KEY, b'{"format": 2, "hash": "blake3", "key": null}')
    with pytest.raises(BadInput, match="format 2"):
        repaired(locked, snapshot)


def test_a_chunk_of_a_damaged_pack_is_read_from_the_newest_one(bench: Bench) -> None:
    for number in range(5):
        (bench.source / f"lora-{number}").write_bytes(os.urandom(9000))
    snapshot = bench.take().snapshot
    west = replica(bench, snapshot)
    [pack] = of_kind(bench, "packs/")
    bend(bench, pack)
    assert len(repaired(bench, snapshot, west).mends) == 2
    assert len(of_kind(bench, "packs/")) == 2
    assert restores(bench, snapshot)
