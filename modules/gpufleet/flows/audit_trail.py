"""Audit records, wherever they are: verified, searched, exported."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import nlargest
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from gpufleet.core.gateway.audit import Piece, matches, may_match, moment_of, read, verify
from gpufleet.core.journal import verify as verify_journal
from gpufleet.edges.audit_files import OPEN, SEALED, lines_of, segments
from gpufleet.edges.audit_store import AuditStore, StoredName
from gpufleet.edges.audit_table import AuditTable
from gpufleet.flows.audit_deletion import DELETED
from gpufleet.flows.audit_shipping import BROKEN, HEADS, audit_stores
from gpufleet.flows.ground import Ground, whoami
from gpufleet.spec.audit import (
    AuditFinding,
    AuditQuery,
    AuditReport,
    Deletion,
    KeptSegment,
    Segment,
)
from gpufleet.spec.errors import BadInput, FleetError, Retryable
from gpufleet.spec.gateway import AuditRecord

READ: Final = "audit.content_read"
_HEADS: Final = TypeAdapter(dict[str, tuple[int, str]])


@dataclass
class _Kept:
    """What is known of every chain."""

    rows: dict[tuple[str, int], KeptSegment] = field(default_factory=dict)
    stored: dict[tuple[str, int], list[tuple[AuditStore, StoredName]]] = field(default_factory=dict)
    local: dict[tuple[str, int], list[bytes]] = field(default_factory=dict)
    deleted: dict[tuple[str, int], Segment] = field(default_factory=dict)
    heads: dict[str, dict[int, str]] = field(default_factory=dict)

    def head(self, chain: str, last: int, hash_: str) -> None:
        """Remember a head of a chain."""
        self.heads.setdefault(chain, {})[last] = hash_


def verified(ground: Ground, folder: Path) -> AuditReport:
    """Every record against its chain, the locked objects, the database and the journal.

    Args:
        ground: the environment.
        folder: the gateway's records on this machine; those of another are known when shipped.

    Raises:
        Retryable: the database, or every store, does not answer.
    """
    kept, findings = _kept(ground, folder), _journal_findings(ground)
    places: dict[str, set[int]] = {chain: set() for chain in kept.heads}
    for chain, first in (
        kept.rows.keys() | kept.stored.keys() | kept.local.keys() | kept.deleted.keys()
    ):
        places.setdefault(chain, set()).add(first)
    records = 0

    def pieces(chain: str) -> Iterator[Piece]:
        nonlocal records
        for first in sorted(places[chain]):
            copies = kept.stored.get((chain, first), [])
            contents = dict(_contents(copies))
            findings.extend(_differing(kept, chain, first, contents))
            piece = _piece(kept, chain, first, contents)
            if piece is not None:
                records += len(piece.lines)
                yield piece

    for chain in sorted(places):
        findings += _lost(kept, chain, places[chain])
        findings += verify(chain, pieces(chain), kept.heads.get(chain))
    return AuditReport(
        records=records,
        chains=len(places),
        segments=len(kept.stored),
        local=len(kept.local),
        deleted=sum(segment.records for segment in kept.deleted.values()),
        findings=list(
            {(each.chain, each.sequence, each.fault): each for each in findings}.values()
        ),
    )


def search(ground: Ground, folder: Path, query: AuditQuery) -> Iterator[AuditRecord]:
    """The records that a question asks for, by chain and sequence.

    Args:
        ground: the environment.
        folder: as for `verified`.
        query: the question.

    Raises:
        Retryable: the database, or a store that alone has a segment, does not answer.
    """
    kept = _kept(ground, folder)
    for place in sorted(kept.stored.keys() | kept.local.keys()):
        row = kept.rows.get(place)
        if row is not None and not may_match(row, query):
            continue
        lines = kept.local.get(place)
        if lines is None:
            lines = lines_of(_content(kept.stored[place]))
        for line in lines:
            record = read(line)
            if record is not None and matches(record, query):
                yield record


def latest(ground: Ground, folder: Path, query: AuditQuery, most: int) -> list[AuditRecord]:
    """The latest records that a question asks for, by time; arguments as of `search`.

    The journal says who asked for prompts and answers, and for which.
    """
    _note_reading(ground, query)
    found = nlargest(
        most,
        search(ground, folder, query),
        key=lambda record: (moment_of(record), record.writer, record.sequence),
    )
    return found[::-1]


def folder_of(ground: Ground) -> Path:
    """Where the gateway of this machine has its audit records."""
    return ground.state.root / "gateway" / "audit"


def export(ground: Ground, folder: Path, query: AuditQuery, to: str) -> int:
    """Write what a question asks for as lines of JSON, as they were recorded; returns how many.

    Only its owner can read the file. The journal says who asked for prompts and answers, and for
    which.

    Args:
        ground: the environment.
        folder: as for `verified`.
        query: the question.
        to: a file, written whole or not at all; `-` for stdout.

    Raises:
        BadInput: the file cannot be written.
    """
    _note_reading(ground, query)
    lines = (record.model_dump_json() + "\n" for record in search(ground, folder, query))
    if to == "-":
        return _write(lines, sys.stdout.write)
    file = Path(to)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(temporary, "x", encoding="utf-8", opener=_private) as sink:
            count = _write(lines, sink.write)
        temporary.replace(file)
    except OSError as error:
        raise BadInput(f"cannot be written: {error.strerror}", where=to) from None
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _note_reading(ground: Ground, query: AuditQuery) -> None:
    """Note in the journal who reads prompts and answers, before they do."""
    if query.content:
        ground.note(READ, actor=whoami(), query=query.model_dump(mode="json", exclude_none=True))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write(lines: Iterable[str], write: Callable[[str], object]) -> int:
    count = 0
    for line in lines:
        write(line)
        count += 1
    return count


def _kept(ground: Ground, folder: Path) -> _Kept:
    kept = _Kept()
    for row in AuditTable(ground.database).all():
        kept.rows[row.chain, row.first] = row
        kept.head(row.chain, row.last, row.head)
    _read_local(kept, folder)
    _read_stores(kept, ground)
    for record in ground.journal.records():
        if record.event == HEADS:
            for chain, (last, head) in _HEADS.validate_python(record.body["heads"]).items():
                kept.head(chain, last, head)
        elif record.event == DELETED:
            for segment in Deletion.model_validate(record.body).segments:
                kept.deleted[segment.chain, segment.first] = segment
                kept.head(segment.chain, segment.last, segment.head)
    return kept


def _read_local(kept: _Kept, folder: Path) -> None:
    """Segments on this machine; one that is shipped meanwhile is found in the stores."""
    for ending in (OPEN, SEALED):
        for name, file in segments(folder, ending):
            try:
                lines = lines_of(file.read_bytes())
            except FileNotFoundError:
                continue
            if lines:
                kept.local[name.chain, name.first] = lines


def _read_stores(kept: _Kept, ground: Ground) -> None:
    failures: list[FleetError] = []
    stores = audit_stores(ground)
    for store in stores.values():
        try:
            for name in store.names():
                kept.stored.setdefault((name.chain, name.first), []).append((store, name))
                kept.head(name.chain, name.last, name.head)
        except FleetError as error:
            failures.append(error)
    if failures and len(failures) == len(stores):
        raise Retryable(
            f"no object store can be read: {failures[0].what}",
            where=failures[0].where,
            mend="try again when one answers",
        )


def _content(copies: list[tuple[AuditStore, StoredName]]) -> bytes:
    """The first copy that can be read."""
    failure: FleetError | None = None
    for store, name in copies:
        try:
            return store.get(name.key)
        except FleetError as error:
            failure = error
    raise failure or AssertionError("a segment is listed because there is a copy")


def _contents(copies: list[tuple[AuditStore, StoredName]]) -> Iterator[tuple[str, bytes]]:
    """Every copy of a segment that can be read, by the store it is in.

    Raises:
        FleetError: none can be read.
    """
    failure: FleetError | None = None
    found = 0
    for store, name in copies:
        try:
            yield store.where, store.get(name.key)
        except FleetError as error:
            failure = error
        else:
            found += 1
    if failure is not None and not found:
        raise failure


def _differing(
    kept: _Kept, chain: str, first: int, contents: Mapping[str, bytes]
) -> Iterator[AuditFinding]:
    """Copies that are not what was shipped, where another one is."""
    expected = kept.rows.get((chain, first)) or kept.deleted.get((chain, first))
    good = _good(contents, expected)
    for where, content in contents.items():
        if content != good:
            detail = f"the copy at {where} differs from the others, or from what was shipped"
            yield AuditFinding(chain=chain, sequence=first, fault="changed", detail=detail)


def _good(contents: Mapping[str, bytes], expected: Segment | None) -> bytes:
    """The copy that is as it was shipped; the first one where none is, or where it is not known."""
    return next(
        (
            content
            for content in contents.values()
            if expected and hashlib.sha256(content).hexdigest() == expected.digest
        ),
        next(iter(contents.values()), b""),
    )


def _piece(kept: _Kept, chain: str, first: int, contents: Mapping[str, bytes]) -> Piece | None:
    """What is left of one segment; None where nothing is."""
    place = (chain, first)
    expected = kept.rows.get(place) or kept.deleted.get(place)
    if contents:
        return Piece(first, lines_of(_good(contents, expected)), expected=expected)
    if place in kept.local:
        return Piece(first, kept.local[place], expected=expected)
    if place in kept.deleted:
        return Piece(first, deleted=kept.deleted[place])
    return None


def _lost(kept: _Kept, chain: str, places: Iterable[int]) -> Iterator[AuditFinding]:
    """Segments that were shipped and are nowhere, without proof of their deletion."""
    for first in places:
        place = (chain, first)
        if place in kept.rows and not (
            place in kept.stored or place in kept.local or place in kept.deleted
        ):
            last = kept.rows[place].last
            detail = f"records {first} to {last} are in no object store, without proof of deletion"
            yield AuditFinding(chain=chain, sequence=first, fault="missing", detail=detail)


def _journal_findings(ground: Ground) -> list[AuditFinding]:
    """What is wrong with the journal, which has the proofs, and segments that were set aside."""
    records = list(ground.journal.records())
    findings = [
        AuditFinding(
            chain=f"journal {found.writer}",
            sequence=found.sequence,
            fault=found.fault,
            detail=found.detail,
        )
        for found in verify_journal(records, (), ground.journal.heads())
    ]
    for record in records:
        if record.event == BROKEN:
            detail = "somebody wrote into it before it was shipped"
            findings.append(
                AuditFinding(chain=record.target, sequence=0, fault="changed", detail=detail)
            )
    return findings
