"""Audit records: how tampering shows, how long they are kept, and which a question asks for.

Each chain has its own sequence; each record names the SHA-256 of the line before it. What the last
record is shows by the heads: in the names of locked objects, in the database, and in the journal.
"""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import ValidationError

from gpufleet.spec.audit import (
    CONTENT,
    UNCLASSIFIED,
    AuditFinding,
    AuditQuery,
    KeptSegment,
    Segment,
)
from gpufleet.spec.gateway import AuditRecord
from gpufleet.spec.governance import Retention
from gpufleet.spec.serving import DataClass

ORIGIN: Final = "0" * 64
"""Stands for the record before the first."""
UNDECLARED_S: Final = 365 * 86_400.0
"""How long records of a data class without a declared retention are kept."""
UNCLASSIFIED_S: Final = 90 * 86_400.0
"""How long records of requests that named no use case are kept: most are from nobody known, and
what anybody can write is not to be locked for years."""

_LONGEST_ON_ITS_WAY: Final = timedelta(days=7)
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


def hash_of(line: bytes) -> str:
    """SHA-256 of a record's line, without its end."""
    return hashlib.sha256(line).hexdigest()


def salted(salt: bytes, text: str) -> str:
    """HMAC-SHA-256 of a prompt or an answer; empty for no text."""
    if not text:
        return ""
    return hmac.new(salt, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def read(line: bytes) -> AuditRecord | None:
    """A record; None where the line is none."""
    try:
        return AuditRecord.model_validate_json(line)
    except ValidationError:
        return None


def segment_of(lines: Sequence[bytes]) -> Segment | None:
    """What a run of lines is as a segment; None where it has no record, or one that is none."""
    records = [record for line in lines if (record := read(line)) is not None]
    if not lines or len(records) != len(lines):
        return None
    content = b"".join(line + b"\n" for line in lines)
    times = [moment_of(record) for record in records]
    return Segment(
        chain=records[0].writer,
        data_class=records[0].writer.rpartition(".")[2],
        first=records[0].sequence,
        last=records[-1].sequence,
        previous=records[0].previous,
        head=hash_of(lines[-1]),
        digest=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        records=len(lines),
        begins=min(times),
        ends=max(times),
    )


def moment_of(record: AuditRecord) -> datetime:
    """When the request came; long ago where the record does not say."""
    try:
        at = datetime.fromisoformat(record.at)
    except ValueError:
        return _LONG_AGO
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def retention_s(retention: Mapping[DataClass, Retention], data_class: str) -> float:
    """How long a chain's records are kept, s.

    Args:
        retention: as declared.
        data_class: of the chain; with a use case for its prompts and answers.
    """
    if data_class == UNCLASSIFIED:
        return UNCLASSIFIED_S
    of_class, content, _ = data_class.partition(CONTENT)
    declared = retention.get(DataClass(of_class))
    if not content:
        return declared.audit_s if declared else UNDECLARED_S
    return declared.content_s if declared and declared.content_s else 0.0


def locked_until(segment: Segment, lasts_s: float, now: datetime) -> datetime:
    """When the retention of a segment ends that is shipped now.

    It counts from its last request, and from a week ago at most: a clock that jumped while they
    were recorded makes no record go early.
    """
    counts_from = min(max(segment.ends, now - _LONGEST_ON_ITS_WAY), now)
    return counts_from + timedelta(seconds=lasts_s)


def due_at(segment: KeptSegment, retention: Mapping[DataClass, Retention]) -> datetime:
    """When a segment is to be deleted: as it was locked, or later where retention has grown."""
    lasts_s = retention_s(retention, segment.data_class)
    return max(segment.keep_until, locked_until(segment, lasts_s, segment.shipped_at))


class FewEachSecond:
    """Lets so many pass in each second.

    Args:
        most: that pass.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._second = 0
        self._passed = 0

    def passes(self, now_s: float) -> bool:
        """Whether one more passes; it counts then.

        Args:
            now_s: the time, monotonic.
        """
        second = int(now_s)
        if second != self._second:
            self._second, self._passed = second, 0
        if self._passed >= self._most:
            return False
        self._passed += 1
        return True


def last_uses(lines: Iterable[bytes]) -> dict[str, datetime]:
    """When each key was used last, as records tell."""
    found: dict[str, datetime] = {}
    for line in lines:
        record = read(line)
        if record is not None and record.key_id:
            at = moment_of(record)
            found[record.key_id] = max(at, found.get(record.key_id, at))
    return found


def matches(record: AuditRecord, query: AuditQuery) -> bool:
    """Whether a question asks for a record."""
    asked = (
        (query.team, record.team),
        (query.use_case, record.use_case),
        (query.key, record.key_id),
        (query.request, record.request_id),
        (query.route, record.route),
        (query.status, record.status),
    )
    if any(wanted is not None and wanted != is_ for wanted, is_ in asked):
        return False
    if (CONTENT in record.writer.rpartition(".")[2]) is not query.content:
        return False
    at = moment_of(record)
    return (query.since is None or at >= query.since) and (query.until is None or at < query.until)


def may_match(segment: Segment, query: AuditQuery) -> bool:
    """Whether a segment may have a record that a question asks for."""
    return (query.since is None or segment.ends >= query.since) and (
        query.until is None or segment.begins < query.until
    )


@dataclass(frozen=True)
class Piece:
    """A part of a chain: its lines, or the proof that they were deleted."""

    first: int
    lines: Sequence[bytes] = ()
    deleted: Segment | None = None
    expected: Segment | None = None
    """What it was when it was shipped; None where it was not."""


def verify(
    chain: str, pieces: Iterable[Piece], heads: Mapping[int, str] | None = None
) -> list[AuditFinding]:
    """Everything that was done to one chain behind its back; nothing means that it is whole.

    Args:
        chain: its name.
        pieces: by their first record; each is looked at once, and let go.
        heads: hash by sequence, as they are known elsewhere.
    """
    walk = _Walk(chain, heads or {})
    findings: list[AuditFinding] = []
    for piece in pieces:
        findings += walk.skip(piece.deleted) if piece.deleted is not None else walk.read(piece)
    findings += walk.end()
    return list({(found.sequence, found.fault): found for found in reversed(findings)}.values())[
        ::-1
    ]


class _Walk:
    """A walk along a chain.

    Args:
        chain: its name.
        heads: hash by sequence, as they are known elsewhere.
    """

    def __init__(self, chain: str, heads: Mapping[int, str]) -> None:
        self._chain = chain
        self._heads = heads
        self._sequence = 0
        self._previous = ORIGIN

    def skip(self, deleted: Segment) -> Iterator[AuditFinding]:
        """Go on behind what was deleted with proof."""
        if deleted.last > self._sequence:
            yield from self._step(deleted.first, deleted.previous, {ORIGIN})
            yield from self._reach(deleted.last, deleted.head)

    def read(self, piece: Piece) -> Iterator[AuditFinding]:
        """Go along its records."""
        hashes = [hash_of(line) for line in piece.lines]
        known = {ORIGIN, *hashes}
        for line, hash_ in zip(piece.lines, hashes, strict=True):
            record = read(line)
            if record is None or record.writer != self._chain:
                detail = "it is no record of this chain"
                yield self._finding(self._sequence + 1, "changed", detail)
                yield from self._reach(self._sequence + 1, hash_)
                continue
            yield from self._step(record.sequence, record.previous, known)
            yield from self._reach(record.sequence, hash_)
        expected = piece.expected
        if expected is None:
            return
        content = b"".join(line + b"\n" for line in piece.lines)
        if hashlib.sha256(content).hexdigest() != expected.digest:
            detail = f"records {expected.first} to {expected.last} are not those that were shipped"
            yield self._finding(expected.first, "changed", detail)

    def end(self) -> Iterator[AuditFinding]:
        """Whether it has come as far as is known elsewhere."""
        furthest = max(self._heads, default=0)
        if furthest > self._sequence:
            detail = f"it ends at {self._sequence}, and it had reached {furthest}"
            yield self._finding(self._sequence + 1, "truncated", detail)

    def _step(self, sequence: int, previous: str, known: set[str]) -> Iterator[AuditFinding]:
        """Whether a record is the one that follows."""
        follows = self._sequence + 1
        if sequence > follows:
            detail = f"records {follows} to {sequence - 1} are not there"
            yield self._finding(follows, "missing", detail)
        elif sequence < follows:
            yield self._finding(sequence, "reordered", "it stands behind a later record")
        elif previous != self._previous:
            if previous in known:
                yield self._finding(sequence, "reordered", "it was written after another record")
            else:
                detail = "it is not what the next record was written after, or another is missing"
                yield self._finding(max(sequence - 1, 1), "changed", detail)

    def _reach(self, sequence: int, hash_: str) -> Iterator[AuditFinding]:
        """Come to a record."""
        self._sequence, self._previous = sequence, hash_
        if self._heads.get(sequence, hash_) != hash_:
            detail = "it is not the record that was known when its segment ended"
            yield self._finding(sequence, "changed", detail)

    def _finding(self, sequence: int, fault: str, detail: str) -> AuditFinding:
        return AuditFinding(chain=self._chain, sequence=sequence, fault=fault, detail=detail)
