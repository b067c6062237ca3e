"""Snapshots taken into a real object store, also by several at once and by one that is killed."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.conftest import Until
from tests.object_stores import StoreServer
from tests.snapshot_bench import MIB, Bench, age, fill, now, picture, quiet, safetensors

from gpufleet.core.snapshots.layout import chunk_key
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.snapshots.mark import TAKE, running
from gpufleet.flows.snapshots.store import SnapshotStore, manifest_of
from gpufleet.flows.snapshots.take import TakeOrder, take
from gpufleet.flows.snapshots.verify import VerifyOrder, verify
from gpufleet.spec.errors import BadInput, FleetError, Retryable
from gpufleet.spec.snapshots import TakeMark, TakeReport


def test_a_second_revision_stores_only_what_changed(bench: Bench) -> None:
    sizes = {f"layer.{n}": 3 * MIB for n in range(8)}
    model = bench.source / "model.safetensors"
    model.write_bytes(safetensors(sizes))
    first = bench.take()
    inserted = {"layer.0": 3 * MIB, "between": 2 * MIB} | sizes
    model.write_bytes(safetensors(inserted, salt="layer.5"))
    second = bench.take("r2")
    assert first.chunks_new == 9
    # The header, the inserted tensor and the changed one.
    assert second.chunks_new == 3
    bench.restore(first.snapshot)
    whole = bench.restore(second.snapshot)
    assert model.read_bytes() == (bench.out / "model.safetensors").read_bytes()
    assert whole.bytes_local == 7 * 3 * MIB


def test_what_was_read_and_is_unchanged_is_not_read_again(bench: Bench) -> None:
    fill(bench.source)
    bench.take()
    with (bench.source / "noise.bin").open("r+b") as file:
        file.write(b"changed")
    again = bench.take("r2")
    assert again.bytes_read == 17 * MIB + 5
    assert bench.take("r3", reread=True).bytes_read == again.bytes_total


def test_a_chunk_that_the_table_knows_and_the_store_has_lost_is_read_and_stored_again(
    bench: Bench,
) -> None:
    fill(bench.source)
    first = bench.take()
    [lost, *_] = [
        each
        for entry in manifest_of(bench.store, first.snapshot).files
        for each in entry.chunks
        if entry.path == "noise.bin"
    ]
    bench.store.objects.delete(chunk_key(lost.id))
    second = bench.take("r2")
    assert (second.bytes_read, second.chunks_new) == (lost.plain_bytes, 1)
    assert verify(bench.store, VerifyOrder(first.snapshot), quiet).good


SCRIPT = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from gpufleet.edges.object_client import Place
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.flows.snapshots.take import TakeOrder, take
endpoint, prefix, folder = sys.argv[1:]
place = Place(endpoint, "here", "test", "test-secret")
store = SnapshotStore(SnapshotObjects(SnapshotPlace(place, "plain", prefix)))
order = TakeOrder(Path(folder) / "source", "r1", threads=1)
take(store, order, Path(folder) / "read.db", lambda: datetime.now(UTC), lambda _: None)
"""


def test_a_killed_take_leaves_no_snapshot_and_the_next_one_reads_only_the_rest(
    bench: Bench, snapshot_server: StoreServer, until: Until
) -> None:
    (bench.source / "model.bin").write_bytes(os.urandom(192 * MIB))
    arguments = [snapshot_server.place.endpoint, bench.folder.name, str(bench.folder)]
    process = subprocess.Popen([sys.executable, "-P", "-c", SCRIPT, *arguments])
    chunks = bench.object_file("chunks")
    until(lambda: len(list(chunks.glob("*/*"))) >= 4 or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stored = len(list(chunks.glob("*/*")))
    assert 4 <= stored < 12
    assert list(bench.store.objects.objects("snapshots/")) == []
    taken = bench.take()
    # What was stored when the kill came may not have been noted: one chunk for each thread.
    assert taken.bytes_read <= (12 - stored + 1) * 16 * MIB
    assert taken.chunks_new == 12 - stored
    bench.restore(taken.snapshot)
    assert picture(bench.out) == picture(bench.source)


def test_a_source_that_changes_while_it_is_read_is_refused(bench: Bench) -> None:
    file = bench.source / "model.bin"
    file.write_bytes(os.urandom(48 * MIB))

    class Disturbed(SnapshotObjects):
        """Somebody writes to the source while a chunk of it is put."""

        def put_new(self, key: str, body: bytes | bytearray, until: datetime | None = None) -> bool:
            if key.startswith("chunks/"):
                with file.open("r+b") as opened:
                    opened.seek(40 * MIB)
                    opened.write(b"changed")
            return super().put_new(key, body, until)

    objects = Disturbed(SnapshotPlace(bench.server.place, "plain", bench.folder.name))
    order = TakeOrder(bench.source, "r1", threads=1)
    with pytest.raises(Retryable, match="changed while it was read"):
        take(SnapshotStore(objects), order, bench.folder / "read.db", now, quiet)
    assert list(objects.objects("snapshots/")) == []


def test_of_writers_who_race_for_one_key_one_wins(bench: Bench) -> None:
    objects = bench.store.objects
    for turn in range(20):
        bodies = [f"{turn}-{number}".encode() * 1000 for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda body: objects.put_new(f"race/{turn}", body), bodies))  # noqa: B023 - all done within the turn
        assert won.count(True) == 1
        assert objects.get(f"race/{turn}") == bodies[won.index(True)]


def test_two_takes_of_one_source_at_once_make_two_good_snapshots(bench: Bench) -> None:
    fill(bench.source)

    def one(number: int) -> TakeReport:
        order = TakeOrder(bench.source, f"r{number}")
        return take(bench.store, order, bench.folder / f"{number}.db", now, quiet)

    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(one, range(2)))
    for report in reports:
        assert verify(bench.store, VerifyOrder(report.snapshot), quiet).good


def test_sharing_a_chunk_extends_its_lock(snapshot_server: StoreServer, tmp_path: Path) -> None:
    objects = SnapshotObjects(
        SnapshotPlace(snapshot_server.place, "locked", tmp_path.name, lock_mode="GOVERNANCE")
    )
    bench = Bench(snapshot_server, SnapshotStore(objects), tmp_path)
    bench.source.mkdir()
    fill(bench.source)
    soon, later = (now().replace(microsecond=0) + timedelta(days=days) for days in (1, 9))
    bench.take(until=soon)
    bench.take("r2", until=later)
    for prefix in ("chunks/", "packs/"):
        for each in objects.objects(prefix):
            assert objects.locked_until(each.key) == later
    # A shorter retention takes nothing away.
    bench.take("r3", until=soon)
    assert objects.locked_until(each.key) == later
    [version] = [one for one in objects.objects(each.key, versions=True) if not one.marker]
    with pytest.raises(FleetError, match=r"AccessDenied|Locked|WORM"):
        objects.delete(each.key, version.version)


@pytest.mark.parametrize("what", ["fifo", "outside", "sparse", "case"])
def test_what_cannot_be_restored_is_not_taken(bench: Bench, what: str) -> None:
    if what == "fifo":
        os.mkfifo(bench.source / "pipe")
    elif what == "outside":
        (bench.source / "out").symlink_to("../../etc/passwd")
    elif what == "sparse":
        with (bench.source / "holes").open("wb") as file:
            file.truncate(9 * MIB)
    else:
        (bench.source / "Readme").write_text("a")
        (bench.source / "README").write_text("b")
    with pytest.raises(BadInput):
        bench.take()


def test_an_old_chunk_is_relied_on_only_while_a_snapshot_names_it(bench: Bench) -> None:
    (bench.source / "model.bin").write_bytes(os.urandom(3 * MIB))
    (bench.source / "small").write_bytes(os.urandom(3000))
    first = bench.take()
    keys = [each.key for each in bench.store.objects.objects("") if "s/" in each.key]
    for key in keys:
        age(bench, key, timedelta(days=3))
    assert bench.take("r2").chunks_new == 0
    for each in bench.store.objects.objects("snapshots/"):
        bench.store.objects.delete(each.key)
    third = bench.take("r3")
    assert third.chunks_new == 2
    for key in keys:
        if key.startswith(("chunks/", "packs/")):
            [found] = bench.store.objects.objects(key)
            assert now() - found.modified < timedelta(hours=1)
    assert first.chunks_new == 2


def test_a_take_shows_its_mark_while_it_runs_and_takes_it_away(bench: Bench) -> None:
    fill(bench.source)
    seen: list[TakeMark] = []

    class Watched(SnapshotObjects):
        """Looks before each put of a chunk."""

        def put_new(self, key: str, body: bytes | bytearray, until: datetime | None = None) -> bool:
            if not seen:
                seen.extend(running(bench.store, TAKE))
            return super().put_new(key, body, until)

    objects = Watched(SnapshotPlace(bench.server.place, "plain", bench.folder.name))
    bench.store.open(make=True)
    order = TakeOrder(bench.source, "r1", threads=1)
    take(SnapshotStore(objects), order, bench.folder / "read.db", now, quiet)
    assert [mark.revision for mark in seen] == ["r1"]
    assert abs(seen[0].began - now()) < timedelta(minutes=5)
    assert running(bench.store, TAKE) == []
