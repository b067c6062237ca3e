"""Files are cut at their tensors: what does not change keeps its chunks."""

import json
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.snapshots.cuts import Cut, cuts
from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshots import PIECE_BYTES, SMALL_BYTES

MIB = 2**20
Tensor = tuple[str, int, int]
"""Name, bytes, and a version that stands for what the bytes are."""
Content = tuple[tuple[str, int, int, int], ...]
"""What a chunk holds: of each part of the file the name, version, begin and length."""

tensors = st.lists(
    st.tuples(
        st.text("abcdefghij.0123456789", min_size=1, max_size=12),
        st.one_of(
            st.integers(0, 4),
            st.integers(0, SMALL_BYTES),
            st.integers(SMALL_BYTES - 2, SMALL_BYTES + 2),
            st.integers(0, 3 * PIECE_BYTES),
        ),
        st.just(0),
    ),
    max_size=40,
    unique_by=lambda one: one[0],
)


def header(made: list[Tensor]) -> bytes:
    place, said = 0, {}
    for name, length, _ in made:
        said[name] = {"dtype": "U8", "shape": [length], "data_offsets": [place, place + length]}
        place += length
    text = json.dumps(said).encode()
    return len(text).to_bytes(8, "little") + text


def reader(head: bytes) -> Callable[[int, int], bytes]:
    """At most 1000 bytes at a time: a read may give less than it was asked for."""
    return lambda offset, count: head[offset : offset + min(count, 1000)]


def cut(made: list[Tensor]) -> tuple[int, tuple[Cut, ...]]:
    head = header(made)
    size = len(head) + sum(length for _, length, _ in made)
    return size, cuts("a/model.safetensors", size, reader(head))


def chunks(made: list[Tensor]) -> set[Content]:
    head = header(made)
    regions = [(f"header {hash(head)}", 0, 0, len(head))]
    for name, length, version in made:
        regions.append((name, version, regions[-1][2] + regions[-1][3], length))
    found = set()
    for offset, length in cut(made)[1]:
        parts = [
            (
                name,
                version,
                max(offset - begin, 0),
                min(offset + length, begin + of) - max(offset, begin),
            )
            for name, version, begin, of in regions
            if begin < offset + length and begin + of > offset and of
        ]
        found.add(tuple(parts))
    return found


def stored(before: list[Tensor], after: list[Tensor]) -> int:
    return sum(part[3] for chunk in chunks(after) - chunks(before) for part in chunk)


def covers(found: tuple[Cut, ...], size: int) -> None:
    place = 0
    for offset, length in found:
        assert offset == place
        assert 0 < length <= PIECE_BYTES
        place += length
    assert place == size


@given(tensors)
def test_each_byte_is_in_one_chunk_and_no_chunk_is_longer_than_a_piece(made: list[Tensor]) -> None:
    size, found = cut(made)
    covers(found, size)


@given(st.integers(0, 5 * PIECE_BYTES), st.sampled_from(["x.bin", "x.gguf", "config.json"]))
def test_other_files_are_cut_every_piece(size: int, path: str) -> None:
    found = cuts(path, size, lambda _offset, count: b"\0" * count)
    covers(found, size)
    assert all(length == PIECE_BYTES for _, length in found[:-1])


@given(tensors, st.data())
def test_a_changed_tensor_changes_its_own_chunks_only(
    made: list[Tensor], data: st.DataObject
) -> None:
    if not made:
        return
    place = data.draw(st.integers(0, len(made) - 1))
    name, length, _ = made[place]
    after = [*made[:place], (name, length, 1), *made[place + 1 :]]
    fresh = chunks(after) - chunks(made)
    assert all(any(part[0] == name for part in chunk) for chunk in fresh)
    if length >= SMALL_BYTES:
        assert stored(made, after) == length
    else:
        assert len(fresh) == (1 if length else 0)


@given(tensors, st.integers(SMALL_BYTES, 3 * PIECE_BYTES), st.data())
def test_an_inserted_large_tensor_moves_no_other_large_one(
    made: list[Tensor], length: int, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(made)))
    after = [*made[:place], ("inserted", length, 1), *made[place:]]
    fresh = {part for chunk in chunks(after) - chunks(made) for part in chunk}
    assert all(
        part[0] == "inserted" or part[0].startswith("header") or part[3] < SMALL_BYTES
        for part in fresh
    )
    split = sum(part[3] for part in fresh if part[0] != "inserted" and part[0][:6] != "header")
    assert split <= PIECE_BYTES
    assert sum(part[3] for part in fresh if part[0] == "inserted") == length


def test_an_inserted_small_tensor_moves_no_other_group() -> None:
    made = [(f"model.layers.{place}.norm.weight", 40_000, 0) for place in range(2000)]
    after = [*made[:1000], ("model.inserted.weight", 40_000, 1), *made[1000:]]
    head = len(header(after))
    assert len(chunks(made)) > 50
    assert len(chunks(after) - chunks(made)) <= 3
    assert stored(made, after) - head <= 8 * MIB


def test_a_new_revision_stores_what_changed_and_hardly_more() -> None:
    made: list[Tensor] = []
    for layer in range(64):
        made += [
            (f"layers.{layer}.attention", 14 * MIB, 0),
            (f"layers.{layer}.norm", 8192, 0),
            (f"layers.{layer}.mlp", 18 * MIB, 0),
            (f"layers.{layer}.bias", 4096, 0),
        ]
    after = [(n, length, int(place % 4 == 2)) for place, (n, length, _) in enumerate(made)]
    after.insert(100, ("layers.new", 9 * MIB, 1))
    changed = sum(length for _, length, version in after if version)
    assert stored(made, after) <= 1.03 * changed


def lying(said: object, size: int = 4 * MIB) -> tuple[Cut, ...]:
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    return cuts("m.safetensors", size, reader(len(text).to_bytes(8, "little") + text))


def one(begin: object, end: object, dtype: str = "none", shape: object = ()) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (b"{", "no JSON"),
        (b"\xff" * 40, "no JSON"),
        (b"[" * 100_000, "no JSON"),
        ([], "no JSON object"),
        (b'{"a": {}, "a": {}}', "twice"),
        ({"a": 1}, "does not say where"),
        ({"a": {"shape": [1]}}, "does not say where"),
        ({"a": one(0, "4")}, "does not say where"),
        ({"a": one(-1, 4)}, "does not say where"),
        ({"a": one(begin=False, end=True)}, "does not say where"),
        ({"a": one(8, 4)}, "does not follow"),
        ({"a": one(0, 8, "F32", [3])}, "does not follow"),
        ({"a": one(0, 8), "b": one(4, 9)}, "overlaps"),
        ({"a": one(0, 8), "b": one(9, 12)}, "no tensor owns the 1 bytes"),
        ({"a": one(0, 2**50)}, "beyond"),
        ({"a": one(0, 8)}, "no tensor owns the last"),
        ({}, "no tensor owns the last"),
    ],
)
def test_a_safetensors_header_that_lies_is_one_clear_error(said: object, what: str) -> None:
    with pytest.raises(BadInput, match=what) as caught:
        lying(said)
    assert caught.value.where == "m.safetensors"
    assert caught.value.mend


@pytest.mark.parametrize(("length", "what"), [(2**62, "at most"), (99_000_000, "the file has")])
def test_a_header_that_claims_too_much_is_not_read(length: int, what: str) -> None:
    def read(offset: int, count: int) -> bytes:
        assert offset + count <= 8
        return length.to_bytes(8, "little")

    with pytest.raises(BadInput, match=what):
        cuts("m.safetensors", 4 * MIB, read)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(made: list[Tensor], *, alignment: int = 32, version: int = 3) -> tuple[bytes, list[int]]:
    """A header, and where each tensor begins in the file; the file's length is the last."""
    values = text("general.alignment") + struct.pack("<II", 4, alignment)
    values += text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc")
    values += text("scores") + struct.pack("<IIQ", 9, 6, 3) + b"\0" * 12
    values += text("name") + struct.pack("<I", 8) + text("x")
    place, infos, begins = 0, b"", []
    for name, length, _ in made:
        infos += text(name) + struct.pack("<IQIQ", 1, length, 24, place)
        begins.append(place)
        place += -(-length // alignment) * alignment
    head = b"GGUF" + struct.pack("<IQQ", version, len(made), 4) + values + infos
    data = -(-len(head) // alignment) * alignment
    return head, [*(data + begin for begin in begins), data + place]


@given(tensors, st.sampled_from([1, 32, 4096]))
def test_a_gguf_file_is_cut_at_its_tensors(made: list[Tensor], alignment: int) -> None:
    head, begins = gguf([one for one in made if one[1]], alignment=alignment)
    found = cuts("m.GGUF", begins[-1], reader(head))
    covers(found, begins[-1])
    large = [
        begin
        for begin, one in zip(begins, (o for o in made if o[1]), strict=False)
        if one[1] >= SMALL_BYTES
    ]
    if begins[-1] >= SMALL_BYTES:
        assert set(large) <= {offset for offset, _ in found}


def test_a_gguf_version_that_is_not_known_is_cut_every_piece() -> None:
    head, _ = gguf([("a", 4 * MIB, 0)], version=9)
    assert [one.plain_bytes for one in cuts("m.gguf", 20 * MIB, reader(head))] == [
        16 * MIB,
        4 * MIB,
    ]


def cut_or_refused(path: str, size: int, head: bytes) -> None:
    try:
        found = cuts(path, size, reader(head))
    except BadInput as error:
        refused = error.where
    else:
        covers(found, size)
        return
    assert refused == path


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(SMALL_BYTES, 2**40))
def test_any_gguf_header_is_cut_or_refused(noise: bytes, place: int, size: int) -> None:
    head, _ = gguf([("a", 100, 0), ("b", 5000, 0)])
    head = head[:place] + noise + head[place + len(noise) :]
    cut_or_refused("m.gguf", min(size, 2**26), head)


@given(st.binary(max_size=300), st.integers(0, 400))
def test_any_safetensors_header_is_cut_or_refused(noise: bytes, place: int) -> None:
    head = header([("a", 100, 0), ("b", 2 * MIB, 0)])
    head = head[:place] + noise + head[place + len(noise) :]
    size = len(head) + 100 + 2 * MIB
    cut_or_refused("m.safetensors", size, head)
