"""Names that could be written elsewhere, twice or not at all are refused, each with one error."""

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.snapshot_reader import Reader, Unreadable
from tests.unit.test_snapshot_format import CREATED, NONE

from gpufleet.core.snapshots.manifest import decode, encode
from gpufleet.core.snapshots.paths import SourceEntry, check_link, permissions, refuse_source
from gpufleet.core.snapshots.stored_json import loaded, squeezed
from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshots import FileEntry, FolderEntry, LinkEntry, Manifest

REGULAR = stat.S_IFREG | 0o644


def file(path: str) -> FileEntry:
    return FileEntry(path, 0o644, 0, NONE, ())


def manifest(
    files: list[str], links: list[tuple[str, str]] | None = None, folders: list[str] | None = None
) -> Manifest:
    return Manifest(
        CREATED,
        "r",
        "t",
        tuple(map(file, files)),
        tuple(FolderEntry(one, 0o755) for one in folders or []),
        tuple(LinkEntry(*one) for one in links or []),
    )


def written_by_somebody(made: Manifest) -> bytes:
    """What `encode` refuses to write."""
    value = loaded(encode(manifest([])), "manifest", "")
    files = {
        "path": [one.path for one in made.files], "mode": [420] * len(made.files),
        "bytes": [0] * len(made.files), "blake3": [NONE] * len(made.files),
        "chunks": {str(place): [] for place in range(len(made.files))}, "sha256": {},
    }  # fmt: skip
    return squeezed(value | {"files": files, "links": made.links, "folders": made.folders})


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (["/etc/passwd"], "absolute"),
        (["../x"], "leads out"),
        (["a/../../x"], "leads out"),
        (["a/.."], "leads out"),
        ([""], "empty part"),
        (["a//b"], "empty part"),
        (["a/"], "empty part"),
        (["./a"], "empty part"),
        (["a/./b"], "empty part"),
        (["a\0b"], "control characters"),
        (["a\nb"], "control characters"),
        (["\udcff"], "no UTF-8"),
        (["x" * 256], "too long"),
        (["é" * 128], "too long"),
        (["/".join(["x" * 200] * 21)], "too long"),
        (["a", "a"], "named twice"),
        (["a", "a/b"], "below"),
        (["a/b", "a"], "folder as well"),
        (["a/b/c/d", "a/b"], "folder as well"),
        (["Config.json", "config.json"], "case does not count"),
        (["A/x", "a/y"], "case does not count"),
        (["a/B/x", "a/b/y"], "case does not count"),
        (["stra\u00dfe", "STRASSE"], "case does not count"),
        (["caf\u00e9", "cafe\u0301"], "case does not count"),
    ],
)
def test_names_that_no_folder_can_hold_are_refused(files: list[str], what: str) -> None:
    made = manifest(files)
    with pytest.raises(BadInput, match=what) as caught:
        encode(made)
    caught.value.where.encode()
    assert caught.value.mend
    with pytest.raises(BadInput, match=what):
        refuse_source(SourceEntry(path, REGULAR, 1) for path in files)
    if "\udcff" not in files:
        with pytest.raises(BadInput, match=what):
            decode(written_by_somebody(made))


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("l", "/etc/passwd"),
        ("l", ".."),
        ("a/l", "../.."),
        ("a/l", "../../x"),
        ("a/l", "b/../../../x"),
        ("l", "a/.."),
        ("l", ""),
        ("l", "a\0"),
        ("l", "\udcff"),
    ],
)
def test_a_link_out_of_the_tree_is_refused(path: str, target: str) -> None:
    with pytest.raises(BadInput, match="out of the folder"):
        encode(manifest([], [(path, target)]))
    with pytest.raises(BadInput, match="out of the folder"):
        refuse_source([SourceEntry(path, stat.S_IFLNK | 0o777, 1, target)])


def test_a_link_in_the_tree_is_kept() -> None:
    links = [("a/b/l", "../../c"), ("l", "a/b"), ("m", "."), ("n/l", ".."), ("o", "./a/b")]
    made = manifest(["c", "a/b/x"], links)
    assert sorted(decode(encode(made)).links) == sorted(made.links)


def test_nothing_lies_below_a_link() -> None:
    for made in (manifest(["d/x"], [("d", "e")]), manifest([], [("d", "e"), ("d/x", "y")])):
        with pytest.raises(BadInput, match=r"no folder|folder as well"):
            encode(made)
        with pytest.raises(BadInput, match=r"no folder|folder as well"):
            decode(written_by_somebody(made))


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (SourceEntry("pipe", stat.S_IFIFO | 0o644, 0), "device, a socket or a pipe"),
        (SourceEntry("null", stat.S_IFCHR | 0o644, 0), "device, a socket or a pipe"),
        (SourceEntry("disk", stat.S_IFBLK | 0o644, 0), "device, a socket or a pipe"),
        (SourceEntry("sock", stat.S_IFSOCK | 0o644, 0), "device, a socket or a pipe"),
        (SourceEntry("half", REGULAR, 9, sparse=True), "holes"),
    ],
)
def test_special_and_sparse_files_are_refused(entry: SourceEntry, what: str) -> None:
    with pytest.raises(BadInput, match=what) as caught:
        refuse_source([SourceEntry("good", REGULAR, 1), entry])
    assert caught.value.where == entry.path


def test_folders_and_files_are_taken_with_their_permissions_only() -> None:
    refuse_source([SourceEntry("d", stat.S_IFDIR | 0o2755, 0), SourceEntry("d/x", REGULAR, 1)])
    assert permissions(stat.S_IFREG | 0o6755) == 0o755


names = st.lists(
    st.lists(
        st.sampled_from(["a", "A", "b", "..", ".", "", "é", "e\u0301"]), min_size=1, max_size=3
    ).map("/".join),
    max_size=5,
)


@given(names, st.lists(st.tuples(names, names), max_size=2))
def test_this_code_and_the_reader_of_the_document_refuse_the_same(
    files: list[str], pairs: list[tuple[list[str], list[str]]]
) -> None:
    links = [("/".join(one), "/".join(other)) for one, other in pairs]
    made = manifest(files, links)
    stored = written_by_somebody(made)
    try:
        Reader._names(loaded(stored, "manifest", ""))
    except Unreadable:
        with pytest.raises(BadInput):
            decode(stored)
    else:
        decode(stored)


@given(
    st.lists(st.sampled_from(["a", "b"]), max_size=3),
    st.dictionaries(
        st.lists(st.sampled_from(["a", "b", "l", "m"]), min_size=1, max_size=3).map("/".join),
        st.lists(st.sampled_from(["..", ".", "a", "b", "l", "m"]), min_size=1, max_size=4).map(
            "/".join
        ),
        max_size=5,
    ),
)
def test_no_accepted_links_lead_out_whatever_they_lead_through(
    start: list[str], links: dict[str, str]
) -> None:
    kept = {
        path: target
        for path, target in links.items()
        if stays(path, target) and not any(path.startswith(f"{other}/") for other in links)
    }
    for path in kept:
        follow(kept, [], path.split("/"), 40)
        follow(kept, [], [*path.split("/"), *start], 40)


def stays(path: str, target: str) -> bool:
    try:
        check_link(path, target)
    except BadInput:
        return False
    return True


def follow(links: dict[str, str], place: list[str], parts: list[str], hops: int) -> None:
    """As a kernel follows a path, until it has followed too many links."""
    for number, part in enumerate(parts):
        if part == "..":
            assert place, "out of the tree"
            place = place[:-1]
        elif part != ".":
            place = [*place, part]
            target = links.get("/".join(place))
            if target is not None:
                if hops:
                    follow(links, place[:-1], target.split("/") + parts[number + 1 :], hops - 1)
                return
