"""What a restore has written reaches the disk before it counts, many files at a time."""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gpufleet.edges.snapshots import unsynced
from gpufleet.edges.snapshots.unsynced import MOST, Unsynced

Opened = Callable[[int], list[int]]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Opens new files with a few bytes in each."""

    def make(count: int) -> list[int]:
        found = []
        for number in range(count):
            fd = os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT)
            os.write(fd, b"weights")
            found.append(fd)
        return found

    return make


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors that were synced."""
    found: list[int] = []
    undisturbed = os.fsync

    def fsync(fd: int) -> None:
        undisturbed(fd)
        found.append(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_every_file_is_synced_and_closed(opened: Opened, synced: list[int]) -> None:
    held, files = Unsynced(), opened(5)
    for fd in files:
        held.add(fd)
    assert synced == []
    held.sync()
    assert synced == files
    assert not any(map(is_open, files))


def test_no_more_descriptors_are_held_than_a_process_may_have(
    opened: Opened, synced: list[int]
) -> None:
    held = Unsynced()
    for fd in opened(MOST):
        held.add(fd)
    assert len(synced) == MOST


def test_a_disk_that_does_not_take_it_is_told_and_nothing_stays_open(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    held, files = Unsynced(), opened(3)
    for fd in files:
        held.add(fd)
    with pytest.raises(OSError, match="full"):
        held.sync()
    assert not any(map(is_open, files))


def test_a_write_that_failed_before_is_told_though_the_sync_after_it_succeeds(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        """The kernel, which tells of it once."""

        @staticmethod
        def sync_file_range(*_: object) -> int:
            ctypes.set_errno(errno.EIO)
            return -1

    monkeypatch.setattr(unsynced, "_libc", Failing)
    held, files = Unsynced(), opened(2)
    for fd in files:
        held.add(fd)
    with pytest.raises(OSError, match="Input/output error"):
        held.sync()
    assert not any(map(is_open, files))


def test_what_is_not_to_be_kept_is_closed(opened: Opened, synced: list[int]) -> None:
    held, files = Unsynced(), opened(3)
    for fd in files:
        held.add(fd)
    held.drop()
    assert synced == []
    assert not any(map(is_open, files))
