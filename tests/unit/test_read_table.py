"""What was read of sources: only a saving, never in the way."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gpufleet.edges.snapshots.read_table import ReadPart, ReadTable
from gpufleet.edges.snapshots.source import Identity
from gpufleet.spec.errors import Retryable

PART = ReadPart(Path("/m/weights"), Identity(1, 2, 3, 4), 0, 2, "c")


def test_what_was_kept_is_known_until_the_file_is_another(tmp_path: Path) -> None:
    table = ReadTable(tmp_path / "read.db", "store")
    table.keep([PART])
    assert table.known(PART.path, PART.identity) == {(0, 2): "c"}
    assert table.known(PART.path, PART.identity._replace(changed_ns=5)) == {}
    table.close()


def test_a_table_that_fails_costs_a_reading_and_no_more(tmp_path: Path) -> None:
    table = ReadTable(tmp_path / "read.db", "store")
    table.keep([PART])
    with closing(sqlite3.connect(tmp_path / "read.db")) as other:
        other.execute("DROP TABLE parts")
    table.keep([PART])
    assert table.known(PART.path, PART.identity) == {}
    table.close()


def test_a_damaged_table_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "read.db").write_bytes(b"no database" * 1000)
    table = ReadTable(tmp_path / "read.db", "store")
    table.keep([PART])
    assert table.known(PART.path, PART.identity) == {(0, 2): "c"}
    table.close()


def test_a_table_that_cannot_be_opened_is_told_and_left(tmp_path: Path) -> None:
    (tmp_path / "read.db").mkdir()
    with pytest.raises(Retryable, match="cannot be made"):
        ReadTable(tmp_path / "read.db", "store")
    assert (tmp_path / "read.db").is_dir()
