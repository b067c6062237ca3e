"""Snapshots copied from one real object store to another, and what is never copied."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.object_stores import StoreServer
from tests.snapshot_bench import MIB, Bench, fill, now, picture, quiet

from gpufleet.core.snapshots.layout import REMOVED, SIGNATURE, chunk_key, snapshot_key
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.snapshots.catalogue import listing
from gpufleet.flows.snapshots.mark import PRUNE, TAKE, RunningMark, running
from gpufleet.flows.snapshots.replicate import ReplicateOrder, plan_replicate, replicate
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.snapshots.store import KeyOfStore, SnapshotStore, manifest_of
from gpufleet.flows.snapshots.verify import VerifyOrder, is_damaged, verify
from gpufleet.spec.errors import BadInput, Retryable
from gpufleet.spec.snapshot_copies import ReplicateReport


@pytest.fixture
def second(bench: Bench) -> SnapshotStore:
    """The store of another site, without versions; there is nothing in it yet."""
    place = SnapshotPlace(bench.server.place, "plain", f"{bench.folder.name}-second")
    return SnapshotStore(SnapshotObjects(place))


def replicated(
    bench: Bench, target: SnapshotStore, *snapshots: str, until: datetime | None = None
) -> ReplicateReport:
    return replicate(bench.store, target, ReplicateOrder(snapshots, until), quiet)


def objects_of(store: SnapshotStore) -> dict[str, bytes]:
    return {each.key: store.objects.get(each.key) for each in store.objects.objects("")}


def test_a_copy_restores_as_its_original_and_is_not_copied_twice(
    bench: Bench, second: SnapshotStore
) -> None:
    fill(bench.source)
    first = bench.take()
    (bench.source / "noise.bin").write_bytes(os.urandom(3 * MIB))
    newest = bench.take("r2")
    ids = (newest.snapshot, first.snapshot)
    plan = plan_replicate(bench.store, second, ReplicateOrder(ids))
    assert (plan.snapshots, plan.complete) == (ids, 0)
    assert not second.exists()
    report = replicated(bench, second, *ids)
    assert report.snapshots == ids
    assert report.good
    assert objects_of(second) == objects_of(bench.store)
    copied = [body for key, body in objects_of(second).items() if key != "format.json"]
    assert (report.objects_copied, report.bytes_copied) == (len(copied), sum(map(len, copied)))
    restore(second, RestoreOrder(newest.snapshot, bench.out), quiet)
    assert picture(bench.out) == picture(bench.source)
    again = replicated(bench, second, *ids)
    assert (again.objects_copied, again.bytes_copied, again.complete) == (0, 0, 2)


def test_only_what_the_second_store_lacks_is_copied(bench: Bench, second: SnapshotStore) -> None:
    fill(bench.source)
    taken = bench.take()
    replicated(bench, second, taken.snapshot)
    whole = objects_of(second)
    large = manifest_of(second, taken.snapshot).files[-1].chunks[0]
    [pack, *_] = [key for key in whole if key.startswith("packs/")]
    for lost in (chunk_key(large.id), pack, snapshot_key(taken.snapshot, "summary")):
        second.objects.delete(lost)
    report = replicated(bench, second, taken.snapshot)
    assert report.objects_copied == 3
    assert objects_of(second) == whole


def test_a_copy_is_locked_as_a_take_is(snapshot_server: StoreServer, bench: Bench) -> None:
    place = SnapshotPlace(snapshot_server.place, "locked", bench.folder.name, "GOVERNANCE")
    second = SnapshotStore(SnapshotObjects(place))
    fill(bench.source)
    soon, later = (now().replace(microsecond=0) + timedelta(days=days) for days in (1, 9))
    replicated(bench, second, bench.take().snapshot, until=soon)
    # The second one shares all chunks with the first: their locks are extended.
    last = bench.take("r2").snapshot
    replicated(bench, second, last, until=later)
    for folder in ("chunks/", "packs/", f"snapshots/{last}/"):
        for each in second.objects.objects(folder):
            assert second.objects.locked_until(each.key) == later


def test_an_encrypted_snapshot_is_copied_to_a_store_of_the_same_key_only(
    snapshot_server: StoreServer, tmp_path: Path
) -> None:
    key = KeyOfStore("k1", os.urandom(32))

    def store(name: str, key: KeyOfStore | None) -> SnapshotStore:
        place = SnapshotPlace(snapshot_server.place, "plain", f"{tmp_path.name}-{name}")
        return SnapshotStore(SnapshotObjects(place), key)

    bench = Bench(snapshot_server, store("first", key), tmp_path)
    bench.source.mkdir()
    fill(bench.source)
    taken = bench.take()
    same = store("same", key)
    assert replicated(bench, same, taken.snapshot).good
    assert verify(same, VerifyOrder(taken.snapshot), quiet).good
    other = store("other", None)
    other.open(make=True)
    with pytest.raises(BadInput, match="key"):
        replicated(bench, SnapshotStore(other.objects, key), taken.snapshot)


def test_a_snapshot_of_which_something_is_lost_is_not_copied_and_the_others_are(
    bench: Bench, second: SnapshotStore
) -> None:
    fill(bench.source)
    good = bench.take()
    (bench.source / "bent.bin").write_bytes(os.urandom(2 * MIB))
    (bench.source / "bent").write_bytes(os.urandom(3000))
    bent = bench.take("r2")
    entries = {each.path: each for each in manifest_of(bench.store, bent.snapshot).files}
    with bench.object_file(chunk_key(entries["bent.bin"].blake3)).open("r+b") as file:
        file.seek(MIB)
        file.write(b"?")
    packs = set(bench.store.contents().packed[entries["bent"].blake3][:1])
    [pack] = packs
    bench.store.objects.delete(pack)
    report = replicated(bench, second, bent.snapshot, good.snapshot)
    assert report.snapshots == (good.snapshot,)
    [(snapshot, damages)] = report.damaged.items()
    assert snapshot == bent.snapshot
    assert {path for each in damages for path in each.files} == {"bent.bin", "bent"}
    assert [each.id for each in listing(second).snapshots] == [good.snapshot]
    assert verify(second, VerifyOrder(good.snapshot), quiet).good
    assert is_damaged(bench.store, bent.snapshot)


def test_two_replications_at_once_make_one_good_copy(bench: Bench, second: SnapshotStore) -> None:
    fill(bench.source)
    taken = bench.take()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: replicated(bench, second, taken.snapshot), range(2)))
    assert objects_of(second) == objects_of(bench.store)
    assert verify(second, VerifyOrder(taken.snapshot), quiet).good


def test_a_copy_has_the_mark_of_a_take_and_does_not_begin_beside_a_prune(
    bench: Bench, second: SnapshotStore
) -> None:
    fill(bench.source)
    taken = bench.take()
    second.open(make=True)
    with RunningMark(second, "", PRUNE), pytest.raises(Retryable, match="a prune runs"):
        replicated(bench, second, taken.snapshot)
    seen: list[str] = []

    class Watched(SnapshotObjects):
        """Looks before each put of a chunk."""

        def put_new(self, key: str, body: bytes | bytearray, until: datetime | None = None) -> bool:
            seen.extend(mark.revision for mark in running(second, TAKE))
            return super().put_new(key, body, until)

    place = SnapshotPlace(bench.server.place, "plain", f"{bench.folder.name}-second")
    replicated(bench, SnapshotStore(Watched(place)), taken.snapshot)
    assert set(seen) == {"r1"}
    assert running(second, TAKE) == []


def test_a_signature_goes_along_and_what_a_prune_removed_does_not_come_back(
    bench: Bench, second: SnapshotStore
) -> None:
    (bench.source / "small").write_bytes(b"1")
    taken = bench.take()
    replicated(bench, second, taken.snapshot)
    bench.store.objects.put(snapshot_key(taken.snapshot, SIGNATURE), b"signed")
    assert replicated(bench, second, taken.snapshot).objects_copied == 1
    assert second.objects.get(snapshot_key(taken.snapshot, SIGNATURE)) == b"signed"
    second.objects.put(snapshot_key(taken.snapshot, REMOVED), b"")
    with pytest.raises(BadInput, match="a prune has removed"):
        replicated(bench, second, taken.snapshot)
