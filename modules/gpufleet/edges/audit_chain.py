"""One chain of audit records, and the segment that it grows in."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from gpufleet.edges.audit_files import OPEN, SegmentName, seal, write_at
from gpufleet.spec.gateway import AuditRecord

RECORD_BYTES: Final = 4096
"""Longest record without content; so much is kept free for each request in flight."""
ORIGIN: Final = "0" * 64
"""Stands for the record before the first."""
_SHORT: Final = 100
"""Characters of a free text in a record that would be too long."""
_PRIVATE: Final = 0o600
UNKNOWN: Final[Mapping[str, Any]] = {
    "key_id": "",
    "team": "",
    "use_case": "",
    "model": "",
    "digest": "",
    "route": "none",
    "reason": "",
    "replica": "",
    "status": 0,
    "error": "",
    "prompt_tokens": 0,
    "output_tokens": 0,
    "ttft_s": None,
    "latency_s": 0.0,
    "cost": "0",
    "prompt_hash": "",
    "answer_hash": "",
}
"""What a record says where nobody said anything."""


class Segment:
    """One file of a chain, preallocated.

    Args:
        file: its path.
        descriptor: the file, open for writing.
        size: bytes that are allocated.
        offset: where the next line goes.
    """

    def __init__(self, file: Path, descriptor: int, size: int, offset: int) -> None:
        self.file = file
        self.descriptor = descriptor
        self.size = size
        self.offset = offset

    @classmethod
    def create(cls, file: Path, size: int) -> Self:
        """A new one.

        Raises:
            OSError: there is no space for it.
        """
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, _PRIVATE)
        segment = cls(file, descriptor, size, 0)
        try:
            segment.grow(size)
        except OSError:
            segment.end()
            raise
        return segment

    @classmethod
    def of(cls, file: Path, offset: int) -> Self:
        """One that somebody else began, after its last whole line."""
        return cls(file, os.open(file, os.O_RDWR), file.stat().st_size, offset)

    def grow(self, size: int) -> None:
        """Allocate so many bytes in all.

        Raises:
            OSError: there is no space for them.
        """
        os.posix_fallocate(self.descriptor, 0, size)
        self.size = size

    def end(self) -> None:
        """Seal it, or remove it where it has no record.

        Raises:
            OSError: the disk fails; it stays as it is.
        """
        if self.offset:
            seal(self.descriptor, self.file, self.offset)
        else:
            self.file.unlink()
        self.let_go()

    def let_go(self) -> None:
        """Close the file as it is."""
        os.close(self.descriptor)


class Chain:
    """A chain of one writer for one data class.

    Args:
        folder: where its segments are.
        name: writer, a dot, and data class.
        sequence: of its last record; 0 for none.
        previous: SHA-256 of that record's line.
    """

    def __init__(self, folder: Path, name: str, sequence: int = 0, previous: str = ORIGIN) -> None:
        self._folder = folder
        self.name = name
        self.sequence = sequence
        self.previous = previous
        self.segment: Segment | None = None

    @property
    def head(self) -> dict[str, Any]:
        """What is needed to go on with it."""
        return {"chain": self.name, "sequence": self.sequence, "previous": self.previous}

    def next_segment(self, size: int, now_s: float) -> Segment:
        """A segment for the records that follow; the chain does not go on in it yet.

        Raises:
            OSError: there is no space for it.
        """
        name = SegmentName(self.name, self.sequence + 1, int(now_s * 1000))
        return Segment.create(self._folder / f"{name.stem}{OPEN}", size)

    def append(self, facts: Mapping[str, Any]) -> AuditRecord:
        """Write the next record into the segment.

        Raises:
            OSError: it is not written.
        """
        if self.segment is None:
            raise AssertionError("space is reserved before a record is written")
        record, line = self._next(facts)
        write_at(self.segment.descriptor, line + b"\n", self.segment.offset)
        self.segment.offset += len(line) + 1
        self.sequence = record.sequence
        self.previous = hashlib.sha256(line).hexdigest()
        return record

    def end_segment(self) -> None:
        """Seal the segment, or remove it where it has no record.

        Raises:
            OSError: the disk fails; it stays as it is.
        """
        if self.segment is not None:
            self.segment.end()
            self.segment = None

    def let_go(self) -> None:
        """Close the segment as it is."""
        if self.segment is not None:
            self.segment.let_go()
            self.segment = None

    def _next(self, facts: Mapping[str, Any]) -> tuple[AuditRecord, bytes]:
        """The next record, and its line."""
        place = {"writer": self.name, "sequence": self.sequence + 1, "previous": self.previous}
        record = AuditRecord(**{**UNKNOWN, **facts, **place})
        try:
            line = record.model_dump_json().encode()
        except ValueError:
            # Half a surrogate pair, as JSON may carry one, is no Unicode text.
            record = record.model_copy(update=_plain(record))
            line = record.model_dump_json().encode()
        if len(line) >= RECORD_BYTES and record.prompt is None and record.answer is None:
            record = record.model_copy(update=_plain(record, _SHORT))
            line = record.model_dump_json().encode()
        return record, line


def _plain(record: AuditRecord, length: int | None = None) -> dict[str, str]:
    """Its texts in plain characters, and no longer than so many."""
    return {
        name: value.encode("ascii", "backslashreplace").decode()[:length]
        for name, value in record
        if isinstance(value, str) and name not in {"writer", "previous"}
    }
