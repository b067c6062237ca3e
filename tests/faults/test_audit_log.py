"""The audit log of processes that are killed, and of a disk that is full."""

import os
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from tests.audit import findings, records, times_recorded
from tests.conftest import Until

from gpufleet.edges.audit_files import OPEN, SEALED, segments
from gpufleet.edges.audit_log import AuditLog
from gpufleet.edges.workspace import PROJECT_ROOT

pytestmark = pytest.mark.faults
PROGRAM = [sys.executable, "-m", "tests.faults.audit_under_test"]
KILLS = 12
FULL = """
set -e
mount -t tmpfs -o size=2m tmpfs "$1"
mkdir "$1/audit"
"$2" -m tests.faults.audit_under_test full "$1/audit" "$1/wedge"
cp -a "$1/audit" "$3"
"""


def lines(file: Path) -> set[str]:
    return set(file.read_text().split()) if file.exists() else set()


def more_than(file: Path, count: int) -> bool:
    return len(lines(file)) > count


def test_processes_that_are_killed_lose_and_double_no_record(tmp_path: Path, until: Until) -> None:
    folder = tmp_path / "audit"
    begun, ended = folder.with_suffix(".begun"), folder.with_suffix(".ended")
    for _ in range(KILLS):
        before = len(lines(ended))
        running = subprocess.Popen([*PROGRAM, "forever", str(folder)], cwd=PROJECT_ROOT)
        try:
            until(partial(more_than, ended, before + 20))
            # The kill has to come at any moment of a write.
            time.sleep(random.uniform(0, 0.1))  # noqa: S311 - not for secrets
        finally:
            running.kill()
            running.wait()
        survivor = AuditLog(folder, "survivor")
        survivor.recover()
        survivor.close()
    found = times_recorded(folder)
    assert lines(begun) <= found.keys()
    assert set(found.values()) == {1}
    interrupted = {record.request_id for record in records(folder) if record.error}
    assert not interrupted & lines(ended)
    assert findings(folder) == []
    assert segments(folder, OPEN) == []
    assert len(segments(folder, SEALED)) > KILLS
    for file in folder.glob("*.intents"):
        assert file.name.startswith("survivor")


def test_two_that_recover_at_once_close_each_request_once(tmp_path: Path, until: Until) -> None:
    folder = tmp_path / "audit"
    running = subprocess.Popen([*PROGRAM, "forever", str(folder)], cwd=PROJECT_ROOT)
    until(lambda: lines(folder.with_suffix(".ended")))
    running.kill()
    running.wait()
    code = "import sys, pathlib; from gpufleet.edges.audit_recovery import recover; "
    code += "recover(pathlib.Path(sys.argv[1]))"
    others = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT / "modules")},
        )
        for _ in range(4)
    ]
    assert [other.wait() for other in others] == [0, 0, 0, 0]
    assert set(times_recorded(folder).values()) == {1}
    assert findings(folder) == []


def test_a_full_disk_shows_when_a_request_begins_and_never_when_it_ends(tmp_path: Path) -> None:
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL, "sh"]
    told = subprocess.run(
        [*enter, str(small), sys.executable, str(kept)],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "unshare failed" in told.stderr or "unshare: " in told.stderr:
        pytest.skip("this machine gives nobody a file system of their own")
    assert told.returncode == 0, told.stderr
    full, refused, ended, after = told.stdout.splitlines()
    assert (full, after) == ("full", "after")
    assert "No space left" in refused
    found = times_recorded(kept)
    assert found["in-flight"] == found["after"] == 1
    assert len(found) == int(ended.split()[1]) + 2
    [gap] = [record for record in records(kept) if record.route == "gap"]
    assert gap.reason.startswith("1 requests")
    assert findings(kept) == []
