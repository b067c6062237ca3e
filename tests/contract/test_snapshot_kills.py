"""Restores, replications and repairs that are killed at every one of their steps."""

import os
from datetime import datetime

import pytest
from tests.killed import Fuse, is_killed, let_steps_kill
from tests.snapshot_bench import MIB, Bench, picture, quiet, strays

from gpufleet.core.snapshots.layout import chunk_key
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.snapshots.catalogue import listing
from gpufleet.flows.snapshots.repair import RepairOrder, repair
from gpufleet.flows.snapshots.replicate import ReplicateOrder, replicate
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.snapshots.store import SnapshotStore, manifest_of
from gpufleet.flows.snapshots.verify import VerifyOrder, verify


class Mortal(SnapshotObjects):
    """Objects of a process that is killed before it changes one.

    It is made before the processes are forked, which takes longer than their work, and used only
    in them: no connection is shared.
    """

    fuse = Fuse(0)

    def put(self, key: str, body: bytes | bytearray, until: datetime | None = None) -> datetime:
        self.fuse.step()
        return super().put(key, body, until)

    def put_new(self, key: str, body: bytes | bytearray, until: datetime | None = None) -> bool:
        self.fuse.step()
        return super().put_new(key, body, until)

    def delete(self, key: str, version: str | None = None) -> None:
        self.fuse.step()
        super().delete(key, version)


@pytest.fixture
def place(bench: Bench) -> SnapshotPlace:
    """Of a second store."""
    return SnapshotPlace(bench.server.place, "plain", f"{bench.folder.name}-west")


def home(bench: Bench) -> SnapshotPlace:
    """Of the bench's store."""
    return SnapshotPlace(bench.server.place, "plain", bench.folder.name)


def filled(bench: Bench) -> str:
    """A snapshot of large and small files."""
    (bench.source / "a").mkdir()
    (bench.source / "model.bin").write_bytes(os.urandom(3 * MIB))
    (bench.source / "a" / "other.bin").write_bytes(os.urandom(2 * MIB))
    for number in range(3):
        (bench.source / f"lora-{number}").write_bytes(os.urandom(4000))
    (bench.source / "latest").symlink_to("model.bin")
    return bench.take().snapshot


def test_a_replication_that_is_killed_anywhere_shows_no_half_copy_and_the_next_one_ends_it(
    bench: Bench, place: SnapshotPlace
) -> None:
    snapshot = filled(bench)
    west = SnapshotStore(SnapshotObjects(place))
    mortal = Mortal(place)
    source = SnapshotStore(SnapshotObjects(home(bench)))
    kills = 0

    def work() -> None:
        mortal.fuse = Fuse(kills)
        order = ReplicateOrder((snapshot,), threads=1)
        replicate(source, SnapshotStore(mortal), order, quiet)

    while is_killed(work):
        kills += 1
        for each in listing(west).snapshots:
            assert verify(west, VerifyOrder(each.id), quiet).good
    # Each run gets one step further, and finds what those before it have put.
    assert kills > 6
    assert [each.id for each in listing(west).snapshots] == [snapshot]
    assert verify(west, VerifyOrder(snapshot), quiet).good


@pytest.mark.slow
def test_a_repair_that_is_killed_anywhere_loses_nothing_and_the_next_one_ends_it(
    bench: Bench, place: SnapshotPlace
) -> None:
    snapshot = filled(bench)
    west = SnapshotStore(SnapshotObjects(place))
    replicate(bench.store, west, ReplicateOrder((snapshot,)), quiet)
    mortal = Mortal(home(bench))
    replica = SnapshotStore(SnapshotObjects(place))
    harmed = ("packs/", "indexes/", "chunks/")
    kills = 0

    def work() -> None:
        mortal.fuse = Fuse(kills)
        order = RepairOrder(snapshot, apply=True)
        others = [("the store of west", replica)]
        assert repair(SnapshotStore(mortal), others, order, quiet).good

    while True:
        for folder in harmed:
            for each in list(bench.store.objects.objects(folder)):
                bench.store.objects.put(each.key, b"bent")
        if not is_killed(work):
            break
        kills += 1
        assert repair(bench.store, [("west", west)], RepairOrder(snapshot, apply=True), quiet).good
        assert verify(bench.store, VerifyOrder(snapshot), quiet).good
    assert kills >= 6
    assert verify(bench.store, VerifyOrder(snapshot), quiet).good


def test_a_restore_that_is_killed_anywhere_leaves_a_whole_tree_and_the_next_one_ends_it(
    bench: Bench,
) -> None:
    old = filled(bench)
    bench.restore(old)
    before = picture(bench.out)
    (bench.source / "model.bin").write_bytes(os.urandom(3 * MIB))
    (bench.source / "more").write_bytes(b"more")
    new = bench.take("r2").snapshot
    store = SnapshotStore(SnapshotObjects(home(bench)))
    kills = 0

    def work() -> None:
        let_steps_kill(Fuse(kills))
        restore(store, RestoreOrder(new, bench.out, threads=1), quiet)

    after = picture(bench.source)
    while is_killed(work):
        kills += 1
        assert picture(bench.out) in (before, after)
        if picture(bench.out) == after:
            # The next kill is one of another switch.
            bench.restore(old, reuse=False)
    assert kills > 20
    assert picture(bench.out) == after
    assert strays(bench.folder) == []


def test_a_lost_chunk_is_found_by_a_verification_and_repaired_from_the_replica(
    bench: Bench, place: SnapshotPlace
) -> None:
    snapshot = filled(bench)
    west = SnapshotStore(SnapshotObjects(place))
    replicate(bench.store, west, ReplicateOrder((snapshot,)), quiet)
    entries = {each.path: each for each in manifest_of(bench.store, snapshot).files}
    bench.store.objects.delete(chunk_key(entries["model.bin"].blake3))
    [damage] = verify(bench.store, VerifyOrder(snapshot), quiet).damaged
    assert damage.files == ("model.bin",)
    order = RepairOrder(snapshot, apply=True)
    assert repair(bench.store, [("the store of west", west)], order, quiet).good
    bench.restore(snapshot)
    assert picture(bench.out) == picture(bench.source)
