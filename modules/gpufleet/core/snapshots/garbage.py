"""What a prune may delete, and what a take may rely on, so that neither harms the other.

No lock is held. The order in which each looks and acts, and one span of time (the grace), keep
every committed snapshot whole, whoever is killed where:

A take (1) notes the store's time and puts its mark, (2) lists chunks, packs, indexes and snapshots,
(3) stores what is not there, (4) asks `to_store_again` for what it relied on and stores that, (5)
sees that every object it needs is there, asks `may_commit`, and (6) puts the manifest. What it
stored itself is younger than the grace until then. What it found is named by a snapshot that was
not removed when it began, and so protected for the whole grace; or young enough; or stored again.

A prune (1) lists objects with their versions, (2) then lists the snapshots and reads every
manifest, (3) marks snapshots as removed, and (4) deletes, by version, what `sweep` gives. A
snapshot that was marked protects its chunks until its mark is older than the grace. Only then do
its manifest and, when that is gone, its chunks go. A manifest that cannot be read stops the prune;
while a chunk that is needed lies nowhere, no pack goes.

On a bucket without versions a take cannot store an object again without that being the object
which a prune is about to delete: there nothing is deleted while a take runs (`Sweep.blocked`), and
the prune puts its own mark before it looks for takes, which look for it after they put theirs.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from gpufleet.core.snapshots import layout
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.snapshots import Grace, Pack, StoredObject, TakeMark


@dataclass(frozen=True)
class SnapshotState:
    """A snapshot as a prune finds it, committed or not."""

    id: str
    chunks: Collection[str] | None
    """That its manifest names; None where it could not be read."""
    removed: datetime | None = None
    """By the store's clock; None where it lists."""
    referenced: bool = False
    """Whether something needs it now."""


@dataclass(frozen=True)
class Stock:
    """A store as a prune finds it."""

    objects: Sequence[StoredObject]
    """Every version of every object, listed before the snapshots were."""
    snapshots: Sequence[SnapshotState]
    """All whose manifest is there, listed and read after the objects. One that a delete marker
    hides counts as removed when the marker was put."""
    packs: Mapping[str, Sequence[Pack]]
    """What each index, by its name, says."""
    takes: Sequence[TakeMark] = ()
    """That run."""
    versioned: bool = True
    """Whether the bucket keeps versions."""
    locked_until: Mapping[tuple[str, str], datetime] = field(default_factory=dict)
    """(Key, version): how long Object Lock holds it."""


@dataclass(frozen=True)
class Sweep:
    """What a prune deletes, in this order, and what has to wait."""

    delete: tuple[StoredObject, ...]
    waiting: tuple[StoredObject, ...]
    """Named by nothing, and younger than the grace or locked."""
    expired: tuple[str, ...]
    """IDs of the snapshots whose manifests are deleted."""
    blocked: str = ""
    """Why nothing is deleted now; empty where nothing stands in the way."""


def sweep(stock: Stock, *, now: datetime, grace: Grace) -> Sweep:
    """Decide what to delete.

    Args:
        stock: what is there.
        now: by the store's clock.
        grace: how long what nothing names is kept.

    Raises:
        Failed: a manifest cannot be read, so nobody knows what it names.
    """
    locked = {place for place, until in stock.locked_until.items() if until > now}
    expired = _expired(stock.snapshots, locked, now, grace)
    for snapshot in stock.snapshots:
        if snapshot.chunks is None and snapshot.id not in expired:
            raise Failed(
                "its manifest cannot be read, so nothing is deleted: it may need any chunk",
                where=snapshot.id,
                mend="`snapshot.repair` brings it back.",
            )
    named = _named(stock, expired)
    unnamed = [one for one in stock.objects if one.key not in named and is_ours(one.key)]
    waiting = {
        (one.key, one.version)
        for one in unnamed
        if (one.key, one.version) in locked
        or (_snapshot_of(one.key) not in expired and now < one.modified + grace.keep)
    }
    # Without its delete marker, an older version that has to wait would be there again.
    hidden = {key for key, _ in waiting}
    waiting |= {(one.key, one.version) for one in unnamed if one.marker and one.key in hidden}
    blocked = "" if stock.versioned else _running(stock.takes, now, grace)
    if blocked:
        return Sweep((), tuple(unnamed), (), blocked)
    delete = [one for one in unnamed if (one.key, one.version) not in waiting]
    return Sweep(
        tuple(sorted(delete, key=lambda one: (order_of(one), one.key))),
        tuple(one for one in unnamed if (one.key, one.version) in waiting),
        tuple(sorted(expired)),
    )


def is_ours(key: str) -> bool:
    """Whether an object is one of the store's; what somebody else put there is left alone."""
    if key.startswith(layout.SNAPSHOTS):
        return layout.is_snapshot_id(_snapshot_of(key))
    return key.startswith(layout.RUNNING) or any(
        layout.name_of(key, folder) is not None
        for folder in (layout.CHUNKS, layout.PACKS, layout.INDEXES)
    )


def _expired(
    snapshots: Iterable[SnapshotState],
    locked: Collection[tuple[str, str]],
    now: datetime,
    grace: Grace,
) -> set[str]:
    """Those that no longer protect their chunks; one that Object Lock holds a part of does."""
    held = {_snapshot_of(key) for key, _ in locked}
    return {
        one.id
        for one in snapshots
        if one.removed is not None
        and not one.referenced
        and now >= one.removed + grace.keep
        and one.id not in held
    }


def _named(stock: Stock, expired: Collection[str]) -> set[str]:
    """Keys that must stay, whatever their age."""
    live = [one for one in stock.snapshots if one.id not in expired]
    chunks = {chunk for one in live for chunk in one.chunks or ()}
    keys = {layout.chunk_key(chunk) for chunk in chunks}
    alive = {one.id for one in live}
    keys |= {one.key for one in stock.objects if _snapshot_of(one.key) in alive}
    for index, packs in stock.packs.items():
        needed = [layout.pack_key(pack.id) for pack in packs if _any_in(pack, chunks)]
        if needed:
            keys.update(needed)
            keys.add(layout.index_key(index))
    if _is_lost(chunks, stock):
        # It may lie in a pack whose index is lost, and comes back with it.
        folders = (layout.PACKS, layout.INDEXES)
        keys |= {one.key for one in stock.objects if one.key.startswith(folders)}
    return keys


def _is_lost(chunks: Collection[str], stock: Stock) -> bool:
    """Whether nothing says where one of these is."""
    packed = {chunk.id for packs in stock.packs.values() for pack in packs for chunk in pack.chunks}
    there = {one.key for one in stock.objects}
    return any(one not in packed and layout.chunk_key(one) not in there for one in chunks)


def _any_in(pack: Pack, chunks: Collection[str]) -> bool:
    return any(chunk.id in chunks for chunk in pack.chunks)


def _snapshot_of(key: str) -> str:
    if not key.startswith(layout.SNAPSHOTS):
        return ""
    return key.removeprefix(layout.SNAPSHOTS).partition("/")[0]


def order_of(one: StoredObject) -> tuple[bool, int]:
    """A manifest before what it names, then the rest of its snapshot, the mark of its removal last.

    So a kill in between leaves no snapshot that lists and cannot be read.
    """
    part = one.key.rpartition("/")[2]
    if one.key.startswith(layout.SNAPSHOTS):
        place = {layout.MANIFEST: 0, layout.REMOVED: 4}.get(part, 3)
    else:
        place = 2 if one.key.startswith(layout.INDEXES) else 1
    return one.marker, place


def _running(takes: Iterable[TakeMark], now: datetime, grace: Grace) -> str:
    for take in takes:
        if now < take.beat + grace.margin:
            return (
                f"a take of `{take.revision}` runs on {take.host}, and the bucket has no versions"
            )
    return ""


@dataclass(frozen=True)
class Found:
    """An object that a take found in the store and relies on."""

    key: str
    modified: datetime
    """Of its newest version, by the store's clock."""
    locked_until: datetime | None = None


def to_store_again(
    found: Iterable[Found], named: Collection[str], *, commit_by: datetime, grace: Grace
) -> Iterator[str]:
    """Keys that a prune may delete before the take has committed.

    Args:
        found: what the take relies on and did not store itself.
        named: keys (packs for the small chunks in them) that a snapshot names which was not removed
            when the take began.
        commit_by: when the manifest is put at the latest, by the store's clock.
        grace: that every prune of this store keeps to.
    """
    until = commit_by + grace.margin
    for one in found:
        young = one.modified + grace.keep > until
        locked = one.locked_until is not None and one.locked_until > until
        if not (one.key in named or young or locked):
            yield one.key


def renewed(mark: TakeMark, now: datetime, grace: Grace) -> TakeMark:
    """The mark to put next: of a take, or of a prune on a bucket without versions.

    Args:
        mark: as it was put last.
        now: by the store's clock.
        grace: that every prune of this store keeps to.

    Raises:
        Retryable: it was not renewed for so long that others took it for dead.
    """
    if now - mark.beat >= grace.margin:
        raise Retryable(
            f"it stood still for {_hours(now - mark.beat)} h, and others went on without it",
            mend="Run it again: what is stored is not read again.",
        )
    return replace(mark, beat=now)


def may_commit(mark: TakeMark, now: datetime, missing: Collection[str], grace: Grace) -> None:
    """See that a take can put its manifest, within the grace's margin from now.

    Args:
        mark: of the take, as it was put last.
        now: by the store's clock, after the take saw what is there.
        missing: keys that its manifest needs and that are not there.
        grace: that every prune of this store keeps to.

    Raises:
        Retryable: it took too long, or something is gone; what is stored is used again.
    """
    renewed(mark, now, grace)
    if missing:
        raise Retryable(
            f"{len(missing)} objects that the snapshot needs are no longer in the store",
            where=min(missing),
            mend="Take it again: only these are read and stored anew.",
        )
    if now - mark.began >= grace.longest_take:
        raise Retryable(
            f"the take ran for {_hours(now - mark.began)} h; after {_hours(grace.longest_take)} h "
            "a prune may delete what it found",
            mend="Take it again: what is stored is not read again.",
        )


def _hours(span: timedelta) -> str:
    return f"{span.total_seconds() / 3600:.3g}"
