"""A snapshot store, a source and a place to restore to, for tests."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.object_stores import StoreServer

from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.flows.snapshots.take import TakeOrder, take
from gpufleet.spec.progress import SnapshotProgress
from gpufleet.spec.snapshots import RestoreReport, TakeReport

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


def age(bench: Bench, key: str, by: timedelta) -> None:
    """Let the store say that an object was last written so long ago."""
    at = (now() - by).timestamp()
    os.utime(bench.object_file(key), (at, at))
