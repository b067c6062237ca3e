"""Takes and prunes that run at once and are killed anywhere: every listed snapshot is readable."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

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
Step = Iterator[None]


def named(what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()


LARGE = [named(f"large {place}") for place in range(4)]
SMALL = [named(f"small {place}") for place in range(4)]


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

    def put(self, key: str, content: Any = None) -> datetime:
        self.now += timedelta(seconds=1)
        self.count += 1
        one = Version(f"v{self.count}", self.now, content, self.now + self.lock)
        older = self.objects.get(key, []) if self.versioned else []
        self.objects[key] = [*older, one]
        return self.now

    def get(self, key: str) -> Any:
        return self.objects[key][-1].content

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
        # The first mark counts: a second prune does not begin the grace anew, nor end it.
        return versions[-1].modified if versions else None

    def marks(self, kind: str) -> list[TakeMark]:
        every = self.newest(layout.RUNNING).values()
        return [one.content[1] for one in every if one.content[0] == kind]

    def places(self) -> dict[str, str]:
        """The object in which each chunk is now."""
        found = {}
        for index in self.newest(layout.INDEXES).values():
            for pack in index.content:
                if layout.pack_key(pack.id) in self.objects:
                    found |= {one.id: layout.pack_key(pack.id) for one in pack.chunks}
        return found | {
            one: layout.chunk_key(one) for one in LARGE if layout.chunk_key(one) in self.objects
        }


def pack_of(chunks: list[str]) -> Pack:
    rows = (PackedChunk(one, place, 1, 1) for place, one in enumerate(chunks))
    return Pack(named(("pack", chunks)), len(chunks), tuple(rows))


def take(store: Store, chunks: list[str], who: str) -> Step:
    """As the module's document says, with a pause before whatever touches the store."""
    now = store.put(layout.running_key(who), None)
    mark = TakeMark(who, now, now, "chat", "here")
    store.put(layout.running_key(who), ("take", mark))
    yield
    if not store.versioned and any(
        store.now < one.beat + GRACE.margin for one in store.marks("prune")
    ):
        return
    known = store.places()
    modified = {key: ones[-1] for key, ones in store.objects.items()}
    yield
    protected = set()
    for snapshot in store.snapshots():
        if store.removed(snapshot) is None:
            wanted = store.get(layout.snapshot_key(snapshot, layout.MANIFEST))
            protected |= {known[one] for one in wanted if one in known}
    yield
    yield from put_all(store, [one for one in chunks if one not in known])
    mark = renewed(mark, store.now, GRACE)
    store.put(layout.running_key(who), ("take", mark))
    relied = {known[one] for one in chunks if one in known}
    found = [Found(key, modified[key].modified, modified[key].locked_until) for key in relied]
    again = set(to_store_again(found, protected, commit_by=store.now + HOUR, grace=GRACE))
    yield from put_all(store, [one for one in chunks if known.get(one) in again])
    mark = renewed(mark, store.now, GRACE)
    store.put(layout.running_key(who), ("take", mark))
    identity = layout.snapshot_id(mark.began, named((mark.began, who)))
    store.put(layout.snapshot_key(identity, layout.SUMMARY), None)
    yield
    may_commit(mark, store.now, [one for one in chunks if one not in store.places()], GRACE)
    yield  # No longer than the margin: the machine sees to it.
    if mark.began + GRACE.keep > store.now and store.now - mark.beat < GRACE.margin:
        store.put(layout.snapshot_key(identity, layout.MANIFEST), chunks)
    store.objects.pop(layout.running_key(who), None)


def put_all(store: Store, chunks: list[str]) -> Step:
    for one in chunks:
        if one in LARGE:
            store.put(layout.chunk_key(one))
            yield
    small = [one for one in chunks if one in SMALL]
    if small:
        pack = pack_of(small)
        store.put(layout.pack_key(pack.id))
        yield
        store.put(layout.index_key(named(pack)), [pack])
        yield


def summary(snapshot: str) -> SnapshotSummary:
    return SnapshotSummary(
        snapshot, layout.created_of(snapshot), "chat", SnapshotKind.ARTIFACT, 1, 1, 1, "", ""
    )


def prune(store: Store, who: str) -> Step:
    """As the module's document says, with a pause before whatever touches the store."""
    now = store.put(layout.running_key(who), None)
    mark = TakeMark(who, now, now, "", "here")
    store.put(layout.running_key(who), ("prune", mark))
    yield
    objects, packs = store.listing(), store.newest(layout.INDEXES)
    yield
    takes = store.marks("take")
    states = []
    for snapshot in store.snapshots():
        removed = store.removed(snapshot)
        yield
        with suppress(KeyError):
            chunks = store.get(layout.snapshot_key(snapshot, layout.MANIFEST))
            states.append(SnapshotState(snapshot, chunks, removed))
    listed = [Standing(summary(one.id)) for one in states if one.removed is None]
    for snapshot in retained(listed, POLICY, zone=UTC, now=store.now).remove:
        yield
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
        yield
        mark = renewed(mark, store.now, GRACE)
        store.put(layout.running_key(who), ("prune", mark))
        store.delete(one)
    store.objects.pop(layout.running_key(who), None)


def run(step: Step) -> None:
    for _ in step:
        pass


class Machine(RuleBasedStateMachine):
    """Any number of takes and prunes, a clock, and somebody who kills."""

    store: Store
    running: list[Step]
    started = 0
    committed: set[str]

    @initialize(versioned=st.booleans(), lock_h=st.sampled_from([0, 0, 48]))
    def begin(self, versioned: bool, lock_h: int) -> None:  # noqa: FBT001
        self.store = Store(versioned, timedelta(hours=lock_h if versioned else 0))
        self.running = []

    @rule(chunks=st.lists(st.sampled_from(LARGE + SMALL), min_size=1, unique=True))
    def take(self, chunks: list[str]) -> None:
        self.started += 1
        self.running.append(take(self.store, chunks, f"take-{self.started}"))

    @rule(chunks=st.lists(st.sampled_from(LARGE + SMALL), min_size=1, unique=True))
    def take_whole(self, chunks: list[str]) -> None:
        self.started += 1
        run(take(self.store, chunks, f"take-{self.started}"))

    @rule()
    def prune(self) -> None:
        self.started += 1
        self.running.append(prune(self.store, f"prune-{self.started}"))

    @rule()
    def prune_whole(self) -> None:
        self.started += 1
        run(prune(self.store, f"prune-{self.started}"))

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 5), steps=st.integers(1, 6))
    def go_on(self, which: int, steps: int) -> None:
        one = self.running[which % len(self.running)]
        for _ in range(steps):
            try:
                next(one)
            except (StopIteration, Retryable):
                self.running.remove(one)
                return

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 5))
    def kill(self, which: int) -> None:
        self.running.pop(which % len(self.running))

    @rule(hours=st.sampled_from([0.4, 0.9, 3, 12, 23.5, 25, 49]))
    def wait(self, hours: float) -> None:
        self.store.now += hours * HOUR

    @invariant()
    def every_listed_snapshot_is_readable(self) -> None:
        if not hasattr(self, "store"):
            return
        there = self.store.places()
        for snapshot in self.store.snapshots():
            removed = self.store.removed(snapshot)
            if removed is None or self.store.now < removed + GRACE.keep:
                wanted = self.store.get(layout.snapshot_key(snapshot, layout.MANIFEST))
                assert set(wanted) <= set(there)

    def teardown(self) -> None:
        """What nothing names does not stay for ever, whatever was killed."""
        if not hasattr(self, "store"):
            return
        for _ in range(3):
            self.store.now += timedelta(hours=100)
            run(prune(self.store, "prune-last"))
        self.every_listed_snapshot_is_readable()
        listed = self.store.snapshots()
        assert len(listed) <= 1
        wanted = {one for it in listed for one in self.store.get(f"snapshots/{it}/manifest")}
        for key in self.store.newest(layout.CHUNKS):
            assert key.rpartition("/")[2] in wanted
        for index in self.store.newest(layout.INDEXES).values():
            assert any(one.id in wanted for pack in index.content for one in pack.chunks)


TestTakesAndPrunes = Machine.TestCase
TestTakesAndPrunes.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
