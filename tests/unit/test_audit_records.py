from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.gateway.audit import (
    ORIGIN,
    UNDECLARED_S,
    FewEachSecond,
    Piece,
    due_at,
    hash_of,
    last_uses,
    locked_until,
    matches,
    may_match,
    read,
    retention_s,
    segment_of,
    verify,
)
from gpufleet.spec.audit import AuditQuery, KeptSegment
from gpufleet.spec.gateway import AuditRecord
from gpufleet.spec.governance import Retention
from gpufleet.spec.serving import DataClass

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHAIN = "gateway-1.internal"
Lines = list[bytes]


def record(number: int, previous: str, **facts: object) -> AuditRecord:
    known = {
        "writer": CHAIN,
        "sequence": number,
        "previous": previous,
        "request_id": f"r{number}",
        "at": (NOON + timedelta(seconds=number)).isoformat(),
        "key_id": "abcdefghijkl",
        "team": "search",
        "use_case": "answers",
        "model": "llama",
        "digest": "",
        "route": "primary",
        "reason": "",
        "replica": "",
        "status": 200,
        "error": "",
        "prompt_tokens": 3,
        "output_tokens": 5,
        "ttft_s": 0.1,
        "latency_s": 1.5,
        "cost": "0.0001",
        "prompt_hash": "",
        "answer_hash": "",
    }
    return AuditRecord.model_validate({**known, **facts})


def chain(length: int) -> Lines:
    lines: Lines = []
    for number in range(1, length + 1):
        previous = hash_of(lines[-1]) if lines else ORIGIN
        lines.append(record(number, previous).model_dump_json().encode())
    return lines


def cut(lines: Lines, *at: int) -> list[Lines]:
    """A chain as segments that end at these places."""
    ends = sorted({end for end in at if 0 < end < len(lines)} | {len(lines)})
    return [lines[begin:end] for begin, end in zip([0, *ends], ends, strict=False) if begin < end]


def pieces(parts: list[Lines]) -> list[Piece]:
    made = []
    for part in parts:
        first = read(part[0])
        made.append(Piece(first.sequence if first else 0, part))
    return made


def faults(found: list[Piece], heads: dict[int, str] | None = None) -> list[tuple[int, str]]:
    return [(each.sequence, each.fault) for each in verify(CHAIN, found, heads)]


@given(st.integers(1, 20), st.lists(st.integers(1, 20), max_size=5))
def test_an_untouched_chain_is_whole_however_it_is_cut(length: int, ends: list[int]) -> None:
    lines = chain(length)
    parts = pieces(cut(lines, *ends))
    heads = {number: hash_of(line) for number, line in enumerate(lines, 1)}
    assert faults(parts, heads) == []


CHANGES: list[Callable[[bytes], bytes]] = [
    lambda line: line.replace(b'"status":200', b'"status":429'),
    lambda line: line.replace(b'"team":"search"', b'"team":"others"'),
    lambda line: line.replace(b'"cost":"0.0001"', b'"cost":"0.0002"'),
    lambda line: line.replace(b'"prompt":null', b'"prompt": null'),
    lambda _: b"{}",
    lambda line: line[:-2],
]


@pytest.mark.parametrize("change", CHANGES)
@given(length=st.integers(1, 8), data=st.data())
def test_a_changed_record_is_found_the_last_one_too(
    change: Callable[[bytes], bytes], length: int, data: st.DataObject
) -> None:
    lines = chain(length)
    heads = {length: hash_of(lines[-1])}
    at = data.draw(st.integers(0, length - 1))
    lines[at] = change(lines[at])
    found = faults([Piece(1, lines)], heads)
    assert (at + 1, "changed") in found
    assert all(fault == "changed" for _, fault in found)


@given(length=st.integers(2, 8), data=st.data())
def test_a_missing_record_is_found_though_later_ones_are_numbered_anew(
    length: int, data: st.DataObject
) -> None:
    lines = chain(length)
    heads = {length: hash_of(lines[-1])}
    at = data.draw(st.integers(0, length - 1))
    less = lines[:at] + lines[at + 1 :]
    assert faults([Piece(1, less)], heads)
    anew = []
    for number, line in enumerate(less, 1):
        kept = read(line)
        assert kept is not None
        anew.append(kept.model_copy(update={"sequence": number}).model_dump_json().encode())
    assert faults([Piece(1, anew)], heads)


@given(length=st.integers(2, 8), data=st.data())
def test_reordered_records_are_found(length: int, data: st.DataObject) -> None:
    lines = chain(length)
    first = data.draw(st.integers(0, length - 2))
    second = data.draw(st.integers(first + 1, length - 1))
    lines[first], lines[second] = lines[second], lines[first]
    kinds = {fault for _, fault in faults([Piece(1, lines)])}
    assert "reordered" in kinds


@given(length=st.integers(1, 8), data=st.data())
def test_a_cut_tail_is_found_by_a_head_that_was_kept(length: int, data: st.DataObject) -> None:
    lines = chain(length)
    keep = data.draw(st.integers(0, length - 1))
    heads = {length: hash_of(lines[-1])}
    assert faults([Piece(1, lines[:keep])] if keep else [], heads) == [(keep + 1, "truncated")]


@given(length=st.integers(1, 8), data=st.data())
def test_a_chain_that_was_written_anew_is_found_by_a_head(length: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, length))
    forged = chain(length)
    assert faults([Piece(1, forged)], {kept: hash_of(b"the honest one")}) == [(kept, "changed")]


@given(length=st.integers(1, 12), data=st.data())
def test_a_gap_is_accepted_with_its_proof_and_with_nothing_else(
    length: int, data: st.DataObject
) -> None:
    lines = chain(length)
    gone = data.draw(st.integers(1, length))
    deleted = segment_of(lines[:gone])
    assert deleted is not None
    rest = [Piece(gone + 1, lines[gone:])] if gone < length else []
    heads = {length: hash_of(lines[-1])}
    proof = Piece(1, deleted=deleted)
    assert faults([proof, *rest], heads) == []
    assert faults(rest, heads) != []
    for field in ("previous", "first"):
        wrong = hash_of(b"another") if field == "previous" else 2
        odd = deleted.model_copy(update={field: wrong, "last": gone + 1})
        assert faults([Piece(1, deleted=odd)], {}) != []
    other = deleted.model_copy(update={"head": hash_of(b"another")})
    assert faults([Piece(1, deleted=other), *rest], heads) != []
    if gone > 1:
        shorter = deleted.model_copy(update={"last": gone - 1})
        assert faults([Piece(1, deleted=shorter), *rest], heads) != []


def test_records_of_another_chain_do_not_fill_a_gap() -> None:
    lines = chain(3)
    other = [line.replace(CHAIN.encode(), b"gateway-2.internal") for line in lines]
    assert faults([Piece(1, [lines[0], other[1], lines[2]])]) != []


def test_a_segment_whose_bytes_are_not_those_that_were_shipped_is_found() -> None:
    lines = chain(4)
    shipped = segment_of(lines)
    assert shipped is not None
    anew = chain(3)
    assert (1, "changed") in faults([Piece(1, anew, expected=shipped)])


def test_a_segment_says_what_it_holds() -> None:
    lines = chain(5)[2:]
    segment = segment_of(lines)
    assert segment is not None
    assert (segment.first, segment.last, segment.records) == (3, 5, 3)
    assert (segment.chain, segment.data_class) == (CHAIN, "internal")
    assert (segment.previous, segment.head) == (hash_of(chain(5)[1]), hash_of(lines[-1]))
    assert segment.ends - segment.begins == timedelta(seconds=2)
    assert segment_of([*lines, b"{}"]) is None
    assert segment_of([]) is None


RETENTION = {
    DataClass.INTERNAL: Retention(audit_s=100, content_s=10),
    DataClass.RESTRICTED: Retention(audit_s=1000),
}


@pytest.mark.parametrize(
    ("data_class", "kept_s"),
    [
        ("internal", 100),
        ("internal-content-answers", 10),
        ("restricted", 1000),
        ("restricted-content-answers", 0),
        ("public", UNDECLARED_S),
        ("unclassified", 90 * 86_400),
    ],
)
def test_records_are_kept_as_their_data_class_declares(data_class: str, kept_s: float) -> None:
    assert retention_s(RETENTION, data_class) == kept_s


def test_a_retention_that_grew_keeps_what_is_there_and_one_that_shrank_keeps_the_lock() -> None:
    segment = segment_of(chain(3))
    assert segment is not None
    locked = segment.ends + timedelta(seconds=100)
    kept = KeptSegment(
        **segment.model_dump(), shipped_at=segment.ends, keep_until=locked, sites=["east"]
    )
    assert locked_until(segment, 100, NOON + timedelta(days=1)) == locked
    assert due_at(kept, RETENTION) == locked
    grown = {DataClass.INTERNAL: Retention(audit_s=500)}
    assert due_at(kept, grown) == segment.ends + timedelta(seconds=500)
    shrunk = {DataClass.INTERNAL: Retention(audit_s=5)}
    assert due_at(kept, shrunk) == locked


def test_a_clock_that_jumped_makes_no_record_go_early_or_stay_for_ever() -> None:
    segment = segment_of(chain(3))
    assert segment is not None
    day = timedelta(days=1)
    for away in (-4000 * day, 4000 * day):
        now = segment.ends + away
        assert timedelta(days=23) <= locked_until(segment, 30 * 86_400, now) - now <= 30 * day


def test_the_last_use_of_each_key_is_told_by_its_records() -> None:
    lines = [
        record(number, ORIGIN, key_id=key).model_dump_json().encode()
        for number, key in enumerate(["a", "b", "a", ""], 1)
    ]
    seconds = {key: (at - NOON).total_seconds() for key, at in last_uses(lines).items()}
    assert seconds == {"a": 3, "b": 2}


@pytest.mark.parametrize(
    ("query", "is_asked"),
    [
        ({}, True),
        ({"team": "search"}, True),
        ({"team": "other"}, False),
        ({"use_case": "answers", "status": 200}, True),
        ({"status": 429}, False),
        ({"key": "abcdefghijkl"}, True),
        ({"key": ""}, False),
        ({"route": "hosted"}, False),
        ({"request": "r1"}, True),
        ({"since": NOON + timedelta(seconds=1)}, True),
        ({"since": NOON + timedelta(seconds=2)}, False),
        ({"until": NOON + timedelta(seconds=1)}, False),
        ({"until": NOON + timedelta(seconds=2)}, True),
    ],
)
def test_a_question_finds_what_it_asks_for(query: dict[str, object], *, is_asked: bool) -> None:
    asked = AuditQuery.model_validate(query)
    line = chain(1)[0]
    found, segment = read(line), segment_of([line])
    assert found is not None
    assert segment is not None
    assert matches(found, asked) is is_asked
    assert may_match(segment, asked) or not is_asked


@given(st.lists(st.floats(0, 5), min_size=1), st.integers(1, 4))
def test_in_no_second_pass_more_than_may(times: list[float], most: int) -> None:
    few = FewEachSecond(most)
    seconds = sorted(times)
    passed = [int(at) for at in seconds if few.passes(at)]
    for second in {int(at) for at in seconds}:
        asked = sum(int(at) == second for at in seconds)
        assert passed.count(second) == min(asked, most)
