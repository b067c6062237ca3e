from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.journal import RESTORED, is_refuted, lost, restoration, sealed, verify
from gpufleet.spec.records import Anchor, Fact, JournalRecord

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
Chain = list[JournalRecord]


def chain(length: int, writer: str = "one") -> Chain:
    records: Chain = []
    for number in range(length):
        last = (records[-1].sequence, records[-1].hash) if records else None
        fact = Fact(id=f"{writer}-{number}", event="e", actor="mara", body={"n": number})
        records.append(sealed(fact, writer, NOON + timedelta(seconds=number), last))
    return records


def anchored(record: JournalRecord) -> Anchor:
    return Anchor(writer=record.writer, sequence=record.sequence, hash=record.hash, at=NOON)


def faults(records: Chain, anchors: list[Anchor] | None = None) -> list[tuple[int, str]]:
    return [(found.sequence, found.fault) for found in verify(records, anchors or [])]


@given(st.integers(0, 40), st.integers(0, 40))
def test_an_untouched_journal_is_whole(first: int, second: int) -> None:
    records = chain(first, "a") + chain(second, "b")
    heads = {"a": first, "b": second}
    assert verify(records, [anchored(record) for record in records], heads) == []


CHANGES: list[Callable[[JournalRecord], JournalRecord]] = [
    lambda record: record.model_copy(update={"actor": "eve"}),
    lambda record: record.model_copy(update={"body": {"n": -1}}),
    lambda record: record.model_copy(update={"at": record.at + timedelta(microseconds=1)}),
    lambda record: record.model_copy(update={"event": "f"}),
    lambda record: record.model_copy(update={"target": "elsewhere"}),
]


@pytest.mark.parametrize("change", CHANGES)
@given(length=st.integers(1, 12), data=st.data())
def test_a_changed_record_is_found(
    change: Callable[[JournalRecord], JournalRecord], length: int, data: st.DataObject
) -> None:
    records = chain(length)
    at = data.draw(st.integers(0, length - 1))
    records[at] = change(records[at])
    assert faults(records) == [(at + 1, "changed")]


@given(length=st.integers(2, 12), data=st.data())
def test_a_missing_record_is_found(length: int, data: st.DataObject) -> None:
    records = chain(length)
    at = data.draw(st.integers(0, length - 2))
    del records[at]
    assert faults(records) == [(at + 2, "missing")]


@given(length=st.integers(2, 12), data=st.data())
def test_a_missing_record_is_found_where_later_ones_were_numbered_anew(
    length: int, data: st.DataObject
) -> None:
    records = chain(length)
    at = data.draw(st.integers(0, length - 2))
    del records[at]
    renumbered = [
        record.model_copy(update={"sequence": number}) for number, record in enumerate(records, 1)
    ]
    assert faults(renumbered) == [(at + 1, "missing")]


@given(length=st.integers(2, 12), data=st.data())
def test_reordered_records_are_found(length: int, data: st.DataObject) -> None:
    records = chain(length)
    first = data.draw(st.integers(0, length - 2))
    second = data.draw(st.integers(first + 1, length - 1))
    swapped = list(records)
    swapped[first] = records[second].model_copy(update={"sequence": first + 1})
    swapped[second] = records[first].model_copy(update={"sequence": second + 1})
    found = faults(swapped)
    assert (first + 1, "reordered") in found
    assert {fault for _, fault in found} == {"reordered"}


@given(length=st.integers(1, 12), data=st.data())
def test_a_cut_tail_is_found_by_its_anchor(length: int, data: st.DataObject) -> None:
    records = chain(length)
    keep = data.draw(st.integers(0, length - 1))
    assert faults(records[:keep], [anchored(records[-1])]) == [(keep + 1, "truncated")]


@given(length=st.integers(1, 12), data=st.data())
def test_a_chain_that_was_written_anew_is_found_by_its_anchor(
    length: int, data: st.DataObject
) -> None:
    kept = data.draw(st.integers(1, length))
    forged = chain(length)
    honest = chain(length)[kept - 1].model_copy(update={"actor": "jonas"})
    other = sealed(Fact(id="x", event="e", actor="jonas"), "one", NOON, None)
    anchor = Anchor(writer="one", sequence=kept, hash=other.hash, at=NOON)
    assert honest.hash == forged[kept - 1].hash
    assert faults(forged, [anchor]) == [(kept, "changed")]


def test_a_writer_that_was_removed_whole_is_found_by_its_anchor() -> None:
    assert faults(chain(3, "a"), [anchored(chain(2, "b")[-1])]) == [(1, "truncated")]


def test_a_head_that_is_ahead_of_its_chain_is_found() -> None:
    found = verify(chain(3), (), {"one": 4})
    assert [(each.sequence, each.fault) for each in found] == [(4, "truncated")]


def restored(reached: dict[str, int], at: datetime) -> JournalRecord:
    body = restoration(reached, "snapshot")
    return sealed(Fact(id="r", event=RESTORED, actor="mara", body=body), "two", at, None)


@given(length=st.integers(1, 12), data=st.data())
def test_what_a_restored_database_had_lost_is_told_and_no_finding(
    length: int, data: st.DataObject
) -> None:
    records = chain(length)
    kept = data.draw(st.integers(0, length - 1))
    anchors = [anchored(record) for record in records]
    back = [*records[:kept], restored({"one": kept} if kept else {}, NOON)]
    assert verify(back, anchors) == []
    (loss,) = lost(back, anchors)
    assert (loss.writer, loss.first, loss.last, loss.by) == ("one", kept + 1, length, "mara")
    assert verify(records, anchors) == []
    assert lost(records, anchors) == []


@given(length=st.integers(2, 12), data=st.data())
def test_a_restoration_excuses_neither_less_than_it_says_nor_what_came_later(
    length: int, data: st.DataObject
) -> None:
    records = chain(length)
    said = data.draw(st.integers(1, length))
    kept = data.draw(st.integers(0, said - 1))
    anchors = [anchored(record) for record in records]
    back = [*records[:kept], restored({"one": said}, NOON)]
    assert (kept + 1, "truncated") in faults(back, anchors)
    later = [*records[:kept], restored({"one": kept}, NOON - timedelta(hours=1))]
    assert (kept + 1, "truncated") in faults(later, anchors)


def test_a_restoration_that_its_set_refutes_excuses_nothing() -> None:
    records = chain(5)
    anchors = [anchored(record) for record in records]
    at = anchors[-1].at
    back = [*records[:2], restored({"one": 2}, at)]
    record = back[-1]
    assert is_refuted(record, [anchors[2]], at)
    assert not is_refuted(record, [anchors[1]], at)
    assert is_refuted(record, [anchors[1]], at - timedelta(hours=1))
    found = verify(back, anchors, refuted={record.id})
    assert "truncated" in {each.fault for each in found}
    assert lost(back, anchors, refuted={record.id}) == []
    (told,) = lost(back, anchors)
    (known,) = lost(back, anchors, proven={record.id})
    assert (told.proven, known.proven) == (False, True)
