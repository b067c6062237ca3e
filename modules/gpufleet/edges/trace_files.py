"""Recorded requests from a CSV file, plain or gzipped: `arrival_s, prompt_tokens, output_tokens`.

Seconds count from any moment; further columns are ignored.
"""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from gpufleet.spec.errors import BadInput

COLUMNS: Final = ("arrival_s", "prompt_tokens", "output_tokens")
MAX_BYTES: Final = 2**30
"""Of the text; a compressed file may be a bomb."""
MAX_TOKENS: Final = 10**8
MIN_REQUESTS: Final = 2
GAP_S: Final = 60.0
GAP_SHARE: Final = 0.1
GAP_TIMES: Final = 10.0
"""A time without requests is a gap if it is longer than `GAP_S`, and a tenth of the recording or
ten times the next longest: a quiet minute is traffic, this is a recorder that stood still."""

Columns = tuple[
    np.ndarray[tuple[int], np.dtype[np.float64]],
    np.ndarray[tuple[int], np.dtype[np.int64]],
    np.ndarray[tuple[int], np.dtype[np.int64]],
]
"""Arrivals in seconds, prompt tokens, output tokens."""


def read_trace(file: Path, shown_as: str | None = None) -> Columns:
    """The requests of a trace, checked.

    Args:
        file: `.csv`, or `.csv.gz`.
        shown_as: its name in error messages; its path where it is not given.

    Raises:
        BadInput: with line and column: it cannot be read, lacks a column, holds fewer than two
            requests, what is no number, NaN, a negative time or no tokens, is out of order, or has
            a gap.
    """
    where = shown_as or str(file)
    rows = list(_rows(_text(file, where), where))
    if len(rows) < MIN_REQUESTS:
        what = "holds no requests" if not rows else "holds a single request, which is no traffic"
        raise BadInput(what, where=where, mend="record at least some minutes of traffic")
    table = np.array(rows)
    _check_gaps(table[:, 0], where)
    return table[:, 0].copy(), table[:, 1].astype(np.int64), table[:, 2].astype(np.int64)


def _text(file: Path, where: str) -> str:
    try:
        if not file.is_file():
            what = "is not a regular file" if file.exists() else "no such file"
            raise BadInput(what, where=where, mend=f"a CSV file: {', '.join(COLUMNS)}")
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"cannot be read: {reason}", where=where) from None
    if len(raw) > MAX_BYTES:
        raise BadInput(
            f"is larger than {MAX_BYTES // 2**20} MiB", where=where, mend="take a part of it"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadInput("is not UTF-8 text", where=f"{where}:{line}") from None


def _rows(text: str, where: str) -> Iterator[tuple[float, float, float]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    before = -math.inf
    try:
        places = _places(next(reader, []), where)
        for cells in reader:
            if not cells:
                continue
            at = f"{where}:{reader.line_num}"
            arrival_s, prompt, output = (
                _number(cells, place, name, at) for place, name in zip(places, COLUMNS, strict=True)
            )
            if arrival_s < before:
                what = f"is out of order ({arrival_s:g} s after {before:g} s)"
                raise BadInput(
                    what, where=f"{at}:{places[0] + 1}: {COLUMNS[0]}", mend="sort it by arrival_s"
                )
            before = arrival_s
            yield arrival_s, prompt, output
    except csv.Error as error:
        at = f"{where}:{reader.line_num}"
        raise BadInput(f"is not a CSV line: {error}", where=at) from None


def _places(head: Iterable[str], where: str) -> list[int]:
    names = [name.strip() for name in head]
    for name in COLUMNS:
        if names.count(name) != 1:
            what = f"has {'no' if name not in names else 'more than one'} column `{name}`"
            mend = f"the first line names the columns: {','.join(COLUMNS)}"
            raise BadInput(what, where=f"{where}:1", mend=mend)
    return [names.index(name) for name in COLUMNS]


def _number(cells: list[str], place: int, name: str, at: str) -> float:
    where = f"{at}:{place + 1}: {name}"
    if place >= len(cells):
        raise BadInput("is missing", where=where, mend="the line is cut; record it again")
    text = cells[place].strip()
    try:
        value = float(text)
    except ValueError:
        raise BadInput(f"{text!r:.40} is not a number", where=where) from None
    if not math.isfinite(value):
        raise BadInput(f"is {text:.40}, not a finite number", where=where)
    if name == COLUMNS[0]:
        if value < 0:
            raise BadInput(f"is negative ({text:.40})", where=where, mend="count from the first")
        return value
    if not value.is_integer() or not 1 <= value <= MAX_TOKENS:
        raise BadInput(
            f"is {text:.40}; a request has whole tokens, at least 1",
            where=where,
            mend="leave out requests that failed: they have no tokens",
        )
    return value


def _check_gaps(arrival_s: np.ndarray[tuple[int], np.dtype[np.float64]], where: str) -> None:
    between_s = np.diff(arrival_s)
    longest = int(between_s.argmax())
    gap_s, span_s = float(between_s[longest]), float(arrival_s[-1] - arrival_s[0])
    if span_s <= 0:
        raise BadInput("all requests arrive at once", where=where, mend="is arrival_s in seconds?")
    next_s = float(np.partition(between_s, -2)[-2]) if len(between_s) > 1 else 0.0
    if gap_s > max(GAP_S, min(GAP_SHARE * span_s, GAP_TIMES * next_s)):
        raise BadInput(
            f"has a gap of {gap_s:g} s, from {arrival_s[longest]:g} s to "
            f"{arrival_s[longest + 1]:g} s: {gap_s / span_s:.0%} of the recording",
            where=f"{where}: arrival_s",
            mend="take one side of the gap, or close it by moving the later times",
        )
