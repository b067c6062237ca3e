"""Which snapshots a store holds, what one holds, and what differs between two."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from gpufleet.core.approvals import CLOCK_SKEW
from gpufleet.core.snapshots import manifest as manifests
from gpufleet.core.snapshots.difference import Difference, difference
from gpufleet.core.snapshots.layout import SUMMARY, snapshot_key
from gpufleet.core.snapshots.revision import revision_digest
from gpufleet.edges.clock import system_clock
from gpufleet.flows.snapshots.store import THREADS, SnapshotStore, manifest_of
from gpufleet.flows.snapshots.verify import is_damaged
from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshots import Manifest, SnapshotKind, SnapshotSummary


@dataclass(frozen=True)
class Listing:
    """The snapshots of a store, from the newest on."""

    store: str
    """Where it is."""
    snapshots: tuple[SnapshotSummary, ...]


def listing(store: SnapshotStore, revision: str = "") -> Listing:
    """Every snapshot of a store, or those of one revision; none where there is no store yet.

    Raises:
        BadInput: the store, or a snapshot in it, is of a newer format.
        Retryable: the store does not answer.
    """
    if not store.exists():
        return Listing(store.shown, ())
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda snapshot: summary_of(store, snapshot), store.listed()))
    chosen = [each for each in found if not revision or each.revision == revision]
    ordered = sorted(chosen, key=lambda each: (each.created, each.id), reverse=True)
    return Listing(store.shown, tuple(ordered))


def newest_good(
    store: SnapshotStore,
    revision: str,
    kind: SnapshotKind,
    read: dict[str, SnapshotSummary] | None = None,
    *,
    digest: str = "",
) -> SnapshotSummary | None:
    """The newest snapshot of a revision that no verification found damaged; None without one.

    What cannot be read is no good one, nor is what is dated in the future: its clock went wrong,
    and it would be the newest for as long.

    Args:
        store: of a site.
        revision: its name.
        kind: of the snapshot.
        read: what earlier looks at this store have read, by ID; grows, and loses what is gone.
        digest: of the revision's content (`core/snapshots/revision.py`); empty for any.

    Raises:
        BadInput: the store is of a newer format.
        Retryable: the store does not answer.
    """
    known = {} if read is None else read
    if not store.exists():
        return None
    # IDs begin with when they were created.
    listed = sorted(store.listed(), reverse=True)
    for gone in known.keys() - set(listed):
        del known[gone]
    for each in listed:
        summary = known.get(each) or readable_summary(store, each)
        if summary is None:
            continue
        known[each] = summary
        mine = summary.revision == revision and summary.kind is kind
        mine = mine and digest in {"", summary.digest}
        if mine and not is_of_the_future(summary) and not is_damaged(store, each):
            return summary
    return None


def summary_of(store: SnapshotStore, snapshot: str) -> SnapshotSummary:
    """What a listing says of a snapshot; from its manifest where the summary is lost or damaged.

    Raises:
        BadInput: there is no such snapshot, or it was changed.
    """
    body = store.objects.find(snapshot_key(snapshot, SUMMARY))
    if body is not None:
        with suppress(BadInput):
            return manifests.decode_summary(body, snapshot=snapshot)
    # It is there because its manifest is; what the take added to the store nobody knows any more.
    stored = store.manifest_body(snapshot)
    manifest = manifests.decode(stored, snapshot=snapshot)
    return manifests.summarize(manifest, stored, stored_bytes=0, signed=False)


def with_digest(store: SnapshotStore, snapshot: str) -> SnapshotSummary:
    """As `summary_of`, with the revision's digest, which older summaries have not.

    Raises:
        BadInput: there is no such snapshot, or it was changed.
    """
    summary = summary_of(store, snapshot)
    if summary.digest:
        return summary
    return replace(summary, digest=revision_digest(manifest_of(store, snapshot)))


def is_of_the_future(summary: SnapshotSummary) -> bool:
    """Whether a snapshot was created later than clocks may differ from now."""
    return summary.created > system_clock() + CLOCK_SKEW


def readable_summary(store: SnapshotStore, snapshot: str) -> SnapshotSummary | None:
    """What a listing says of a snapshot; None where it was changed or is of a newer format.

    Raises:
        Retryable: the store does not answer.
    """
    try:
        return summary_of(store, snapshot)
    except BadInput:
        return None


def shown(store: SnapshotStore, snapshot: str) -> tuple[SnapshotSummary, Manifest]:
    """One snapshot: its summary and all that is in it.

    Raises:
        BadInput: there is no such snapshot, or its manifest was changed.
    """
    manifest = manifest_of(store, snapshot)
    return summary_of(store, snapshot), manifest


def between(store: SnapshotStore, old: str, new: str) -> Difference:
    """What differs between two snapshots.

    Raises:
        BadInput: there is no such snapshot, or its manifest was changed.
    """
    return difference(manifest_of(store, old), manifest_of(store, new))
