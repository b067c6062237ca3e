"""A CSV file of loads whose speed is asked for: one row for each, checked cell by cell."""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from gpufleet.spec.errors import BadInput
from gpufleet.spec.serving import Precision

NAMES: Final = ("model", "gpu", "precision")
MOST: Final[Mapping[str, int]] = {
    "tp": 1024,
    "pp": 64,
    "isl": 10_000_000,
    "osl": 10_000_000,
    "concurrency": 1_000_000,
}
"""Columns of whole numbers from 1, and the largest that makes sense."""
MOST_ROWS: Final = 200_000
_MOST_EXPERT_PARALLEL: Final = 1024
_SHOWN: Final = 40


class PointRow(NamedTuple):
    """One row, its cells understood but its names not looked up."""

    line: int
    cells: tuple[str, ...]
    model: str
    gpu: str
    precision: Precision
    numbers: Mapping[str, int]
    """`tp`, `pp`, `isl`, `osl`, `concurrency`; `ep` where it is given and not 0."""
    backend: str


@dataclass(frozen=True)
class PointsFile:
    """The rows of a file, in its order."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[PointRow, ...]

    def place(self, row: PointRow, column: str) -> str:
        """`file:line:column: field` of a cell."""
        return _place(self.path, row.line, row.cells, self.columns.index(column), column)


def read_points(path: Path) -> PointsFile:
    """Read and check a file.

    Raises:
        BadInput: with file, line, column and field, and what would be right there.
    """
    if path.exists() and not path.is_file():
        # Opening a pipe that nobody writes to would wait for ever.
        raise BadInput("is not a regular file", where=str(path))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise BadInput("is not a CSV file: it is not UTF-8 text", where=str(path)) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = _header(path, next(reader, []))
        rows = [
            _row(path, reader.line_num, columns, cells)
            for cells in reader
            if any(map(str.strip, cells))
        ]
    except csv.Error as error:
        raise BadInput(f"is not CSV: {error}", where=f"{path}:{reader.line_num}:1") from None
    if not rows:
        raise BadInput("has no rows", where=str(path), mend="write one load in each line")
    if len(rows) > MOST_ROWS:
        what = f"has {len(rows)} rows; at most {MOST_ROWS} are predicted at once"
        raise BadInput(what, where=str(path), mend="split the file")
    return PointsFile(path, columns, tuple(rows))


def _header(path: Path, cells: list[str]) -> tuple[str, ...]:
    columns = tuple(cell.strip() for cell in cells)
    needed = (*NAMES, *MOST)
    mend = f"the first line names the columns: {','.join(needed)}"
    if not any(columns):
        raise BadInput("is empty", where=str(path), mend=mend)
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise BadInput(f"has the column `{twice[0]:.{_SHOWN}}` twice", where=f"{path}:1:1")
    if missing := [name for name in needed if name not in columns]:
        noun = "column" if len(missing) == 1 else "columns"
        raise BadInput(f"lacks the {noun} {', '.join(missing)}", where=f"{path}:1:1", mend=mend)
    return columns


def _row(path: Path, line: int, columns: tuple[str, ...], raw: list[str]) -> PointRow:
    cells = tuple(cell.strip() for cell in raw)
    if len(cells) != len(columns):
        what = f"has {len(cells)} cells, and the first line names {len(columns)} columns"
        raise BadInput(what, where=f"{path}:{line}:1")
    by_name = dict(zip(columns, cells, strict=True))

    def refuse(column: str, what: str, mend: str = "") -> BadInput:
        place = _place(path, line, cells, columns.index(column), column)
        return BadInput(what, where=place, mend=mend)

    for column in NAMES:
        if not by_name[column]:
            raise refuse(column, "is empty")
    valid = [each.value for each in Precision]
    if by_name["precision"] not in valid:
        what = f"`{by_name['precision']:.{_SHOWN}}` is not a precision"
        raise refuse("precision", what, f"valid here: {', '.join(valid)}")
    numbers = {}
    for column, most in MOST.items():
        number, what = _whole(by_name[column], 1, most)
        if what:
            raise refuse(column, what)
        numbers[column] = number
    if by_name.get("ep"):
        number, what = _whole(by_name["ep"], 0, _MOST_EXPERT_PARALLEL)
        if what:
            raise refuse("ep", what)
        numbers |= {"ep": number} if number else {}
    return PointRow(
        line,
        cells,
        by_name["model"],
        by_name["gpu"],
        Precision(by_name["precision"]),
        numbers,
        by_name.get("backend", ""),
    )


def _whole(text: str, least: int, most: int) -> tuple[int, str]:
    """A whole number, or what is wrong with it."""
    try:
        value = float(text)
    except ValueError:
        return 0, f"`{text:.{_SHOWN}}` is not a number" if text else "is empty"
    if not math.isfinite(value):
        return 0, f"`{text:.{_SHOWN}}` is not a finite number"
    if value != int(value):
        return 0, f"`{text:.{_SHOWN}}` is not a whole number"
    if not least <= value <= most:
        return 0, f"`{text:.{_SHOWN}}` has to be from {least} to {most}"
    return int(value), ""


def _place(path: Path, line: int, cells: tuple[str, ...], index: int, column: str) -> str:
    """Where a cell stands; its column counts characters as they are when nothing is quoted."""
    before = sum(len(cell) + 1 for cell in cells[:index])
    return f"{path}:{line}:{before + 1}: {column}"
