"""Closing the audit logs of processes that have ended."""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gpufleet.edges.audit_chain import Chain, Segment
from gpufleet.edges.audit_facts import gap_facts
from gpufleet.edges.audit_files import (
    GAP,
    HEAD,
    INTENTS,
    OPEN,
    SEALED,
    SegmentName,
    Slots,
    lines_of,
    segments,
)
from gpufleet.spec.gateway import AuditRecord

_LOCK: Final = "recovery.lock"
_PRIVATE: Final = 0o600
_UNBORN: Final = "*.new"
"""Files of writers that ended before they began."""
_UNBORN_FOR_S: Final = 60.0
_INTERRUPTED: Final = {
    "route": "none",
    "status": 0,
    "error": "interrupted",
    "reason": "the gateway's process ended before the request did",
}


def recover(folder: Path) -> list[AuditRecord]:
    """Close what dead writers left open, each request once; the records that were written.

    Nothing is done while another process is at it.

    Raises:
        OSError: the folder cannot be written; the next call goes on.
    """
    with _only_one(folder) as alone:
        if not alone:
            return []
        written: list[AuditRecord] = []
        for file in sorted(folder.glob(f"*{INTENTS}")):
            with Slots.of_the_dead(file) as slots:
                if slots is not None:
                    written += _close(folder, file.stem, slots)
                    file.unlink()
        _seal_orphans(folder)
        for file in folder.glob(_UNBORN):
            if time.time() - file.stat().st_mtime > _UNBORN_FOR_S:
                file.unlink()
        return written


def _close(folder: Path, writer: str, slots: Slots) -> list[AuditRecord]:
    """Write what is missing in a dead writer's chains, and seal them."""
    values = list(slots.all())
    left = [(number, kind, value) for number, kind, value in values if kind != HEAD]
    heads = {value["chain"]: value for _, kind, value in values if kind == HEAD}
    files = [
        (name, file)
        for ending in (SEALED, OPEN)
        for name, file in segments(folder, ending)
        if name.writer == writer
    ]
    recorded = _request_ids(file for _, file in files) if left else set()
    classes = {name.data_class for name, _ in files} | {value["data_class"] for *_, value in left}
    chains = {
        each: _reopened(folder, f"{writer}.{each}", files, heads.get(f"{writer}.{each}"))
        for each in sorted(classes)
    }
    written = []
    try:
        for _, kind, value in left:
            if value["request_id"] in recorded:
                continue
            chain = chains[value.pop("data_class")]
            if chain.segment is None:
                chain.segment = chain.next_segment(1, time.time())
            facts = gap_facts(value) if kind == GAP else {**value, **_INTERRUPTED}
            written.append(chain.append(facts))
        _sync(chain.segment.descriptor for chain in chains.values() if chain.segment)
        # Before a segment is sealed, and may be shipped: nobody finds its records here then.
        for number, _, _ in left:
            slots.clear(number)
        for chain in chains.values():
            slots.put(HEAD, chain.head)
        _sync([slots.descriptor])
        for chain in chains.values():
            chain.end_segment()
    finally:
        for chain in chains.values():
            chain.let_go()
    return written


def _reopened(
    folder: Path,
    name: str,
    files: Iterable[tuple[SegmentName, Path]],
    head: dict[str, Any] | None,
) -> Chain:
    """A chain at its last record; all of its segments but the last are sealed."""
    chain = Chain(folder, name)
    if head is not None:
        chain.sequence, chain.previous = head["sequence"], head["previous"]
    mine = sorted((found.first, file) for found, file in files if found.chain == name)
    last: tuple[Path, int] | None = None
    for _, file in mine:
        lines = lines_of(file.read_bytes())
        if lines:
            sequence = json.loads(lines[-1])["sequence"]
            if sequence > chain.sequence:
                chain.sequence = sequence
                chain.previous = hashlib.sha256(lines[-1]).hexdigest()
        if file.suffix != OPEN:
            continue
        if last is not None:
            Segment.of(*last).end()
        last = (file, sum(len(line) + 1 for line in lines))
    if last is not None:
        chain.segment = Segment.of(*last)
    return chain


def _seal_orphans(folder: Path) -> None:
    """Seal segments whose writer has no file any more: it has ended."""
    for name, file in segments(folder, OPEN):
        if not (folder / f"{name.writer}{INTENTS}").exists():
            lines = lines_of(file.read_bytes())
            Segment.of(file, sum(len(line) + 1 for line in lines)).end()


def _request_ids(files: Iterable[Path]) -> set[str]:
    return {
        json.loads(line)["request_id"] for file in files for line in lines_of(file.read_bytes())
    }


def _sync(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.fdatasync(descriptor)


@contextmanager
def _only_one(folder: Path) -> Iterator[bool]:
    """Whether this process alone is at it."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, _PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)
