"""Reading a snapshot back: every chunk of it, or a declared sample."""

import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from gpufleet.core.snapshots.frames import DamagedChunk
from gpufleet.core.snapshots.layout import SIGNATURE, VERDICT, chunk_key, is_packed, snapshot_key
from gpufleet.core.snapshots.manifest import chunks_of
from gpufleet.core.snapshots.signatures import Forged, Trust
from gpufleet.flows.snapshots.fetch import Fetch
from gpufleet.flows.snapshots.meter import Meter, OnProgress
from gpufleet.flows.snapshots.signed import Unsigned, check_signature
from gpufleet.flows.snapshots.store import THREADS, Contents, SnapshotStore, manifest_of
from gpufleet.spec.errors import BadInput
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
    trust: Trust | None = None
    """Whose signature it has to have; None where none is asked for."""


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
    damaged, bytes_read = read_back(store, store.contents(), chosen, meter, order.threads)
    meter.finish()
    signature = _signature(store, order)
    report = VerifyReport(
        snapshot=order.snapshot,
        chunks=len(chunks),
        chunks_read=len(chosen),
        bytes_read=bytes_read,
        seconds=meter.elapsed_s,
        damaged=(*signature, *told_damages(manifest, damaged)),
        signature_checked=order.trust is not None,
    )
    if report.damaged or len(chosen) == len(chunks):
        # A sample without a fault says nothing of what an earlier verification found.
        note_verdict(store, order.snapshot, [each.key for each in report.damaged])
    return report


def read_back(
    store: SnapshotStore,
    held: Contents,
    chunks: Sequence[ChunkRef],
    meter: Meter,
    threads: int = THREADS,
) -> tuple[dict[ChunkRef, tuple[str, str]], int]:
    """Read chunks, and keep none of them.

    Args:
        store: opened.
        held: what it holds.
        chunks: that are read.
        meter: told of each.
        threads: requests at once.

    Returns:
        For each that is lost or damaged the key of its object, where there is one, and what is
        wrong; and how many bytes were read.

    Raises:
        Retryable: the store does not answer.
    """
    read = _Read(meter)
    fetch = Fetch(store, held, read, threads, read.damage)
    fetch.run(chunks)
    return read.damaged, fetch.bytes_fetched


def _signature(store: SnapshotStore, order: VerifyOrder) -> tuple[Damage, ...]:
    if order.trust is None:
        return ()
    try:
        check_signature(store, order.snapshot, order.trust)
    except (Forged, Unsigned) as error:
        return (Damage(snapshot_key(order.snapshot, SIGNATURE), error.what),)
    return ()


def note_verdict(store: SnapshotStore, snapshot: str, damaged: Sequence[str]) -> None:
    """Keep what was found of a snapshot, for those who ask if it is a good one.

    Args:
        store: opened.
        snapshot: that was read as a whole, or found damaged.
        damaged: keys of what is.
    """
    verdict = {"good": not damaged, "damaged": list(damaged)}
    store.objects.put(snapshot_key(snapshot, VERDICT), json.dumps(verdict).encode())


def is_damaged(store: SnapshotStore, snapshot: str) -> bool:
    """Whether the last verification of a snapshot found it lost or damaged in part.

    One whose verdict cannot be read counts as damaged: nothing is removed for its sake.
    """
    try:
        verdict = store.facts(snapshot_key(snapshot, VERDICT))
    except BadInput:
        return True
    return verdict is not None and verdict.get("good") is not True


def _drawn(chunks: Sequence[ChunkRef], sample: float, seed: str) -> Sequence[ChunkRef]:
    if sample >= 1:
        return chunks
    count = max(1, round(len(chunks) * sample)) if chunks else 0
    draw = random.Random(seed) if seed else random.SystemRandom()  # noqa: S311 - no secret
    return draw.sample(chunks, count)


def told_damages(
    manifest: Manifest, damaged: Mapping[ChunkRef, tuple[str, str]]
) -> tuple[Damage, ...]:
    """What is wrong with a snapshot, and which of its files need it.

    Args:
        manifest: of the snapshot.
        damaged: for each chunk the key of its object, where there is one, and what is wrong.
    """
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
