"""Patches under kills: whatever is killed, they come to the same end, and do nothing twice."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.conftest import Until
from tests.contract.patch_site import NEW, OLD, Site, did, ground_in, order, versions, write_site

from gpufleet.core.journal import verify
from gpufleet.edges.playbooks import MARK, end_left
from gpufleet.flows import operations
from gpufleet.flows.ground import Ground
from gpufleet.flows.patch_plan import plan_patch
from gpufleet.flows.patch_requests import request_patch
from gpufleet.spec.errors import TargetMissed
from gpufleet.spec.patching import HostState

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
HOSTS = ["h100-001", "h100-002"]
Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Two hosts, in two waves."""
    write_site(tmp_path, hosts=2)
    yield tmp_path
    for batch in (tmp_path / ".fleet").glob("*/*/patches/*/*"):
        end_left(batch)


@pytest.fixture
def ground(folder: Path) -> Iterator[Ground]:
    """The environment as tasks see it."""
    made = ground_in(folder)
    site = Site(HOSTS)
    site.place(made)
    yield made
    site.stop()
    made.close()


@pytest.fixture
def spawn(folder: Path, until: Until) -> Iterator[Spawn]:
    """Starts a worker process, and waits until it works."""
    started: list[subprocess.Popen[bytes]] = []

    def start(kills: str = "") -> subprocess.Popen[bytes]:
        with (folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.contract.patch_worker", str(folder)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "GPUFLEET_TEST_KILLS": kills},
            )
        started.append(process)
        until(lambda: (folder / f"ready-{process.pid}").exists() or process.poll() is not None, 120)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def run_until_done(ground: Ground, flow: str, spawn: Spawn, until: Until, kills: str) -> int:
    """Start workers until the flow has ended; how many of them were killed."""
    killed = 0
    while True:
        worker = spawn(kills)
        until(lambda: worker.poll() is not None or ended(ground, flow), 120)  # noqa: B023 - at once
        if worker.poll() is None:
            return killed
        assert worker.returncode == -signal.SIGKILL
        killed += 1


def ended(ground: Ground, flow: str) -> bool:
    return operations.shown(ground, flow).state in {"done", "failed"}


def test_a_patch_killed_at_the_end_of_every_step_comes_to_the_same_end(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    flow = request_patch(ground, plan_patch(ground, order()), None)
    killed = run_until_done(ground, flow, spawn, until, ".")
    assert operations.attach(ground, flow, lambda _: None)["outcome"] == "done"
    assert killed == len(list((folder / "kills").iterdir())) > 20
    # A batch that had ended is read, and not run again.
    assert Counter(did(folder)) == {("change", host, NEW): 1 for host in HOSTS}
    assert versions(folder) == dict.fromkeys(HOSTS, NEW)
    report = ground.patches.report(flow)
    assert {outcome.state for outcome in report.hosts.values()} == {HostState.DONE}
    records = list(ground.journal.records())
    assert Counter(record.event for record in records if record.event.startswith("patch.")) == {
        "patch.requested": 1,
        "patch.wave_begun": 2,
        "patch.wave_ended": 2,
        "patch.ended": 1,
    }
    assert verify(records, (), ground.journal.heads()) == []


def test_a_patch_killed_at_the_end_of_every_step_is_rolled_back_all_the_same(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    plan = plan_patch(ground, order())
    canary = plan.waves[0].hosts[0]
    (folder / "faults" / f"{canary}-{NEW}-breaks").touch()
    flow = request_patch(ground, plan, None)
    run_until_done(ground, flow, spawn, until, "batch|told|recovered|ended")
    with pytest.raises(TargetMissed, match="nvidia-smi has failed"):
        operations.attach(ground, flow, lambda _: None)
    assert ground.patches.report(flow).outcome == "rolled-back"
    assert did(folder) == [("change", canary, NEW), ("rollback", canary, OLD)]
    assert versions(folder) == dict.fromkeys(HOSTS, OLD)


def test_a_worker_killed_while_a_playbook_runs_leaves_it_to_the_next(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    plan = plan_patch(ground, order())
    canary = plan.waves[0].hosts[0]
    waits = folder / "faults" / f"{canary}-{NEW}-waits"
    waits.touch()
    flow = request_patch(ground, plan, None)
    first = spawn()
    until(lambda: did(folder), 120)
    first.kill()
    first.wait()
    spawn()
    until(lambda: operations.shown(ground, flow).step.startswith("wave 1 batch 1: running"), 120)
    waits.unlink()
    assert operations.attach(ground, flow, lambda _: None)["outcome"] == "done"
    assert Counter(did(folder)) == {("change", host, NEW): 1 for host in HOSTS}


def test_a_playbook_killed_with_its_worker_is_run_again(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    plan = plan_patch(ground, order())
    canary = plan.waves[0].hosts[0]
    waits = folder / "faults" / f"{canary}-{NEW}-waits"
    waits.touch()
    flow = request_patch(ground, plan, None)
    first = spawn()
    until(lambda: did(folder), 120)
    first.kill()
    first.wait()
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(str(folder)):
                process.kill()
        except psutil.Error:
            continue
    waits.unlink()
    spawn()
    assert operations.attach(ground, flow, lambda _: None)["outcome"] == "done"
    assert Counter(did(folder))["change", canary, NEW] >= 1
    assert versions(folder) == dict.fromkeys(HOSTS, NEW)
