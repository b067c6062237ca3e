"""Snapshots taken into, restored from and verified on a real object store."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.object_stores import StoreServer

from gpufleet.core.snapshots.layout import chunk_key
from gpufleet.core.snapshots.manifest import chunks_of
from gpufleet.edges.engines import Binaries, resolve
from gpufleet.edges.object_store import ObjectStore
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.snapshots.mark import running
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.snapshots.store import KeyOfStore, SnapshotStore, manifest_of
from gpufleet.flows.snapshots.take import TakeOrder, take
from gpufleet.flows.snapshots.verify import VerifyOrder, verify
from gpufleet.spec.errors import BadInput, Failed, FleetError, Retryable
from gpufleet.spec.progress import SnapshotProgress
from gpufleet.spec.snapshots import RestoreReport, TakeMark, TakeReport

MIB = 2**20


def quiet(_: SnapshotProgress) -> None:
    """Nobody watches."""


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Bench:
    """A store, a source and a place to restore to."""

    server: StoreServer
    store: SnapshotStore
    folder: Path

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def take(self, revision: str = "r1", **options: object) -> TakeReport:
        order = TakeOrder(self.source, revision, **options)  # type: ignore[arg-type]
        return take(self.store, order, self.folder / "read.db", now, quiet)

    def restore(self, snapshot: str, **options: object) -> RestoreReport:
        order = RestoreOrder(snapshot, self.out, **options)  # type: ignore[arg-type]
        return restore(self.store, order, quiet)

    def object_file(self, key: str) -> Path:
        """The file that the server keeps an object in."""
        return self.server.data / self.store.objects.bucket / self.store.objects.prefix / key


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    binaries: Binaries = resolve(lambda _: None, ["versitygw"])
    made = StoreServer(binaries.path("versitygw"), tmp_path_factory.mktemp("s3"))
    made.start()
    ObjectStore(made.place).make_bucket("plain")
    ObjectStore(made.place).make_locked_bucket("locked")
    yield made
    made.stop()


@pytest.fixture
def bench(server: StoreServer, tmp_path: Path) -> Bench:
    place = SnapshotPlace(server.place, "plain", tmp_path.name)
    made = Bench(server, SnapshotStore(SnapshotObjects(place)), tmp_path)
    made.source.mkdir()
    return made


def safetensors(sizes: dict[str, int], *, salt: str = "") -> bytes:
    """A file whose tensors' bytes follow from their names."""
    header, offset, parts = {}, 0, []
    for name, size in sizes.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [offset, offset + size]}
        offset += size
        parts.append((f"{name}{salt if name == salt else ''}|".encode() * size)[:size])
    text = json.dumps(header).encode()
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def fill(source: Path) -> None:
    (source / "a" / "b").mkdir(parents=True)
    (source / "model.safetensors").write_bytes(
        safetensors({f"layer.{n}": 3 * MIB + n for n in range(6)} | {"norm": 4096})
    )
    (source / "noise.bin").write_bytes(os.urandom(17 * MIB + 5))
    (source / "empty").touch()
    (source / "a" / "run.sh").write_text("#!/bin/sh\n")
    (source / "a" / "run.sh").chmod(0o750)
    (source / "a" / "secret").write_text("s")
    (source / "a" / "secret").chmod(0o400)
    (source / "a" / "b" / "same").write_bytes((source / "noise.bin").read_bytes()[: 2 * MIB])
    (source / "latest").symlink_to("a/run.sh")
    (source / "a" / "up").symlink_to("../model.safetensors")
    (source / "hollow").mkdir(mode=0o700)
    for number in range(40):
        (source / "a" / f"lora-{number}").write_bytes(os.urandom(1 + number * 900))


def picture(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every path below a folder: its mode, and its content or what the link holds."""
    found = {}
    for path in root.rglob("*"):
        details = path.lstat()
        content = (
            os.fsencode(path.readlink())
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else b""
        )
        mode = details.st_mode if not path.is_symlink() else 0
        found[path.relative_to(root).as_posix()] = (mode, content)
    return found


def strays(folder: Path) -> list[str]:
    """What a restore left beside its target, but for its lock."""
    return [
        each.name for each in folder.iterdir() if ".partial" in each.name or ".old" in each.name
    ]


def test_what_is_restored_is_what_was_taken(bench: Bench) -> None:
    fill(bench.source)
    taken = bench.take()
    back = bench.restore(taken.snapshot)
    assert picture(bench.out) == picture(bench.source)
    assert back.bytes_total == taken.bytes_total == taken.bytes_read
    assert strays(bench.folder) == []


def test_an_encrypted_store_shows_nothing_and_opens_with_its_key_only(
    server: StoreServer, tmp_path: Path
) -> None:
    objects = SnapshotObjects(SnapshotPlace(server.place, "plain", tmp_path.name))
    key = KeyOfStore("k1", os.urandom(32))
    bench = Bench(server, SnapshotStore(objects, key), tmp_path)
    bench.source.mkdir()
    (bench.source / "plain").write_bytes(b"not to be seen" * MIB)
    (bench.source / "small").write_bytes(b"not to be seen")
    taken = bench.take()
    kept = b"".join(
        each.read_bytes() for each in bench.object_file("").rglob("*") if each.is_file()
    )
    assert b"not to be seen" not in kept
    bench.restore(taken.snapshot)
    assert picture(bench.out) == picture(bench.source)
    for wrong in (None, KeyOfStore("k2", key.key)):
        with pytest.raises(BadInput, match="key"):
            restore(SnapshotStore(objects, wrong), RestoreOrder(taken.snapshot, bench.out), quiet)
    forged = SnapshotStore(objects, KeyOfStore("k1", os.urandom(32)))
    with pytest.raises(Failed, match="damaged"):
        restore(forged, RestoreOrder(taken.snapshot, bench.out, reuse=False), quiet)


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


TAKE = """
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


def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_take_leaves_no_snapshot_and_the_next_one_reads_only_the_rest(
    bench: Bench, server: StoreServer
) -> None:
    (bench.source / "model.bin").write_bytes(os.urandom(192 * MIB))
    arguments = [server.place.endpoint, bench.folder.name, str(bench.folder)]
    process = subprocess.Popen([sys.executable, "-P", "-c", TAKE, *arguments])
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


def test_a_corrupted_and_a_lost_chunk_are_found_with_the_files_that_need_them(
    bench: Bench,
) -> None:
    fill(bench.source)
    taken = bench.take()
    assert verify(bench.store, VerifyOrder(taken.snapshot), quiet).good
    entry = next(
        each for each in manifest_of(bench.store, taken.snapshot).files if each.path == "noise.bin"
    )
    bent, lost = (chunk_key(chunk.id) for chunk in entry.chunks[:2])
    with bench.object_file(bent).open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"?")
    bench.store.objects.delete(lost)
    report = verify(bench.store, VerifyOrder(taken.snapshot), quiet)
    assert {damage.key for damage in report.damaged} == {bent, lost}
    assert {path for damage in report.damaged for path in damage.files} == {"noise.bin"}
    bench.out.mkdir()
    (bench.out / "old").write_text("as it was")
    with pytest.raises(Failed, match="damaged"):
        bench.restore(taken.snapshot)
    assert picture(bench.out).keys() == {"old"}


def test_a_corrupted_pack_costs_only_the_chunk_that_is_bent(bench: Bench) -> None:
    for number in range(5):
        (bench.source / f"lora-{number}").write_bytes(os.urandom(9000))
    taken = bench.take()
    [pack] = [each.key for each in bench.store.objects.objects("packs/")]
    with bench.object_file(pack).open("r+b") as file:
        file.seek(9016 + 100)
        file.write(b"???")
    [damage] = verify(bench.store, VerifyOrder(taken.snapshot), quiet).damaged
    assert len(damage.files) == 1


def test_a_sample_reads_its_share(bench: Bench) -> None:
    fill(bench.source)
    taken = bench.take()
    all_chunks = len(chunks_of(manifest_of(bench.store, taken.snapshot)))
    report = verify(bench.store, VerifyOrder(taken.snapshot, sample=0.25), quiet)
    assert report.chunks_read == round(all_chunks * 0.25)
    assert report.good


def test_an_interrupted_restore_goes_on_and_keeps_the_old_tree_until_the_end(
    bench: Bench,
) -> None:
    (bench.source / "model.bin").write_bytes(os.urandom(96 * MIB))
    taken = bench.take()
    bench.out.mkdir()
    (bench.out / "old").write_text("as it was")
    chunks = manifest_of(bench.store, taken.snapshot).files[0].chunks
    key = chunk_key(chunks[-1].id)
    kept = bench.object_file(key).read_bytes()
    with bench.object_file(key).open("r+b") as file:
        file.seek(9 * MIB)
        file.write(b"?")
    with pytest.raises(Failed, match="damaged"):
        bench.restore(taken.snapshot, threads=1)
    assert picture(bench.out).keys() == {"old"}
    bench.store.objects.put(key, kept)
    back = bench.restore(taken.snapshot)
    assert back.bytes_local == 80 * MIB
    assert back.bytes_fetched == 16 * MIB + 16
    assert picture(bench.out) == picture(bench.source)
    assert strays(bench.folder) == []


def test_one_file_is_restored_alone(bench: Bench) -> None:
    fill(bench.source)
    taken = bench.take()
    bench.restore(taken.snapshot, only="a/run.sh")
    assert picture(bench.out).keys() == {"a", "a/run.sh"}
    with pytest.raises(BadInput, match="has no"):
        bench.restore(taken.snapshot, only="a/none")


def test_a_full_disk_leaves_the_old_tree_in_place(bench: Bench, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(small)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        (bench.source / "model.bin").write_bytes(os.urandom(32 * MIB))
        taken = bench.take()
        target = small / "out"
        target.mkdir()
        (target / "old").write_text("as it was")
        with pytest.raises(Retryable, match="the disk is full"):
            restore(bench.store, RestoreOrder(taken.snapshot, target), quiet)
        assert picture(target).keys() == {"old"}
        assert strays(small) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


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


def test_sharing_a_chunk_extends_its_lock(server: StoreServer, tmp_path: Path) -> None:
    objects = SnapshotObjects(
        SnapshotPlace(server.place, "locked", tmp_path.name, lock_mode="GOVERNANCE")
    )
    bench = Bench(server, SnapshotStore(objects), tmp_path)
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


def test_a_store_of_a_newer_format_and_an_unknown_snapshot_are_refused(bench: Bench) -> None:
    (bench.source / "a").write_text("a")
    taken = bench.take()
    with pytest.raises(BadInput, match="there is no snapshot"):
        bench.restore("20200101T000000Z-00000000")
    with pytest.raises(BadInput, match="no ID"):
        bench.restore("../../etc")
    bench.store.objects.put("format.json", b'{"format":2,"hash":"blake3","key":null}')
    with pytest.raises(BadInput, match="format 2"):
        bench.restore(taken.snapshot)


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


def age(bench: Bench, key: str, by: timedelta) -> None:
    """Let the store say that an object was last written so long ago."""
    at = (now() - by).timestamp()
    os.utime(bench.object_file(key), (at, at))


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
                seen.extend(running(bench.store))
            return super().put_new(key, body, until)

    objects = Watched(SnapshotPlace(bench.server.place, "plain", bench.folder.name))
    bench.store.open(make=True)
    order = TakeOrder(bench.source, "r1", threads=1)
    take(SnapshotStore(objects), order, bench.folder / "read.db", now, quiet)
    assert [mark.revision for mark in seen] == ["r1"]
    assert abs(seen[0].began - now()) < timedelta(minutes=5)
    assert running(bench.store) == []
