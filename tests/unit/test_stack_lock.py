"""A stack's lock is released when its update is dead, and only then."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpufleet.edges.stack_lock import release_dead_lock
from gpufleet.spec.errors import Retryable


@pytest.fixture
def update(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A living process that is called pulumi, at work in the folder of a program."""
    program = tmp_path / "stacks" / "pools"
    program.mkdir(parents=True)
    sleep = shutil.which("sleep")
    assert sleep is not None
    binary = tmp_path / "pulumi"
    shutil.copy2(sleep, binary)
    process = subprocess.Popen([binary, "60"], cwd=program)
    yield process
    process.kill()
    process.wait()


def locked(tmp_path: Path, pid: int, host: str = "") -> Path:
    """A folder with the lock of a process."""
    folder = tmp_path / "locks"
    folder.mkdir()
    content = {
        "pid": pid,
        "username": "ada",
        "hostname": host or os.uname().nodename,
        "timestamp": "2026-03-01T12:00:00Z",
    }
    (folder / "lock.json").write_text(json.dumps(content))
    return folder


def release(folder: Path, program: Path) -> bool:
    return release_dead_lock(folder, program, shown="pools fra1", cancel="`pulumi cancel`")


def test_the_lock_of_a_living_update_stays(update: subprocess.Popen[bytes], tmp_path: Path) -> None:
    folder = locked(tmp_path, update.pid)
    with pytest.raises(Retryable, match=f"process {update.pid} of ada"):
        release(folder, tmp_path / "stacks" / "pools")
    assert list(folder.glob("*.json"))


def test_a_process_id_that_another_stack_s_update_was_given_holds_nothing(
    update: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    folder = locked(tmp_path, update.pid)
    assert release(folder, tmp_path / "elsewhere" / "stacks" / "pools")
    assert not list(folder.glob("*.json"))


def test_the_lock_of_a_dead_update_is_released(
    update: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    update.kill()
    update.wait()
    folder = locked(tmp_path, update.pid)
    assert release(folder, tmp_path / "stacks" / "pools")


def test_the_lock_of_another_machine_stays(tmp_path: Path) -> None:
    folder = locked(tmp_path, 1, host="elsewhere")
    with pytest.raises(Retryable, match="ada on elsewhere"):
        release(folder, tmp_path)
