"""The journal's hash chains: how a record is sealed, and how tampering shows.

Each writer has a chain of its own, so that two never wait for each other. A record's hash covers
everything in it but its sequence, and the hash of the record before it. A cut tail shows against
anchors: heads of the chain that were kept elsewhere, under a lock. A database that was restored
from an older copy says so itself, by a record that names what it came back with.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Final

from pydantic import JsonValue

from gpufleet.core.approvals import CLOCK_SKEW
from gpufleet.spec.records import Anchor, Fact, JournalFinding, JournalLoss, JournalRecord

RESTORED: Final = "database.restored"
"""Event of the record that a restored database begins with."""
_REACHED: Final = "reached"
ORIGIN: Final = "0" * 64
"""Stands for the record before the first."""


def sealed(fact: Fact, writer: str, at: datetime, last: tuple[int, str] | None) -> JournalRecord:
    """A fact as the next record of a chain.

    Args:
        fact: what happened.
        writer: whose chain it is.
        at: when it was written.
        last: sequence and hash of the record before it; None for the first.
    """
    sequence, previous = last or (0, ORIGIN)
    record = JournalRecord(
        **fact.model_dump(),
        writer=writer,
        sequence=sequence + 1,
        at=at,
        previous=previous,
        hash="",
    )
    return record.model_copy(update={"hash": hash_of(record)})


def hash_of(record: JournalRecord) -> str:
    """SHA-256 over the record's canonical JSON, without its sequence and its own hash."""
    content = [
        record.writer,
        record.id,
        record.at.astimezone(UTC).isoformat(timespec="microseconds"),
        record.event,
        record.actor,
        record.flow,
        record.target,
        record.body,
        record.previous,
    ]
    written = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(written.encode()).hexdigest()


def verify(
    records: Iterable[JournalRecord],
    anchors: Iterable[Anchor] = (),
    heads: Mapping[str, int] | None = None,
    *,
    refuted: Collection[str] = (),
) -> list[JournalFinding]:
    """Everything that was done to a journal behind its back; nothing means that it is whole.

    Args:
        records: by writer, then by sequence.
        anchors: heads that were kept elsewhere, in any order.
        heads: the sequence that each writer believes to have reached.
        refuted: IDs of records of restorations that cannot be what they say; they excuse nothing.
    """
    written = list(records)
    restorations = restorations_of(written, refuted)
    expected: dict[str, list[Anchor]] = {}
    for anchor in anchors:
        if _lost_by(anchor, restorations) is None:
            expected.setdefault(anchor.writer, []).append(anchor)
    reached = dict(heads or {})
    findings: list[JournalFinding] = []
    for writer, chain in groupby(written, key=lambda record: record.writer):
        listed = list(chain)
        findings += _links(listed)
        findings += _ends(writer, listed, expected.pop(writer, []), reached.pop(writer, 0))
    for writer in sorted(expected.keys() | reached.keys()):
        findings += _ends(writer, [], expected.get(writer, []), reached.get(writer, 0))
    return findings


def restoration(heads: Mapping[str, int], snapshot: str) -> dict[str, JsonValue]:
    """What the record of a restoration says.

    Args:
        heads: the sequence of each writer that came back.
        snapshot: what they came from.
    """
    return {_REACHED: dict(heads), "snapshot": snapshot}


def lost(
    records: Iterable[JournalRecord],
    anchors: Iterable[Anchor],
    *,
    refuted: Collection[str] = (),
    proven: Collection[str] = (),
) -> list[JournalLoss]:
    """What restorations lost of each chain, as far as anchors know of it.

    Args:
        records: of the journal.
        anchors: heads that were kept elsewhere.
        refuted: as for `verify`.
        proven: IDs of records of restorations whose set a store still has.
    """
    restorations = restorations_of(records, refuted)
    found: dict[tuple[str, str], JournalLoss] = {}
    for anchor in anchors:
        record = _lost_by(anchor, restorations)
        if record is None:
            continue
        key = (anchor.writer, record.id)
        before = found.get(key)
        found[key] = JournalLoss(
            writer=anchor.writer,
            first=_reached(record).get(anchor.writer, 0) + 1,
            last=max(anchor.sequence, before.last if before else 0),
            restored_at=record.at,
            by=record.actor,
            proven=record.id in proven,
        )
    return [found[key] for key in sorted(found)]


def unexcused(anchors: Iterable[Anchor], records: Iterable[JournalRecord]) -> list[Anchor]:
    """Those of some anchors that no restoration lost.

    Args:
        anchors: heads that were kept elsewhere.
        records: those of restorations count.
    """
    restorations = restorations_of(records)
    return [anchor for anchor in anchors if _lost_by(anchor, restorations) is None]


def restorations_of(
    records: Iterable[JournalRecord], refuted: Collection[str] = ()
) -> list[JournalRecord]:
    """The records of restorations, without those that were refuted."""
    return [each for each in records if each.event == RESTORED and each.id not in refuted]


def is_refuted(record: JournalRecord, kept: Iterable[Anchor], now: datetime) -> bool:
    """Whether a restoration cannot be what its record says.

    Args:
        record: of the restoration.
        kept: the heads of the protected set that it names: whatever they say came back with it.
        now: nothing was restored later.
    """
    reached = _reached(record)
    said_less = any(reached.get(head.writer, 0) < head.sequence for head in kept)
    return said_less or record.at > now + CLOCK_SKEW


def _lost_by(anchor: Anchor, restorations: Iterable[JournalRecord]) -> JournalRecord | None:
    """The restoration that an anchor's record was lost by; None where it has to be there."""
    return next(
        (
            record
            for record in restorations
            if anchor.at <= record.at + CLOCK_SKEW
            and anchor.sequence > _reached(record).get(anchor.writer, 0)
            and anchor.writer != record.writer
        ),
        None,
    )


def _reached(record: JournalRecord) -> dict[str, int]:
    found = record.body.get(_REACHED)
    if not isinstance(found, dict):
        return {}
    return {writer: at for writer, at in found.items() if isinstance(at, int)}


def _links(chain: Sequence[JournalRecord]) -> Iterator[JournalFinding]:
    known = {record.hash for record in chain}
    previous, sequence = ORIGIN, 0
    for record in chain:
        if record.sequence != sequence + 1:
            gap = f"records {sequence + 1} to {record.sequence - 1} are not there"
            yield _finding(record, "missing", gap)
        elif record.previous != previous:
            if record.previous in known or record.previous == ORIGIN:
                yield _finding(record, "reordered", "it was written after another record")
            else:
                yield _finding(record, "missing", "the record that it was written after is gone")
        if hash_of(record) != record.hash:
            yield _finding(record, "changed", "its content does not have its hash")
        previous, sequence = record.hash, record.sequence


def _ends(
    writer: str, chain: Sequence[JournalRecord], anchors: Sequence[Anchor], head: int
) -> Iterator[JournalFinding]:
    last = chain[-1].sequence if chain else 0
    hashes = {record.sequence: record.hash for record in chain}
    furthest = max([head, *(anchor.sequence for anchor in anchors)])
    if furthest > last:
        yield JournalFinding(
            writer=writer,
            sequence=last + 1,
            fault="truncated",
            detail=f"it ends at {last}, and it had reached {furthest}",
        )
    for anchor in anchors:
        found = hashes.get(anchor.sequence)
        if found is not None and found != anchor.hash:
            yield JournalFinding(
                writer=writer,
                sequence=anchor.sequence,
                fault="changed",
                detail=f"it is not the record that was anchored at {anchor.at.isoformat()}",
            )


def _finding(record: JournalRecord, fault: str, detail: str) -> JournalFinding:
    return JournalFinding(
        writer=record.writer, sequence=record.sequence, fault=fault, detail=detail
    )
