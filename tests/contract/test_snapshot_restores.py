"""Snapshots restored from and verified on a real object store."""

import os
import subprocess
from pathlib import Path

import pytest
from tests.object_stores import StoreServer
from tests.snapshot_bench import MIB, Bench, fill, picture, quiet, safetensors, strays

from gpufleet.core.snapshots.layout import chunk_key
from gpufleet.core.snapshots.manifest import chunks_of
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.snapshots.store import KeyOfStore, SnapshotStore, manifest_of
from gpufleet.flows.snapshots.verify import VerifyOrder, verify
from gpufleet.spec.errors import BadInput, Failed, Retryable


def test_what_is_restored_is_what_was_taken(bench: Bench) -> None:
    fill(bench.source)
    taken = bench.take()
    back = bench.restore(taken.snapshot)
    assert picture(bench.out) == picture(bench.source)
    assert back.bytes_total == taken.bytes_total == taken.bytes_read
    assert strays(bench.folder) == []


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
    contents = bench.store.contents()
    [bent] = [each for _, each in contents.packed.values() if each.offset_bytes == 9016]
    [pack] = [key for key in contents.modified if key.startswith("packs/")]
    with bench.object_file(pack).open("r+b") as file:
        file.seek(9016 + 100)
        file.write(b"???")
    [damage] = verify(bench.store, VerifyOrder(taken.snapshot), quiet).damaged
    files = manifest_of(bench.store, taken.snapshot).files
    assert damage.files == tuple(each.path for each in files if each.blake3 == bent.id)


def test_a_sample_reads_its_share(bench: Bench) -> None:
    fill(bench.source)
    taken = bench.take()
    all_chunks = len(chunks_of(manifest_of(bench.store, taken.snapshot)))
    report = verify(bench.store, VerifyOrder(taken.snapshot, sample=0.25), quiet)
    assert report.chunks_read == round(all_chunks * 0.25)
    assert report.good


def test_an_encrypted_store_shows_nothing_and_opens_with_its_key_only(
    snapshot_server: StoreServer, tmp_path: Path
) -> None:
    objects = SnapshotObjects(SnapshotPlace(snapshot_server.place, "plain", tmp_path.name))
    key = KeyOfStore("k1", os.urandom(32))
    bench = Bench(snapshot_server, SnapshotStore(objects, key), tmp_path)
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


def test_a_file_that_kept_its_layout_is_copied_and_only_what_differs_is_fetched(
    bench: Bench,
) -> None:
    fill(bench.source)
    sizes = {f"layer.{n}": 3 * MIB + n for n in range(6)} | {"norm": 4096}
    first = bench.take()
    (bench.source / "model.safetensors").write_bytes(safetensors(sizes, salt="layer.2"))
    second = bench.take("r2")
    bench.restore(first.snapshot)
    back = bench.restore(second.snapshot)
    assert picture(bench.out) == picture(bench.source)
    # A frame's header, and bytes that compress well.
    assert back.bytes_fetched < 3 * MIB
    assert back.bytes_local == back.bytes_total - (3 * MIB + 2)


def test_what_somebody_changed_in_the_old_tree_is_fetched(bench: Bench) -> None:
    fill(bench.source)
    taken = bench.take()
    bench.restore(taken.snapshot)
    with (bench.out / "noise.bin").open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"changed")
    (bench.out / "empty").write_text("no more")
    (bench.out / "a" / "run.sh").unlink()
    (bench.out / "a" / "run.sh").symlink_to("/etc/passwd")
    bench.restore(taken.snapshot)
    assert picture(bench.out) == picture(bench.source)
