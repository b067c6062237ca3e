"""What differs between snapshots, and how long a restore will take."""

from datetime import UTC, datetime

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.snapshots.difference import difference
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
