"""What audit records a folder holds, and whether they are whole."""

from collections import Counter
from pathlib import Path
from typing import Any

from gpufleet.core.gateway.audit import Piece, read, verify
from gpufleet.edges.audit_files import OPEN, SEALED, lines_of, segments
from gpufleet.spec.audit import AuditFinding
from gpufleet.spec.gateway import AuditRecord

OPENING: dict[str, Any] = {
    "at": "2026-03-01T12:00:00.000+00:00",
    "key_id": "abcdefghijkl",
    "team": "search",
    "use_case": "answers",
    "data_class": "internal",
    "prompt_hash": "a" * 64,
}
CLOSING: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "digest": "sha256:" + "d" * 64,
    "route": "primary",
    "reason": "the first choice has room",
    "replica": "answers-0",
    "status": 200,
    "prompt_tokens": 120,
    "output_tokens": 100,
    "ttft_s": 0.123,
    "latency_s": 1.9,
    "cost": "0.000123",
    "answer_hash": "b" * 64,
}


def records(folder: Path) -> list[AuditRecord]:
    """Every record of a folder, by chain."""
    found = []
    for lines in _chains(folder).values():
        for piece in lines:
            kept = [read(line) for line in piece.lines]
            assert None not in kept
            found += [record for record in kept if record is not None]
    return found


def findings(folder: Path) -> list[AuditFinding]:
    """What is wrong with its chains."""
    return [found for chain, kept in _chains(folder).items() for found in verify(chain, kept)]


def times_recorded(folder: Path) -> Counter[str]:
    """How often each request is recorded, content apart."""
    return Counter(
        record.request_id for record in records(folder) if "-content-" not in record.writer
    )


def _chains(folder: Path) -> dict[str, list[Piece]]:
    chains: dict[str, list[Piece]] = {}
    for ending in (SEALED, OPEN):
        for name, file in segments(folder, ending):
            lines = lines_of(file.read_bytes())
            chains.setdefault(name.chain, []).append(Piece(name.first, lines))
    return chains
