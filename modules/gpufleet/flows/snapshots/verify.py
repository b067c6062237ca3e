"""Reading a snapshot back: every chunk of it, or a declared sample."""

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

from gpufleet.core.snapshots.frames import DamagedChunk
from gpufleet.core.snapshots.layout import VERDICT, chunk_key, is_packed, snapshot_key
from gpufleet.core.snapshots.manifest import chunks_of
from gpufleet.flows.snapshots.fetch import Fetch
from gpufleet.flows.snapshots.meter import Meter, OnProgress
from gpufleet.flows.snapshots.store import THREADS, SnapshotStore, manifest_of
from gpufleet.spec.snapshots import ChunkRef, Damage, Manifest, VerifyReport


@dataclass
class _Read:
    """Counts chunks that are right, and keeps what is wrong with the others."""

    meter: Meter
    right: int = 0
    damaged: dict[ChunkRef, tuple[str, str]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def write(self, chunk: ChunkRef, content: bytes | memoryview, offset: int) -> None:
        """Nothing is kept: the digest is what counts."""

    def done(self, chunk: ChunkRef) -> None:
        with self.lock:
            self.right += 1
        self.meter.add(done=chunk.plain_bytes, moved=chunk.plain_bytes)

    def damage(self, chunk: ChunkRef, key: str, error: DamagedChunk) -> None:
        with self.lock:
            self.damaged[chunk] = (key, error.what)


@dataclass(frozen=True)
class VerifyOrder:
    """What is read back."""

    snapshot: str
    sample: float = 1.0
    """Share of its chunks, drawn at random."""
    seed: str = ""
    """Draws the same sample again; empty for another one each time, so that all is read in time."""
    threads: int = THREADS


def verify(store: SnapshotStore, order: VerifyOrder, on_progress: OnProgress) -> VerifyReport:
    """Read a snapshot back from the store, where what was found is noted for a prune.

    Raises:
        BadInput: there is no such snapshot, or its manifest was changed.
        Retryable: the store does not answer.
    """
    meter = Meter(order.snapshot, "verifying", on_progress)
    manifest = manifest_of(store, order.snapshot)
    chunks = sorted(map(ChunkRef._make, chunks_of(manifest).items()))
    chosen = _drawn(chunks, order.sample, order.seed)
    meter.total_bytes = sum(chunk.plain_bytes for chunk in chosen)
    read = _Read(meter)
    fetch = Fetch(store, store.contents(), read, order.threads, read.damage)
    fetch.run(chosen)
    meter.finish()
    report = VerifyReport(
        snapshot=order.snapshot,
        chunks=len(chunks),
        chunks_read=len(chosen),
        bytes_read=fetch.bytes_fetched,
        seconds=meter.elapsed_s,
        damaged=_told(manifest, read.damaged),
    )
    if report.damaged or len(chosen) == len(chunks):
        # A sample without a fault says nothing of what an earlier verification found.
        verdict = {"good": report.good, "damaged": [each.key for each in report.damaged]}
        key = snapshot_key(order.snapshot, VERDICT)
        store.objects.put(key, json.dumps(verdict).encode())
    return report


def is_damaged(store: SnapshotStore, snapshot: str) -> bool:
    """Whether the last verification of a snapshot found it lost or damaged in part."""
    verdict = store.objects.find(snapshot_key(snapshot, VERDICT))
    return verdict is not None and not json.loads(verdict)["good"]


def _drawn(chunks: Sequence[ChunkRef], sample: float, seed: str) -> Sequence[ChunkRef]:
    if sample >= 1:
        return chunks
    count = max(1, round(len(chunks) * sample)) if chunks else 0
    draw = random.Random(seed) if seed else random.SystemRandom()  # noqa: S311 - no secret
    return draw.sample(chunks, count)


def _told(manifest: Manifest, damaged: dict[ChunkRef, tuple[str, str]]) -> tuple[Damage, ...]:
    files: dict[ChunkRef, list[str]] = defaultdict(list)
    for entry in manifest.files:
        for chunk in set(entry.chunks) & damaged.keys():
            files[chunk].append(entry.path)
    return tuple(
        Damage(key or _key(chunk), what, tuple(files[chunk]))
        for chunk, (key, what) in sorted(damaged.items())
    )


def _key(chunk: ChunkRef) -> str:
    return f"chunk {chunk.id} of a pack" if is_packed(chunk.plain_bytes) else chunk_key(chunk.id)
