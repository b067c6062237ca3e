"""Takes and prunes as `core/snapshots/garbage.py` describes them, on a bucket in memory.

Each is a generator that stops before whatever touches the bucket, so that a test can let others go
on there, or kill it.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from gpufleet.core.snapshots import layout
from gpufleet.core.snapshots.garbage import (
    Found,
    SnapshotState,
    Stock,
    may_commit,
    renewed,
    sweep,
    to_store_again,
)
from gpufleet.core.snapshots.retention import Standing, retained
from gpufleet.spec.errors import Retryable
from gpufleet.spec.governance import SnapshotRetention
from gpufleet.spec.snapshots import (
    Grace,
    Pack,
    PackedChunk,
    SnapshotKind,
    SnapshotSummary,
    StoredObject,
    TakeMark,
)

START = datetime(2026, 11, 26, 10, 15, tzinfo=UTC)
GRACE = Grace()
POLICY = SnapshotRetention(daily=1, weekly=1, monthly=1)
HOUR = timedelta(hours=1)


def named(what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()


LARGE = [named(f"large {place}") for place in range(2)]
SMALL = [named(f"small {place}") for place in range(2)]


@dataclass
class Version:
    id: str
    modified: datetime
    content: Any
    locked_until: datetime


@dataclass
class Store:
    """One bucket: a newer version hides the older ones, or takes their place."""

    versioned: bool
    lock: timedelta
    now: datetime = START
    objects: dict[str, list[Version]] = field(default_factory=dict)
    count: int = 0

    def put(self, key: str, content: Any = None) -> datetime:  # noqa: ANN401 - each kind has its own
        self.now += timedelta(seconds=1)
        self.count += 1
        one = Version(f"v{self.count}", self.now, content, self.now + self.lock)
        older = self.objects.get(key, []) if self.versioned else []
        self.objects[key] = [*older, one]
        return self.now

    def delete(self, one: StoredObject) -> None:
        versions = self.objects.get(one.key, [])
        left = [v for v in versions if self.versioned and v.id != one.version]
        gone = [v for v in versions if v not in left]
        assert all(v.locked_until <= self.now for v in gone), "a locked version is deleted"
        self.objects[one.key] = left
        if not left:
            self.objects.pop(one.key, None)

    def listing(self) -> list[StoredObject]:
        return [
            StoredObject(key, 1, one.modified, one.id if self.versioned else "", one is ones[-1])
            for key, ones in self.objects.items()
            for one in ones
        ]

    def locks(self) -> dict[tuple[str, str], datetime]:
        return {
            (key, one.id if self.versioned else ""): one.locked_until
            for key, ones in self.objects.items()
            for one in ones
        }

    def newest(self, folder: str) -> dict[str, Version]:
        return {key: ones[-1] for key, ones in self.objects.items() if key.startswith(folder)}

    def snapshots(self) -> list[str]:
        keys = self.newest(layout.SNAPSHOTS)
        return [key.split("/")[1] for key in keys if key.endswith(layout.MANIFEST)]

    def removed(self, snapshot: str) -> datetime | None:
        versions = self.objects.get(layout.snapshot_key(snapshot, layout.REMOVED))
        return versions[-1].modified if versions else None

    def manifest(self, snapshot: str) -> list[str]:
        """The chunks that it names."""
        chunks: list[str] = self.objects[layout.snapshot_key(snapshot, layout.MANIFEST)][-1].content
        return chunks

    def marks(self, kind: str) -> list[TakeMark]:
        every = self.newest(layout.RUNNING).values()
        return [one.content[1] for one in every if one.content[0] == kind]

    def places(self) -> dict[str, str]:
        """The object in which each chunk is now."""
        found: dict[str, str] = {}
        for index in self.newest(layout.INDEXES).values():
            for pack in index.content:
                if layout.pack_key(pack.id) in self.objects:
                    found |= {one.id: layout.pack_key(pack.id) for one in pack.chunks}
        return found | {
            one: layout.chunk_key(one) for one in LARGE if layout.chunk_key(one) in self.objects
        }


class Actor:
    """A take or a prune: goes on step by step, and its heart beats apart from that."""

    def __init__(self, store: Store, kind: str, chunks: list[str] | None = None) -> None:
        self.store, self.kind = store, kind
        self.key = layout.running_key(f"{kind}-{store.count}")
        self.mark = TakeMark(self.key, store.now, store.now, "chat", "here")
        store.put(self.key, (kind, self.mark))
        self.steps = take(self, chunks) if chunks else prune(self)

    def beat(self) -> None:
        self.mark = renewed(self.mark, self.store.now, GRACE)
        self.store.put(self.key, (self.kind, self.mark))

    def on(self, steps: int = 1000) -> bool:
        """Go on by so many steps; whether there are more."""
        with suppress(Retryable):
            return all(next(self.steps, "over") != "over" for _ in range(steps))
        return False

    def until(self, part: str) -> None:
        """Go on until it is about to do this."""
        while (now := next(self.steps, "over")) != part:
            assert now != "over", f"it never came to {part}"


def take(self: Actor, chunks: list[str]) -> Iterator[str]:
    store = self.store
    yield ""
    prunes = store.marks("prune")
    if not store.versioned and any(store.now < one.beat + GRACE.margin for one in prunes):
        return
    known = store.places()
    newest = {key: ones[-1] for key, ones in store.objects.items()}
    yield ""
    protected = set()
    for snapshot in store.snapshots():
        if store.removed(snapshot) is None:
            protected |= {known[one] for one in store.manifest(snapshot) if one in known}
    yield "listed"
    yield from put_all(store, [one for one in chunks if one not in known])
    relied = {known[one] for one in chunks if one in known}
    found = [Found(key, newest[key].modified, newest[key].locked_until) for key in relied]
    again = set(to_store_again(found, protected, commit_by=store.now, grace=GRACE))
    yield from put_all(store, [one for one in chunks if known.get(one) in again])
    self.beat()
    identity = layout.snapshot_id(self.mark.began, named(self.key))
    store.put(layout.snapshot_key(identity, layout.SUMMARY))
    yield "check"
    now = store.now
    may_commit(self.mark, now, [one for one in chunks if one not in store.places()], GRACE)
    yield "commit"
    # Its request ends by itself when the margin is over.
    if store.now - now < GRACE.margin:
        store.put(layout.snapshot_key(identity, layout.MANIFEST), chunks)
    store.objects.pop(self.key, None)


def put_all(store: Store, chunks: list[str]) -> Iterator[str]:
    for one in chunks:
        if one in LARGE:
            store.put(layout.chunk_key(one))
            yield "stored"
    small = [one for one in chunks if one in SMALL]
    if small:
        rows = tuple(PackedChunk(one, place, 1, 1) for place, one in enumerate(small))
        pack = Pack(named(("pack", small)), len(small), rows)
        store.put(layout.pack_key(pack.id))
        yield "stored"
        store.put(layout.index_key(named(pack)), [pack])
        yield "stored"


def prune(self: Actor) -> Iterator[str]:
    store = self.store
    yield ""
    objects, packs = store.listing(), store.newest(layout.INDEXES)
    yield "listed"
    takes = store.marks("take")
    states = []
    for snapshot in store.snapshots():
        removed = store.removed(snapshot)
        yield ""
        # Another prune may have deleted it since.
        with suppress(KeyError):
            states.append(SnapshotState(snapshot, store.manifest(snapshot), removed))
    listed = [Standing(summary(one.id)) for one in states if one.removed is None]
    for snapshot in retained(listed, POLICY, zone=UTC, now=store.now).remove:
        yield "remove"
        store.put(layout.snapshot_key(snapshot, layout.REMOVED))
    stock = Stock(
        objects,
        states,
        {key.removeprefix(layout.INDEXES): one.content for key, one in packs.items()},
        takes,
        store.versioned,
        store.locks(),
    )
    for one in sweep(stock, now=store.now, grace=GRACE).delete:
        yield "delete"
        self.beat()
        store.delete(one)
    store.objects.pop(self.key, None)


def summary(snapshot: str) -> SnapshotSummary:
    created = layout.created_of(snapshot)
    return SnapshotSummary(snapshot, created, "chat", SnapshotKind.ARTIFACT, 1, 1, 1, "", "")


def unreadable(store: Store) -> list[str]:
    """Snapshots that list, or that are still protected, and lack a chunk."""
    there = set(store.places())
    return [
        snapshot
        for snapshot in store.snapshots()
        if (removed := store.removed(snapshot)) is None or store.now < removed + GRACE.keep
        if not there.issuperset(store.manifest(snapshot))
    ]


def beat_for(store: Store, running: list[Actor], hours: int) -> None:
    """Time passes, and the hearts of those that run beat."""
    for _ in range(hours * 2):
        store.now += HOUR / 2
        for one in running:
            with suppress(Retryable):
                one.beat()


def left_behind(store: Store, chunk: str) -> None:
    """An old chunk that no snapshot names."""
    Actor(store, "take", [chunk]).until("check")
    store.now += 30 * HOUR
