"""Patches on a controller whose disk is full: told clearly, nothing half done, and gone on with."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import Until
from tests.contract.patch_runs import (  # noqa: F401 - a fixture
    Flow,
    environment,
    first_wave,
    states,
    steps,
    told,
)
from tests.contract.patch_site import (
    NEW,
    OLD,
    did,
    order,
    versions,
    write_site,
)
from tests.playbooks import PLAYBOOKS, run_playbook

from gpufleet.edges.workspace import Workspace
from gpufleet.flows.ground import Ground
from gpufleet.flows.patch_plan import plan_patch
from gpufleet.spec.patching import HostState

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300)]
HOSTS = ["h100-001", "h100-002"]


@dataclass(frozen=True)
class Disk:
    """A small file system."""

    path: Path

    def fill(self) -> None:
        """Leave no byte of it."""
        with (self.path / "wedge").open("wb", buffering=0) as wedge:
            for size in (65536, 1):
                try:
                    while True:
                        wedge.write(b"x" * size)
                except OSError:
                    continue

    def empty(self) -> None:
        """Give the space back."""
        (self.path / "wedge").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of its own below the environment's folder."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system that is small")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)], check=True)
    yield Disk(path)
    # Whoever still has a file open there keeps it from nobody else.
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def ground(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """Two hosts; what playbooks leave is on the small disk, the database is not."""
    monkeypatch.setenv("GPUFLEET_DATABASE_URL", f"sqlite:///{tmp_path / 'fleet.db'}")
    with environment(tmp_path, HOSTS) as made:
        made.state.patches.parent.mkdir(parents=True, exist_ok=True)
        made.state.patches.symlink_to(disk.path)
        yield made


def test_a_batch_that_cannot_be_written_down_is_not_begun_and_begins_once_there_is_room(
    ground: Ground, tmp_path: Path, disk: Disk, until: Until
) -> None:
    plan = plan_patch(ground, order())
    disk.fill()
    flow = Flow(ground, plan.model_copy(update=first_wave(plan)))
    until(lambda: "No space left on device" in told(ground, "wave 1 batch 1"), 120)
    assert did(tmp_path) == []
    assert set(versions(tmp_path).values()) == {OLD}
    disk.empty()
    report = flow.end()
    assert report.outcome == "done"
    assert did(tmp_path) == [("change", plan.waves[0].hosts[0], NEW)]


def test_a_batch_whose_story_is_cut_short_is_brought_back(
    ground: Ground, tmp_path: Path, disk: Disk, until: Until
) -> None:
    plan = plan_patch(ground, order())
    canary = plan.waves[0].hosts[0]
    waits = tmp_path / "faults" / f"{canary}-{NEW}-waits"
    waits.touch()
    flow = Flow(ground, plan)
    until(lambda: did(tmp_path), 120)
    disk.fill()
    waits.unlink()
    back = f"wave 1 batch 1: back to {OLD}"
    until(lambda: "No space left on device" in told(ground, back), 120)
    disk.empty()
    report = flow.end()
    assert report.outcome == "rolled-back"
    assert states(report) == {canary: HostState.ROLLED_BACK}
    assert set(versions(tmp_path).values()) == {OLD}


def test_a_playbook_by_hand_is_refused_before_it_touches_anything(
    tmp_path: Path, disk: Disk
) -> None:
    file = write_site(tmp_path, hosts=2, fleet="full-disk")
    database = {"GPUFLEET_DATABASE_URL": f"sqlite:///{disk.path / 'fleet.db'}"}
    guard, hosts = PLAYBOOKS / "_guard.yml", ("--limit", HOSTS[0])
    try:
        assert run_playbook(file, guard, *hosts, "--check", variables=database).code == 0
        disk.fill()
        refused = run_playbook(file, guard, *hosts, variables=database)
        assert refused.code != 0
        # SQLite tells a disk without a byte left as an error of reading, or as full.
        assert "fleet.db" in refused.messages
        disk.empty()
        passed = run_playbook(file, guard, *hosts, variables=database)
        assert passed.code == 0, passed.messages
    finally:
        shutil.rmtree(Workspace.here().state / "full-disk", ignore_errors=True)
