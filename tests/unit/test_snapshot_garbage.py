"""Takes and prunes that run at once and are killed anywhere: every listed snapshot is readable."""

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.snapshot_actors import (
    GRACE,
    HOUR,
    LARGE,
    SMALL,
    START,
    Actor,
    Store,
    beat_for,
    left_behind,
    named,
    unreadable,
)

from gpufleet.core.snapshots import layout
from gpufleet.core.snapshots.garbage import SnapshotState, Stock, sweep
from gpufleet.spec.errors import Failed
from gpufleet.spec.snapshots import Pack, PackedChunk, StoredObject

LISTED = "20261126T101500Z-3fa9c1d2"
OLD = START - timedelta(days=9)
wanted = st.lists(st.sampled_from(LARGE + SMALL), min_size=1, unique=True)


class Machine(RuleBasedStateMachine):
    """Any number of takes and prunes, a clock, and somebody who kills."""

    store: Store
    running: list[Actor]

    @initialize(versioned=st.booleans(), lock_h=st.sampled_from([0, 0, 48]))
    def begin(self, versioned: bool, lock_h: int) -> None:  # noqa: FBT001
        self.store = Store(versioned, timedelta(hours=lock_h if versioned else 0))
        self.running = []

    @rule(chunks=wanted, steps=st.one_of(st.just(1000), st.integers(0, 9)))
    def take(self, chunks: list[str], steps: int) -> None:
        one = Actor(self.store, "take", chunks)
        if one.on(steps):
            self.running.append(one)

    @rule(chunks=wanted, steps=st.integers(0, 9))
    def take_that_is_killed(self, chunks: list[str], steps: int) -> None:
        Actor(self.store, "take", chunks).on(steps)

    @rule(steps=st.one_of(st.just(1000), st.integers(0, 9)))
    def prune(self, steps: int) -> None:
        one = Actor(self.store, "prune")
        if one.on(steps):
            self.running.append(one)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 5), steps=st.one_of(st.just(1000), st.integers(1, 6)))
    def go_on(self, which: int, steps: int) -> None:
        one = self.running[which % len(self.running)]
        if not one.on(steps):
            self.running.remove(one)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 5))
    def kill(self, which: int) -> None:
        self.running.pop(which % len(self.running))

    @rule(hours=st.sampled_from([0.9, 3, 12, 25, 49]))
    def stand_still(self, hours: float) -> None:
        self.store.now += hours * HOUR

    @rule(hours=st.sampled_from([3, 12, 25]))
    def beat(self, hours: int) -> None:
        beat_for(self.store, self.running, hours)

    @invariant()
    def every_listed_snapshot_is_readable(self) -> None:
        if hasattr(self, "store"):
            assert not unreadable(self.store)

    def teardown(self) -> None:
        """What nothing names does not stay for ever, whatever was killed."""
        if not hasattr(self, "store"):
            return
        store = self.store
        for _ in range(3):
            store.now += timedelta(hours=100)
            Actor(store, "prune").on()
        assert not unreadable(store)
        listed = store.snapshots()
        assert len(listed) <= 1
        needed = {chunk for snapshot in listed for chunk in store.manifest(snapshot)}
        for key in store.newest(layout.CHUNKS):
            assert key.rpartition("/")[2] in needed
        for index in store.newest(layout.INDEXES).values():
            assert any(one.id in needed for pack in index.content for one in pack.chunks)


TestTakesAndPrunes = Machine.TestCase
TestTakesAndPrunes.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(params=["large", "small"])
def chunk(request: pytest.FixtureRequest) -> str:
    return LARGE[0] if request.param == "large" else SMALL[0]


@pytest.fixture(params=["versions", "no versions"])
def store(request: pytest.FixtureRequest) -> Store:
    return Store(request.param == "versions", timedelta())


@pytest.fixture
def plain_bucket() -> Store:
    return Store(versioned=False, lock=timedelta())


def test_a_take_beside_a_prune_relies_on_nothing_that_the_prune_deletes(chunk: str) -> None:
    store = Store(versioned=True, lock=timedelta())
    left_behind(store, chunk)
    pruning = Actor(store, "prune")
    pruning.until("delete")
    assert not Actor(store, "take", [chunk]).on()
    assert len(store.snapshots()) == 1
    assert not pruning.on()
    assert not unreadable(store)


def test_without_versions_no_take_runs_beside_a_prune(plain_bucket: Store, chunk: str) -> None:
    left_behind(plain_bucket, chunk)
    pruning = Actor(plain_bucket, "prune")
    pruning.until("delete")
    Actor(plain_bucket, "take", [chunk]).on()
    assert plain_bucket.snapshots() == []
    pruning.on()


def test_without_versions_no_prune_deletes_beside_a_take(plain_bucket: Store, chunk: str) -> None:
    left_behind(plain_bucket, chunk)
    taking = Actor(plain_bucket, "take", [chunk])
    taking.until("listed")
    pruning = Actor(plain_bucket, "prune")
    assert not pruning.on()
    assert chunk in plain_bucket.places()
    assert not taking.on()
    assert not Actor(plain_bucket, "prune").on()
    assert len(plain_bucket.snapshots()) == 1
    assert not unreadable(plain_bucket)


def test_a_take_that_runs_longer_than_the_grace_does_not_commit(store: Store, chunk: str) -> None:
    Actor(store, "take", [chunk]).until("check")
    taking = Actor(store, "take", [chunk])
    taking.until("listed")
    beat_for(store, [taking], 30)
    assert not taking.on()
    assert store.snapshots() == []


def test_a_snapshot_that_is_removed_meanwhile_protects_its_chunks(store: Store, chunk: str) -> None:
    Actor(store, "take", [chunk]).on()
    store.now += 30 * HOUR
    taking = Actor(store, "take", [chunk])
    taking.until("listed")
    Actor(store, "take", [LARGE[1]]).on()
    for _ in range(3):
        Actor(store, "prune").on()
        beat_for(store, [taking], 7)
    assert not taking.on()
    assert len(store.snapshots()) == 3
    assert not unreadable(store)


def test_a_take_that_stood_still_does_not_commit(plain_bucket: Store, chunk: str) -> None:
    taking = Actor(plain_bucket, "take", [chunk])
    taking.until("check")
    plain_bucket.now += 2 * HOUR
    assert not taking.on()
    assert plain_bucket.snapshots() == []


def test_a_prune_that_stood_still_deletes_nothing_more(plain_bucket: Store, chunk: str) -> None:
    left_behind(plain_bucket, chunk)
    pruning = Actor(plain_bucket, "prune")
    pruning.until("delete")
    plain_bucket.now += 2 * HOUR
    assert not Actor(plain_bucket, "take", [chunk]).on()
    assert not pruning.on()
    assert len(plain_bucket.snapshots()) == 1
    assert not unreadable(plain_bucket)


def test_a_prune_killed_anywhere_leaves_no_listed_snapshot_unreadable(
    store: Store, chunk: str
) -> None:
    Actor(store, "take", [chunk]).on()
    store.now += HOUR
    Actor(store, "take", [LARGE[1]]).on()
    Actor(store, "prune").on()
    assert len(store.snapshots()) == 2
    store.now += 30 * HOUR
    steps = 1
    while Actor(store, "prune").on(steps):
        assert not unreadable(store)
        store.now += 2 * HOUR
        steps += 1
    assert len(store.snapshots()) == 1
    assert chunk not in store.places()


def test_a_take_whose_chunk_is_gone_does_not_commit(store: Store, chunk: str) -> None:
    taking = Actor(store, "take", [chunk])
    taking.until("check")
    for key in [*store.newest(layout.CHUNKS), *store.newest(layout.PACKS)]:
        del store.objects[key]
    assert not taking.on()
    assert store.snapshots() == []


def test_a_manifest_that_cannot_be_read_stops_everything() -> None:
    stock = Stock([], [SnapshotState(LISTED, None)], {})
    with pytest.raises(Failed, match="nothing is deleted") as caught:
        sweep(stock, now=START, grace=GRACE)
    assert caught.value.where == LISTED


def test_no_pack_goes_while_the_index_of_a_chunk_that_is_needed_is_lost() -> None:
    held, other = (layout.pack_key(named(name)) for name in ("held", "other"))
    objects = [StoredObject(key, 1, OLD, key) for key in (held, other)]
    states = [SnapshotState(LISTED, SMALL[:1])]
    assert sweep(Stock(objects, states, {}), now=START, grace=GRACE).delete == ()
    pack = Pack(named("held"), 1, (PackedChunk(SMALL[0], 0, 1, 1),))
    found = sweep(Stock(objects, states, {named("i"): [pack]}), now=START, grace=GRACE)
    assert [one.key for one in found.delete] == [other]


def test_what_somebody_else_put_there_is_left_alone() -> None:
    keys = ["format.json", "readme", "chunks/ab/readme", "snapshots/mine/manifest", "other/x"]
    stock = Stock([StoredObject(key, 1, OLD) for key in keys], [], {})
    found = sweep(stock, now=START, grace=GRACE)
    assert found.delete == found.waiting == ()


def test_object_lock_keeps_a_removed_snapshot_and_its_chunks() -> None:
    manifest = layout.snapshot_key(LISTED, layout.MANIFEST)
    objects = [
        StoredObject(layout.chunk_key(LARGE[0]), 1, OLD, "c"),
        StoredObject(manifest, 1, OLD, "m"),
        StoredObject(layout.snapshot_key(LISTED, layout.REMOVED), 0, OLD, "r"),
    ]
    states = [SnapshotState(LISTED, LARGE[:1], OLD)]
    stock = Stock(objects, states, {}, locked_until={(manifest, "m"): START + HOUR})
    assert sweep(stock, now=START, grace=GRACE).delete == ()
    free = sweep(stock, now=START + 2 * HOUR, grace=GRACE)
    assert [one.version for one in free.delete] == ["m", "c", "r"]
    assert free.expired == (LISTED,)


def test_a_delete_marker_stays_while_what_it_hides_does() -> None:
    key = layout.chunk_key(LARGE[0])
    objects = [
        StoredObject(key, 1, OLD, "v", latest=False),
        StoredObject(key, 0, OLD, "d", marker=True),
    ]
    locked = Stock(objects, [], {}, locked_until={(key, "v"): START + HOUR})
    assert sweep(locked, now=START, grace=GRACE).delete == ()
    free = sweep(Stock(objects, [], {}), now=START, grace=GRACE)
    assert [one.version for one in free.delete] == ["v", "d"]
