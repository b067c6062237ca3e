"""Patches under kills: whatever is killed, they come to the same end, and do nothing twice."""

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Self

import psutil
import pytest
from tests.conftest import Until
from tests.contract.patch_runs import environment, skip_soak
from tests.contract.patch_site import (
    NEW,
    OLD,
    did,
    order,
    versions,
    write_playbooks,
)
from tests.contract.patch_worker import start

from gpufleet.core.journal import verify
from gpufleet.edges.playbooks import MARK, end_left
from gpufleet.flows import operations
from gpufleet.flows.ground import Ground
from gpufleet.flows.patch_plan import plan_patch
from gpufleet.flows.patch_requests import go_on, pause, request_patch
from gpufleet.spec.errors import TargetMissed
from gpufleet.spec.patching import HostState

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]
HOSTS = ["h100-001", "h100-002"]
Spawn = Callable[..., ForkServerProcess]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where everything of a test is."""
    return tmp_path


@pytest.fixture
def ground(folder: Path) -> Iterator[Ground]:
    """Two hosts, in two waves, as tasks see them."""
    with environment(folder, HOSTS) as made:
        yield made
        for batch in made.state.patches.glob("*/*"):
            end_left(batch)


@pytest.fixture
def spawn(folder: Path, until: Until) -> Iterator[Spawn]:
    """Starts a worker process, and waits until it works."""
    started: list[ForkServerProcess] = []

    def begin(kills: str = "") -> ForkServerProcess:
        process = start(folder, kills)
        started.append(process)
        until(lambda: (folder / f"ready-{process.pid}").exists() or not process.is_alive(), 120)
        return process

    yield begin
    for process in started:
        process.kill()
        process.join()


def run_until(over: Callable[[], bool], spawn: Spawn, until: Until, kills: str) -> None:
    """Start workers, one after the other is killed, until something is so."""
    while True:
        worker = spawn(kills)
        until(lambda: not worker.is_alive() or over(), 120)  # noqa: B023 - at once
        if over():
            return
        worker.join()
        assert worker.exitcode == -signal.SIGKILL


@dataclass(frozen=True)
class Held:
    """A patch whose first host waits in its playbook."""

    flow: str
    canary: str
    waits: Path
    worker: ForkServerProcess

    @classmethod
    def begin(cls, ground: Ground, folder: Path, spawn: Spawn, until: Until) -> Self:
        plan = plan_patch(ground, order())
        canary = plan.waves[0].hosts[0]
        waits = folder / "faults" / f"{canary}-{NEW}-waits"
        waits.touch()
        held = cls(request_patch(ground, plan, None), canary, waits, spawn())
        until(lambda: did(folder), 120)
        return held

    def kill(self) -> None:
        self.worker.kill()
        self.worker.join()


def ended(ground: Ground, flow: str) -> bool:
    return operations.shown(ground, flow).state in {"done", "failed"}


def test_a_patch_killed_at_every_step_and_in_every_wait_comes_to_the_same_end(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    flow = request_patch(ground, plan_patch(ground, order(soak_s=600)), None)
    points = folder / "kills"
    for wave in (1, 2):
        run_until((points / f"during-wave-{wave}-soak").exists, spawn, until, ".")
        skip_soak(ground)
    run_until(lambda: ended(ground, flow), spawn, until, ".")
    assert operations.attach(ground, flow, lambda _: None)["outcome"] == "done"
    assert len(list(points.iterdir())) > 25
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


@pytest.mark.parametrize("fate", ["returns", "stays-broken", "is-away"])
def test_a_patch_that_breaks_and_is_killed_at_every_step_ends_as_without_kills(
    ground: Ground, folder: Path, spawn: Spawn, until: Until, fate: str
) -> None:
    plan = plan_patch(ground, order())
    canary = plan.waves[0].hosts[0]
    if fate == "is-away":
        write_playbooks(folder, HOSTS, away=(canary,))
    for version in {"returns": [NEW], "stays-broken": [NEW, OLD]}.get(fate, []):
        (folder / "faults" / f"{canary}-{version}-breaks").touch()
    flow = request_patch(ground, plan, None)
    # What comes before the batch is what every patch begins with.
    run_until(lambda: ended(ground, flow), spawn, until, "^wave 1 batch 1|told|recovered|ended")
    with pytest.raises(TargetMissed, match=canary):
        operations.attach(ground, flow, lambda _: None)
    report = ground.patches.report(flow)
    killed_in = {each.name for each in (folder / "kills").iterdir()}
    if fate == "is-away":
        assert did(folder) == [("quarantine", canary, NEW)]
        assert "wave-1-batch-1-quarantine" in killed_in
    else:
        assert did(folder) == [("change", canary, NEW), ("rollback", canary, OLD)]
        assert any(name.startswith("wave-1-batch-1-back-to") for name in killed_in)
    if fate == "returns":
        assert report.outcome == "rolled-back"
        assert versions(folder)[canary] == OLD
    else:
        assert report.hosts[canary].state is HostState.QUARANTINED
    others = [host for host in HOSTS if host != canary]
    assert {versions(folder)[host] for host in others} == {OLD}


def test_a_patch_killed_while_it_is_paused_holds_until_it_may_go_on(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    held = Held.begin(ground, folder, spawn, until)
    flow, canary = held.flow, held.canary
    [last] = [host for host in HOSTS if host != canary]
    pause(ground, flow)
    held.kill()
    held.waits.unlink()
    point = folder / "kills" / "during-window-wave-2-batch-1"
    # Killed in the pause itself; whoever comes next finds it paused still.
    run_until(point.exists, spawn, until, "during window")
    run_until(
        lambda: ground.patches.report(flow).outcome == "paused", spawn, until, "during window"
    )
    assert did(folder) == [("change", canary, NEW)]
    go_on(ground, flow)
    run_until(lambda: ended(ground, flow), spawn, until, "window")
    assert operations.attach(ground, flow, lambda _: None)["outcome"] == "done"
    assert did(folder) == [("change", canary, NEW), ("change", last, NEW)]
    [told] = ground.patches.report(flow).held
    assert told.startswith("window: wave 2 batch 1: paused by ")
    assert " until " in told


def test_a_worker_killed_while_a_playbook_runs_leaves_it_to_the_next(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    held = Held.begin(ground, folder, spawn, until)
    held.kill()
    spawn()
    runs = "wave 1 batch 1: running"
    until(lambda: operations.shown(ground, held.flow).step.startswith(runs), 120)
    held.waits.unlink()
    assert operations.attach(ground, held.flow, lambda _: None)["outcome"] == "done"
    assert Counter(did(folder)) == {("change", host, NEW): 1 for host in HOSTS}


def test_a_playbook_killed_with_its_worker_is_run_again(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    held = Held.begin(ground, folder, spawn, until)
    held.kill()
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(str(folder)):
                process.kill()
        except psutil.Error:
            continue
    held.waits.unlink()
    spawn()
    assert operations.attach(ground, held.flow, lambda _: None)["outcome"] == "done"
    assert Counter(did(folder))["change", held.canary, NEW] >= 1
    assert versions(folder) == dict.fromkeys(HOSTS, NEW)
