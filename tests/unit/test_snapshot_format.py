"""What is written is read back, by this code and by a reader that knows only the document."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from tests.snapshot_reader import Reader, Unreadable

from gpufleet.core.snapshots import layout
from gpufleet.core.snapshots.digests import file_digest
from gpufleet.core.snapshots.frames import (
    HEADER_BYTES,
    DamagedChunk,
    chunk_id,
    decode,
    encode,
    hasher,
    read_header,
)
from gpufleet.core.snapshots.manifest import (
    check_key,
    chunks_of,
    decode_format,
    decode_summary,
    digest_of,
    encode_format,
    encode_summary,
    needs_of,
    summarize,
)
from gpufleet.core.snapshots.manifest import (
    decode as decode_manifest,
)
from gpufleet.core.snapshots.manifest import (
    encode as encode_manifest,
)
from gpufleet.core.snapshots.packing import PackBuilder, decode_index, encode_index
from gpufleet.core.snapshots.stored_json import squeezed
from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshots import (
    PIECE_BYTES,
    SMALL_BYTES,
    ChunkRef,
    Codec,
    FileEntry,
    FolderEntry,
    LinkEntry,
    Manifest,
    SnapshotKind,
    StoreFormat,
)

KEY = bytes(range(32))
CREATED = datetime(2026, 11, 26, 10, 15, tzinfo=UTC)
NONE = "0" * 64

keys = st.sampled_from([None, KEY])
plains = st.one_of(
    st.binary(min_size=1, max_size=3000),
    st.builds(bytes.__mul__, st.binary(min_size=1, max_size=8), st.integers(1, 20_000)),
)


def framed(plain: bytes, key: bytes | None = None, **options: bool) -> tuple[str, bytes]:
    name = chunk_id(plain, key)
    # In the tests one nonce does: nothing here is secret.
    frame = encode(plain, name, key=key, nonce=b"n" * 12 if key else b"", **options)
    assert frame.stored_bytes == len(frame.header) + len(frame.body)
    return name, b"".join(frame)


@given(plains, keys, st.booleans())
def test_a_frame_gives_back_its_bytes(plain: bytes, key: bytes | None, compress: bool) -> None:  # noqa: FBT001
    name, data = framed(plain, key, compress=compress)
    assert bytes(decode(data, name, key=key)) == plain
    assert read_header(data[:HEADER_BYTES]).plain_bytes == len(plain)
    assert len(data) <= len(plain) + HEADER_BYTES + 28


@given(plains, keys, st.data())
def test_a_changed_frame_is_never_taken_for_the_chunk(
    plain: bytes, key: bytes | None, data: st.DataObject
) -> None:
    name, good = framed(plain, key)
    place = data.draw(st.integers(0, len(good) - 1))
    flipped = bytearray(good)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    for bad in (flipped, good[:place], good + b"x"):
        try:
            found = bytes(decode(bad, name, key=key))
        except (DamagedChunk, BadInput):
            continue
        # A bit that nobody reads (of the two bytes that are zero, or of zstd's own header) was
        # changed: the bytes are still those of the chunk.
        assert found == plain
        assert bad is flipped


def test_compression_is_used_where_it_pays_and_only_there() -> None:
    text = b"the same words again " * 100_000
    noise = hasher().update(b"noise").digest(length=SMALL_BYTES)
    assert read_header(framed(text)[1]).codec is Codec.ZSTD
    assert len(framed(text)[1]) < len(text) / 10
    assert read_header(framed(noise)[1]).codec is Codec.PLAIN
    assert read_header(framed(text, compress=False)[1]).codec is Codec.PLAIN


def test_one_chunks_frame_never_stands_for_another_ones() -> None:
    _, data = framed(b"one", KEY)
    with pytest.raises(DamagedChunk):
        decode(data, chunk_id(b"two", KEY), key=KEY)


def test_a_frame_of_an_unknown_codec_tells_that_a_newer_version_wrote_it() -> None:
    name, data = framed(b"x" * 10)
    with pytest.raises(BadInput, match="codec 7 and cipher 0"):
        decode(data[:4] + b"\7" + data[5:], name)


def test_a_wrong_or_missing_key_is_one_clear_error() -> None:
    name, data = framed(b"secret", KEY)
    with pytest.raises(BadInput, match="no key"):
        decode(data, name)
    with pytest.raises(DamagedChunk, match="the key are wrong"):
        decode(data, name, key=bytes(32))
    with pytest.raises(BadInput, match=r"the key `a`, and `b` is set"):
        check_key(StoreFormat(key="a"), "b")
    with pytest.raises(BadInput, match="no key, and `b` is set"):
        check_key(StoreFormat(), "b")
    check_key(StoreFormat(key="a"), "a")


def test_a_frame_that_would_fill_the_memory_is_refused_before_it_is_expanded() -> None:
    bomb = zstandard.compress(bytes(PIECE_BYTES * 4))
    for claimed in (PIECE_BYTES * 4, 16):
        head = b"GFC1\1\0\0\0" + claimed.to_bytes(8, "little")
        with pytest.raises(DamagedChunk):
            decode(head + bomb, NONE)


contents = st.dictionaries(
    st.lists(st.text("abé ._", min_size=1, max_size=4), min_size=1, max_size=3)
    .filter(lambda parts: not {".", ".."} & set(parts))
    .map("/".join),
    st.one_of(st.just(b""), plains, plains.map(lambda one: one * (SMALL_BYTES // len(one) + 1))),
    max_size=6,
)


def cut_up(content: bytes, length: int) -> list[bytes]:
    return [content[at : at + length] for at in range(0, len(content), length)]


def store_of(
    contents: dict[str, bytes], key: bytes | None, length: int
) -> tuple[dict[str, bytes], str, Manifest]:
    """A store with one snapshot, as a take writes it."""
    objects = {layout.FORMAT_KEY: encode_format(StoreFormat(key="k1" if key else None))}
    builder, packs, files = PackBuilder(key), [], []
    for path, content in sorted(contents.items()):
        chunks = []
        for plain in cut_up(content, length):
            name, data = framed(plain, key)
            chunks.append(ChunkRef(name, len(plain)))
            if not layout.is_packed(len(plain)):
                objects[layout.chunk_key(name)] = data
                continue
            frame = encode(plain, name, key=key, nonce=b"n" * 12 if key else b"")
            packs.append(builder.add(name, plain, frame))
        sha256 = hashlib.sha256(content).hexdigest() if len(content) % 2 else ""
        digest = file_digest(chunks)
        files.append(FileEntry(path, 0o640, len(content), digest, tuple(chunks), sha256))
    packs.append(builder.finish())
    full = [one for one in packs if one is not None]
    objects |= {layout.pack_key(pack.id): content for pack, content in full}
    name, index = encode_index([pack for pack, _ in full])
    assert decode_index(index) == tuple(pack for pack, _ in full)
    objects[layout.index_key(name)] = index
    manifest = Manifest(CREATED, "chat-v7", "gpufleet 0.1.0", tuple(files))
    stored = encode_manifest(manifest)
    summary = summarize(manifest, stored, stored_bytes=7, signed=False)
    objects[layout.snapshot_key(summary.id, layout.SUMMARY)] = encode_summary(summary)
    objects[layout.snapshot_key(summary.id, layout.MANIFEST)] = stored
    return objects, summary.id, manifest


def distinct(contents: dict[str, bytes]) -> dict[str, bytes]:
    """Without those that lie below another one."""
    return {
        path: content
        for path, content in contents.items()
        if not any(path.startswith(f"{other}/") for other in contents)
    }


@given(contents.map(distinct), keys, st.sampled_from([SMALL_BYTES, 3000 * 997, PIECE_BYTES]))
def test_a_reader_of_the_document_reads_what_is_written(
    contents: dict[str, bytes], key: bytes | None, length: int
) -> None:
    objects, snapshot, manifest = store_of(contents, key, length)
    reader = Reader(objects, key)
    assert reader.listed() == [snapshot]
    assert reader.files(snapshot) == {path: (0o640, one) for path, one in contents.items()}
    stored = objects[layout.snapshot_key(snapshot, layout.MANIFEST)]
    assert decode_manifest(stored, snapshot=snapshot) == manifest
    assert encode_manifest(manifest) == stored
    assert needs_of(stored, snapshot=snapshot) == chunks_of(manifest)
    summary = decode_summary(
        objects[layout.snapshot_key(snapshot, layout.SUMMARY)], snapshot=snapshot
    )
    assert summary == summarize(manifest, stored, stored_bytes=7, signed=False)
    assert layout.created_of(snapshot) == CREATED


def test_every_field_of_a_manifest_comes_back() -> None:
    manifest = Manifest(
        CREATED,
        "state-é",
        "gpufleet 9",
        (FileEntry("a/b", 0o777, 0, file_digest(()), (), hashlib.sha256(b"").hexdigest()),),
        folders=(FolderEntry("a", 0o700), FolderEntry("c", 0)),
        links=(LinkEntry("a/l", "../c"), LinkEntry("l", "a/b")),
        kind=SnapshotKind.STATE,
        parent="20261126T101500Z-3fa9c1d2",
    )
    assert decode_manifest(encode_manifest(manifest)) == manifest
    shuffled = replace(manifest, folders=manifest.folders[::-1], links=manifest.links[::-1])
    assert encode_manifest(shuffled) == encode_manifest(manifest)


def test_packs_are_full_before_the_next_one_begins() -> None:
    builder = PackBuilder()
    made = []
    for place in range(40):
        plain = place.to_bytes(2, "big") * 500_000
        made.append(builder.add(chunk_id(plain), plain, encode(plain, chunk_id(plain))))
    made.append(builder.finish())
    packs = [one[0] for one in made if one]
    assert [len(pack.chunks) for pack in packs] == [16, 16, 8]
    assert builder.finish() is None


ROW = {"path": ["a"], "mode": [420], "bytes": [3], "blake3": [NONE], "chunks": {}, "sha256": {}}
GOOD = {
    "format": 1, "created": "2026-11-26T10:15:00Z", "kind": "artifact", "revision": "r",
    "tool": "t", "parent": "", "files": ROW, "folders": [], "links": [],
}  # fmt: skip
BIG = {"bytes": [2 * PIECE_BYTES]}


def test_the_manifest_that_the_next_test_spoils_is_good() -> None:
    decode_manifest(squeezed(GOOD))
    decode_manifest(
        squeezed(GOOD | {"files": ROW | BIG | {"chunks": {"0": [[NONE, PIECE_BYTES]] * 2}}})
    )


@pytest.mark.parametrize(
    ("files", "other"),
    [
        ({"path": [7]}, {}),
        ({"path": ["a", "b"]}, {}),
        ({"mode": [512]}, {}),
        ({"mode": [-1]}, {}),
        ({"mode": [True]}, {}),
        ({"bytes": [-3]}, {}),
        ({"bytes": [3.0]}, {}),
        ({"bytes": [2**70]}, {}),
        ({"bytes": [0]}, {}),
        (BIG, {}),
        (BIG | {"chunks": {"0": [[NONE, 2 * PIECE_BYTES]]}}, {}),
        ({"blake3": ["0" * 63]}, {}),
        ({"blake3": ["A" * 64]}, {}),
        ({"blake3": [None]}, {}),
        ({"chunks": {"0": [[NONE, 2]]}}, {}),
        ({"chunks": {"0": [[NONE, 0], [NONE, 3]]}}, {}),
        ({"chunks": {"0": [[NONE, -1], [NONE, 4]]}}, {}),
        ({"chunks": {"0": [["x", 3]]}}, {}),
        ({"chunks": {"0": [[NONE, 3, 4]]}}, {}),
        ({"chunks": {"-1": [[NONE, 3]]}}, {}),
        ({"chunks": {"1": [[NONE, 3]]}}, {}),
        ({"chunks": {"x": [[NONE, 3]]}}, {}),
        ({"chunks": [1]}, {}),
        ({"sha256": {"0": "x"}}, {}),
        ({"sha256": {"0": 7}}, {}),
        ({"sha256": {"9": NONE}}, {}),
        ({}, {"files": None}),
        ({}, {"files": []}),
        ({}, {"folders": [["a"]]}),
        ({}, {"folders": [["d", 4096]]}),
        ({}, {"links": [["l", 7]]}),
        ({}, {"kind": "other"}),
        ({}, {"created": "yesterday"}),
        ({}, {"created": None}),
        ({}, {"revision": None}),
        ({}, {"format": None}),
        ({}, {"format": True}),
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_one_clear_error(
    files: dict[str, object], other: dict[str, object]
) -> None:
    stored = squeezed(GOOD | {"files": ROW | files} | other)
    with pytest.raises(BadInput, match="not as it was written"):
        decode_manifest(stored)


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_a_manifest_without_a_field_is_one_clear_error(missing: str) -> None:
    with pytest.raises(BadInput):
        decode_manifest(squeezed({name: one for name, one in GOOD.items() if name != missing}))


@given(st.binary(max_size=200))
def test_no_bytes_end_in_anything_but_bad_input(noise: bytes) -> None:
    for content in (noise, zstandard.compress(noise), zstandard.compress(b'{"format": 1,' + noise)):
        for read in (decode_manifest, needs_of, decode_index):
            with pytest.raises(BadInput):
                read(content)
        with pytest.raises(BadInput):
            decode_summary(content, snapshot="20261126T101500Z-3fa9c1d2")
        with pytest.raises(BadInput):
            decode_format(content)


def test_a_newer_format_is_refused_everywhere() -> None:
    newer = squeezed(GOOD | {"format": 2})
    plain = json.dumps({"format": 2}).encode()
    for read in (
        lambda: decode_manifest(newer),
        lambda: needs_of(newer),
        lambda: decode_index(newer),
        lambda: decode_summary(plain, snapshot="x"),
        lambda: decode_format(plain),
    ):
        with pytest.raises(BadInput, match=r"format 2; this version reads up to 1"):
            read()


def test_a_manifest_too_long_to_hold_is_not_expanded() -> None:
    with pytest.raises(BadInput):
        decode_manifest(zstandard.compress(bytes(2**28 + 1)))


def test_a_forged_manifest_is_refused_by_the_snapshots_id() -> None:
    objects, snapshot, manifest = store_of({"a": b"good"}, None, SMALL_BYTES)
    forged = encode_manifest(replace(manifest, revision="other"))
    for read in (decode_manifest, needs_of):
        with pytest.raises(BadInput, match="not the one that the snapshot was committed with"):
            read(forged, snapshot=snapshot)
    with pytest.raises(Unreadable, match="forged"):
        Reader(objects | {layout.snapshot_key(snapshot, "manifest"): forged}).manifest(snapshot)
    moved = snapshot.replace("20261126", "20261127")
    with pytest.raises(BadInput):
        decode_summary(objects[layout.snapshot_key(snapshot, layout.SUMMARY)], snapshot=moved)


def test_a_store_of_another_hash_is_refused() -> None:
    with pytest.raises(BadInput, match="not known here"):
        decode_format(json.dumps({"format": 1, "hash": "md5", "key": None}).encode())
    assert decode_format(encode_format(StoreFormat(key="k1"))) == StoreFormat(key="k1")


@pytest.mark.parametrize(
    "text", ["", "x", "20261126T101500Z-3fa9c1d", "20261326T101500Z-3fa9c1d2", "../x", "a\nb"]
)
def test_what_is_no_id_is_one_clear_error(text: str) -> None:
    with pytest.raises(BadInput, match="no ID of a snapshot"):
        layout.created_of(text)


def test_keys_are_told_from_strays() -> None:
    name = blake3(b"x").hexdigest()
    assert layout.name_of(layout.chunk_key(name), layout.CHUNKS) == name
    assert layout.name_of(layout.pack_key(name), layout.PACKS) == name
    assert layout.name_of(layout.index_key(name), layout.INDEXES) == name
    assert layout.name_of(layout.chunk_key(name), layout.PACKS) is None
    assert layout.name_of(f"chunks/zz/{name}", layout.CHUNKS) is None
    assert layout.name_of("chunks/ab/readme", layout.CHUNKS) is None
    assert digest_of(b"x") == name
