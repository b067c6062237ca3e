"""State files: whole or not at all, for their owner only."""

import errno
import os
import stat
from pathlib import Path

import pytest

from gpufleet.local.files import read_json, remove_older, write_json, write_private
from gpufleet.spec.errors import Retryable


def test_files_and_their_new_folders_are_private(tmp_path: Path) -> None:
    file = tmp_path / "site" / "secret"
    assert write_private(file, "x")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_writing_the_same_again_is_no_change(tmp_path: Path) -> None:
    file = tmp_path / "kept"
    write_private(file, "x")
    before = file.stat()
    assert not write_private(file, "x")
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert write_private(file, "y")


def test_a_full_disk_is_one_clear_error_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "state.json"
    write_json(file, {"kept": 1})

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Retryable, match="the disk is full") as error:
        write_json(file, {"kept": 2})
    assert error.value.where == str(file)
    assert read_json(file) == {"kept": 1}
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("content", [None, "", '{"cut": '])
def test_a_missing_or_cut_file_reads_as_nothing(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "state.json"
    if content is not None:
        file.write_text(content)
    assert read_json(file) is None


def test_only_files_that_are_old_enough_are_swept(tmp_path: Path) -> None:
    left, used, other = (tmp_path / name for name in ("exempt-1.k", "exempt-2.k", "other.k"))
    for file in (left, used, other):
        write_private(file, "x")
    for file in (left, other):
        os.utime(file, (0, 0))
    remove_older(tmp_path, "exempt-*.k", 3600)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["exempt-2.k", "other.k"]
