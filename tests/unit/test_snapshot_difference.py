"""What differs, what a restore takes from where, and how long that will take."""

from datetime import UTC, datetime

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.snapshots.difference import Place, difference, restore_plan
from gpufleet.core.snapshots.digests import file_digest
from gpufleet.core.snapshots.prediction import Rates, Work, measured, outlook, restore_s
from gpufleet.spec.snapshots import (
    ChunkRef,
    FileEntry,
    FolderEntry,
    LinkEntry,
    Manifest,
    RestoreReport,
)

CREATED = datetime(2026, 11, 26, 10, 15, tzinfo=UTC)
GIB = 2**30
Tree = dict[str, list[bytes]]
"""Path: the chunks of a file."""

trees = st.dictionaries(
    st.sampled_from(["a", "b", "c/d", "c/e", "f"]),
    st.lists(st.sampled_from([b"x", b"yy", b"zzz", b"wwww", b"x" * 5]), max_size=4),
    max_size=5,
)


def digest(content: bytes) -> str:
    return blake3(content).hexdigest()


def manifest(tree: Tree, mode: int = 0o644) -> Manifest:
    refs = {
        path: tuple(ChunkRef(digest(one), len(one)) for one in chunks)
        for path, chunks in tree.items()
    }
    files = (
        FileEntry(path, mode, sum(map(len, tree[path])), file_digest(chunks), chunks)
        for path, chunks in sorted(refs.items())
    )
    return Manifest(CREATED, "r", "t", tuple(files))


def contents(tree: Tree) -> dict[str, bytes]:
    return {path: b"".join(chunks) for path, chunks in tree.items()}


@given(trees, trees)
def test_a_difference_is_that_of_the_two_folders(before: Tree, after: Tree) -> None:
    found = difference(manifest(before), manifest(after))
    both = set(before) & set(after)
    assert set(found.added) == set(after) - both
    assert set(found.removed) == set(before) - both
    # The same bytes, cut otherwise, count as others.
    assert set(found.changed) == {path for path in both if before[path] != after[path]}
    assert found.modes == ()
    had = {one for chunks in before.values() for one in chunks}
    has = {one for chunks in after.values() for one in chunks}
    assert found.plain_bytes == sum(map(len, has - had))
    assert found.shared_bytes == sum(map(len, has & had))
    assert found.empty == (before == after)


def test_links_folders_and_modes_differ_too() -> None:
    old = Manifest(
        CREATED,
        "r",
        "t",
        manifest({"a": [b"x"]}).files,
        (FolderEntry("d", 0o755),),
        (LinkEntry("l", "a"), LinkEntry("m", "a")),
    )
    new = Manifest(
        CREATED,
        "r",
        "t",
        manifest({"a": [b"x"]}, mode=0o600).files,
        (FolderEntry("d", 0o700),),
        (LinkEntry("l", "d"), LinkEntry("m", "a")),
    )
    found = difference(old, new)
    assert found.changed == ("l",)
    assert found.modes == ("a", "d")
    assert not found.empty


@given(trees, st.one_of(st.none(), trees), st.one_of(st.none(), st.sets(st.sampled_from("abf"))))
def test_a_plan_that_is_followed_gives_the_tree(
    wanted: Tree, there: Tree | None, only: set[str] | None
) -> None:
    store = {digest(one): one for chunks in wanted.values() for one in chunks}
    new = manifest(wanted)
    plan = restore_plan(new, None if there is None else manifest(there), only=only)
    old = contents(there or {})
    made = {path: bytearray() for path in plan.empty}
    made |= {path: bytearray(old[source]) for path, source in plan.whole.items()}
    sizes = {one.path: one.plain_bytes for one in new.files}
    fetched = 0
    for chunk in plan.chunks:
        if chunk.local is None:
            plain = store[chunk.id]
            fetched += len(plain)
        else:
            begin = chunk.local.offset_bytes
            plain = old[chunk.local.path][begin : begin + chunk.plain_bytes]
        assert digest(plain) == chunk.id
        for path, offset in chunk.to:
            made.setdefault(path, bytearray(sizes[path]))[offset : offset + len(plain)] = plain
    expected = {path: one for path, one in contents(wanted).items() if only is None or path in only}
    assert {path: bytes(one) for path, one in made.items()} == expected
    assert plan.bytes_fetched == fetched
    have = {one for chunks in (there or {}).values() for one in chunks}
    assert not {chunk.id for chunk in plan.chunks if chunk.local is None} & set(map(digest, have))
    assert len({chunk.id for chunk in plan.chunks}) == len(plan.chunks)


def test_only_what_changed_is_fetched() -> None:
    old = {"model": [b"a" * 10, b"b" * 10, b"c" * 10], "config": [b"{}"]}
    new = {"model": [b"a" * 10, b"B" * 10, b"new", b"c" * 10], "config": [b"{}"]}
    plan = restore_plan(manifest(new), manifest(old))
    assert plan.whole == {"config": "config"}
    assert plan.bytes_fetched == 13
    assert plan.bytes_local == 20
    assert plan.chunks[3].local == Place("model", 20)
    assert plan.chunks[3].to == (Place("model", 23),)


def test_a_renamed_file_is_taken_whole_and_from_its_own_path_first() -> None:
    plan = restore_plan(manifest({"b": [b"x"], "c": [b"x"]}), manifest({"a": [b"x"], "c": [b"x"]}))
    assert plan.whole == {"b": "c", "c": "c"}
    assert not plan.chunks


RATES = Rates(fetch_bytes_per_s=2 * GIB, local_bytes_per_s=4 * GIB, object_s=0.001)


def test_a_restore_takes_what_the_rates_say() -> None:
    work = Work(bytes_fetched=20 * GIB, bytes_local=8 * GIB, objects=1000)
    assert restore_s(work, RATES) == pytest.approx(11)
    assert restore_s(Work(bytes_fetched=0, bytes_local=8 * GIB), RATES) == pytest.approx(2)
    shared = Rates(2 * GIB, 4 * GIB, store_bytes_per_s=4 * GIB)
    assert restore_s(Work(20 * GIB, nodes=4), shared) == pytest.approx(20)
    assert restore_s(Work(20 * GIB, nodes=1), shared) == pytest.approx(10)


def test_an_objective_that_holds_needs_nothing() -> None:
    found = outlook(Work(20 * GIB, before_s=30, after_s=20), RATES, rto_s=60, whole_bytes=20 * GIB)
    assert found.holds
    assert found.total_s == pytest.approx(60)
    assert found.remedies == ()


def test_an_objective_that_does_not_hold_tells_what_would_hold_it() -> None:
    rates = Rates(2 * GIB, 4 * GIB, store_bytes_per_s=4 * GIB)
    work = Work(20 * GIB, nodes=4, before_s=30, after_s=20)
    found = outlook(work, rates, rto_s=60, whole_bytes=20 * GIB)
    assert not found.holds
    assert found.restore_s == pytest.approx(20)
    assert found.remedies == (
        "service from 2 of the 4 nodes, which restore first",
        "8 GiB/s from the store (measured: 4 GiB/s)",
        "50% of the artifact in the node's cache before it fails",
        "an objective of 70 s",
    )
    alone = outlook(Work(20 * GIB), Rates(GIB, 4 * GIB), rto_s=10, whole_bytes=20 * GIB)
    assert alone.remedies[0] == "2 GiB/s to each node (measured: 1 GiB/s)"


def test_no_rate_helps_where_the_rest_takes_too_long() -> None:
    found = outlook(Work(GIB, before_s=50, after_s=20), RATES, rto_s=60, whole_bytes=GIB)
    assert found.remedies == (
        "10 s less for what comes before and after the restore, and no restore",
        "an objective of 71 s",
    )


positive = st.floats(1e6, 1e12)


@given(
    st.builds(Work, st.integers(0, 2**45), st.integers(0, 2**45), st.integers(0, 10**6),
              st.integers(1, 500), st.floats(0, 1e4), st.floats(0, 1e4)),
    st.builds(Rates, positive, positive, st.floats(0, 0.1), st.one_of(st.none(), positive)),
    st.floats(0, 1e6),
)  # fmt: skip
def test_an_outlook_is_told_of_any_restore(work: Work, rates: Rates, rto_s: float) -> None:
    found = outlook(work, rates, rto_s=rto_s, whole_bytes=work.bytes_fetched + work.bytes_local)
    assert found.holds == (not found.remedies)
    assert found.total_s >= found.restore_s >= 0
    assert all(found.remedies)


def report(fetched: int, local: int, seconds: float) -> RestoreReport:
    return RestoreReport("s", "t", 1, fetched + local, fetched, local, seconds)


def test_rates_are_the_median_of_the_newest_restores() -> None:
    assert measured([]) == (None, None)
    assert measured([report(10, 0, 0.1), report(0, 0, 0)]) == (None, None)
    old = [report(GIB, 0, 100.0)] * 50
    new = [report(GIB, 0, 1.0)] * 8 + [report(0, GIB, 0.5)] * 2
    assert measured(old + new) == (GIB, 2 * GIB)
