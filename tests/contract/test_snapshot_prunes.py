"""Prunes of a real object store: what goes, what stays, beside takes, and killed anywhere."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.object_stores import StoreServer
from tests.snapshot_bench import MIB, Bench, now, quiet

from gpufleet.core.snapshots.layout import MANIFEST, SUMMARY, chunk_key, snapshot_key
from gpufleet.core.snapshots.retention import LAST_GOOD
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.snapshots.catalogue import listing
from gpufleet.flows.snapshots.mark import PRUNE, RunningMark
from gpufleet.flows.snapshots.prune import PruneOrder, prune
from gpufleet.flows.snapshots.store import SnapshotStore, manifest_of
from gpufleet.flows.snapshots.take import TakeOrder, take
from gpufleet.flows.snapshots.verify import VerifyOrder, verify
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.governance import SnapshotRetention
from gpufleet.spec.snapshots import Grace, PruneReport

POLICY = SnapshotRetention(daily=1, weekly=1, monthly=1)
NO_GRACE = Grace(keep=timedelta(0))


class Killed(BaseException):
    """The process is gone."""


class Dying(SnapshotObjects):
    """Changes so many objects, then never again one."""

    def __init__(self, place: SnapshotPlace, changes: int) -> None:
        super().__init__(place)
        self._left = changes

    def _step(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Killed

    def put(self, key: str, body: bytes | bytearray, until: datetime | None = None) -> datetime:
        self._step()
        return super().put(key, body, until)

    def delete(self, key: str, version: str | None = None) -> None:
        self._step()
        super().delete(key, version)


@pytest.fixture(params=["plain", "locked"])
def place(request: pytest.FixtureRequest, bench: Bench, tmp_path: Path) -> SnapshotPlace:
    """The bench's store, in a bucket without and with versions."""
    made = SnapshotPlace(bench.server.place, request.param, tmp_path.name, "GOVERNANCE")
    bench.store = SnapshotStore(SnapshotObjects(made))
    return made


def taken(bench: Bench, minutes_ago: int, until: datetime | None = None) -> str:
    """A snapshot of three files, of which one is in each, with a large chunk and small ones."""
    (bench.source / "model.bin").write_bytes(os.urandom(2 * MIB))
    (bench.source / "small").write_bytes(os.urandom(2000))
    if not (bench.source / "shared.bin").exists():
        (bench.source / "shared.bin").write_bytes(os.urandom(3 * MIB))
    order = TakeOrder(bench.source, "r1", until=until)

    def then() -> datetime:
        return now() - timedelta(minutes=minutes_ago)

    return take(bench.store, order, bench.folder / "read.db", then, quiet).snapshot


def pruned(store: SnapshotStore, *, apply: bool = True, grace: Grace = NO_GRACE) -> PruneReport:
    """A prune in a later second: the store tells its time in whole ones."""
    began = int(time.time())
    while int(time.time()) == began:
        time.sleep(0.01)
    return prune(store, PruneOrder(POLICY, apply, grace), now() + timedelta(seconds=5))


def listed(bench: Bench) -> set[str]:
    return {each.id for each in listing(bench.store).snapshots}


def held(bench: Bench) -> set[str]:
    return {each.key for each in bench.store.objects.objects("")}


@pytest.mark.usefixtures("place")
def test_the_snapshot_that_a_model_is_restored_from_stays_past_its_retention(
    bench: Bench,
) -> None:
    served, old, newest = taken(bench, 30), taken(bench, 20), taken(bench, 10)
    summary = {each.id: each for each in listing(bench.store).snapshots}[served]
    # As an older version wrote it: then the manifest tells the digest.
    key = snapshot_key(served, SUMMARY)
    body = json.loads(bench.store.objects.get(key))
    del body["digest"]
    bench.store.objects.put(key, json.dumps(body).encode())
    order = PruneOrder(POLICY, apply=True, grace=NO_GRACE, served={("r1", summary.digest): "chat"})
    report = prune(bench.store, order, now() + timedelta(seconds=5))
    assert report.reasons[served] == "chat"
    assert (set(report.removed), listed(bench)) == ({old}, {served, newest})


@pytest.mark.usefixtures("place")
def test_what_is_past_its_retention_goes_after_the_grace_and_the_rest_stays_whole(
    bench: Bench,
) -> None:
    old = [taken(bench, 30), taken(bench, 20)]
    newest = taken(bench, 10)
    before = held(bench)
    plan = pruned(bench.store, apply=False)
    assert plan.removed == tuple(old)
    assert held(bench) == before
    first = pruned(bench.store, grace=Grace())
    assert (first.removed, first.objects_deleted) == (tuple(old), 0)
    assert listed(bench) == {newest}
    second = pruned(bench.store)
    assert second.expired == tuple(sorted(old))
    assert verify(bench.store, VerifyOrder(newest), quiet).good
    chunks = {chunk_key(c.id) for f in manifest_of(bench.store, newest).files for c in f.chunks}
    left = {key for key in held(bench) if key.startswith("chunks/")}
    assert left <= chunks
    assert len([key for key in held(bench) if key.startswith(("packs/", "indexes/"))]) == 2
    every = {each.key for each in bench.store.objects.objects("", versions=True)}
    assert not [key for key in every if any(one in key for one in old)]


def test_a_prune_that_is_killed_anywhere_loses_nothing_and_the_next_one_ends_it(
    bench: Bench, place: SnapshotPlace
) -> None:
    old = [taken(bench, 30), taken(bench, 20)]
    newest = taken(bench, 10)
    kills = 0
    while True:
        try:
            pruned(SnapshotStore(Dying(place, kills)))
        except Killed:
            kills += 1
        else:
            break
        for snapshot in listed(bench):
            assert verify(bench.store, VerifyOrder(snapshot), quiet).good
        assert newest in listed(bench)
    assert kills > 6
    pruned(bench.store)
    assert listed(bench) == {newest}
    assert not [key for key in held(bench) if any(one in key for one in old)]
    assert verify(bench.store, VerifyOrder(newest), quiet).good


def test_two_prunes_at_once_and_a_take_after_them(bench: Bench, place: SnapshotPlace) -> None:
    for minutes in (40, 30, 20):
        taken(bench, minutes)
    pruned(bench.store)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: pruned(SnapshotStore(SnapshotObjects(place))), range(2)))
    last = taken(bench, 5)
    assert len(listed(bench)) == 2
    for snapshot in listed(bench):
        assert verify(bench.store, VerifyOrder(snapshot), quiet).good
    assert last in listed(bench)


def test_a_prune_beside_a_take_takes_nothing_from_it(bench: Bench, place: SnapshotPlace) -> None:
    for minutes in (40, 30):
        taken(bench, minutes)
    reports: list[PruneReport] = []

    class Disturbed(SnapshotObjects):
        """A prune runs while chunks are put."""

        def put_new(self, key: str, body: bytes | bytearray, until: datetime | None = None) -> bool:
            made = super().put_new(key, body, until)
            if key.startswith("chunks/"):
                reports.append(pruned(bench.store, grace=Grace()))
            return made

    (bench.source / "more.bin").write_bytes(os.urandom(20 * MIB))
    order = TakeOrder(bench.source, "r1", threads=1)
    store = SnapshotStore(Disturbed(place))
    report = take(store, order, bench.folder / "other.db", now, quiet)
    assert len(reports) == 2
    assert bool(reports[0].blocked) == (place.bucket == "plain")
    assert verify(bench.store, VerifyOrder(report.snapshot), quiet).good


def test_without_versions_no_take_begins_while_a_prune_runs(
    bench: Bench, place: SnapshotPlace
) -> None:
    taken(bench, 30)
    with RunningMark(bench.store, "", PRUNE):
        if place.bucket == "plain":
            with pytest.raises(Retryable, match="a prune runs"):
                taken(bench, 20)
        else:
            taken(bench, 20)
    taken(bench, 10)


def test_a_damaged_snapshot_takes_no_good_ones_place(bench: Bench) -> None:
    good, newest = taken(bench, 30), taken(bench, 10)
    [chunk] = next(
        f for f in manifest_of(bench.store, newest).files if f.path == "model.bin"
    ).chunks
    bench.store.objects.delete(chunk_key(chunk.id))
    assert not verify(bench.store, VerifyOrder(newest), quiet).good
    report = pruned(bench.store)
    assert report.removed == ()
    assert report.reasons[good] == LAST_GOOD
    # A later take has stored the chunk again, and a verification has seen it.
    bench.take(reread=True)
    assert verify(bench.store, VerifyOrder(newest), quiet).good
    assert good in pruned(bench.store).removed


@pytest.mark.usefixtures("place")
def test_a_manifest_that_cannot_be_read_stops_a_prune_before_it_does_anything(
    bench: Bench,
) -> None:
    old = taken(bench, 30)
    taken(bench, 10)
    bench.store.objects.put(snapshot_key(old, MANIFEST), b"no manifest")
    before = held(bench)
    with pytest.raises(Failed, match="cannot be read, so nothing is deleted"):
        pruned(bench.store)
    assert {key for key in held(bench) if not key.startswith("running/")} == before


def test_what_object_lock_holds_waits(snapshot_server: StoreServer, bench: Bench) -> None:
    place = SnapshotPlace(snapshot_server.place, "locked", bench.folder.name, "GOVERNANCE")
    bench.store = SnapshotStore(SnapshotObjects(place))
    old = taken(bench, 30, until=now() + timedelta(days=1))
    newest = taken(bench, 10)
    pruned(bench.store)
    before = held(bench)
    report = pruned(bench.store)
    assert report.expired == ()
    assert before == held(bench)
    assert listed(bench) == {newest}
    assert verify(bench.store, VerifyOrder(old), quiet).good
