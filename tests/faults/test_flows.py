"""Flows under kills, cancels, lost databases and other versions, with real worker processes."""

import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Until
from tests.faults.worker_under_test import STEPS, ground_in
from tests.postgresql import Server

from gpufleet.core.journal import verify
from gpufleet.flows import operations
from gpufleet.flows.ground import Ground
from gpufleet.spec.errors import BadInput, Failed, FleetError

pytestmark = pytest.mark.faults
ROOT = Path(__file__).resolve().parents[2]
Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(params=["sqlite", "postgresql"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state of an environment, on each kind of database."""
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.delenv("GPUFLEET_DATABASE_URL", raising=False)
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgresql")
        url = server.new_database(f"flows-{uuid.uuid4().hex[:12]}")
        (state / "database.url").write_text(url)
    return state


@pytest.fixture
def ground(folder: Path) -> Iterator[Ground]:
    """The environment as tasks see it."""
    made = ground_in(folder)
    yield made
    made.close()


@pytest.fixture
def spawn(folder: Path, until: Until) -> Iterator[Spawn]:
    """Starts a worker process, and waits until it works."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**variables: str) -> subprocess.Popen[bytes]:
        log = (folder / "worker.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.worker_under_test", str(folder)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **variables},
        )
        started.append(process)
        until((folder / f"ready-{process.pid}").exists)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def submit(ground: Ground, kind: str, **order: Any) -> str:  # noqa: ANN401 - JSON
    flow = f"{kind}-{uuid.uuid4().hex[:8]}"
    operations.submit(ground, kind, flow, {"actor": "test", **order})
    return flow


def lines(folder: Path) -> list[str]:
    file = folder / "did"
    return file.read_text().splitlines() if file.exists() else []


def state_of(ground: Ground, flow: str) -> str:
    return operations.shown(ground, flow).state


POINTS = [
    point
    for number in range(STEPS)
    for point in (f"before step {number}", f"in step {number}", f"after step {number}")
]


def test_a_flow_survives_a_kill_at_every_point_of_every_step(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    flow = submit(ground, "steps", kills=POINTS)
    for _ in POINTS:
        assert spawn().wait(60) == -signal.SIGKILL
    spawn()
    assert operations.attach(ground, flow, lambda _: None) == {"tokens": [len(POINTS) + 1]}
    counts = Counter(lines(folder))
    # Cut short while nobody had recorded it, a step is done again; once recorded, never.
    assert counts == {f"step {number}": 2 for number in range(STEPS)}
    records = list(ground.journal.records())
    assert [record.event for record in records] == ["steps.begun", "steps.done"]
    assert verify(records, (), ground.journal.heads()) == []
    assert ground.leases.held() == [] or all(
        lease.target.startswith("executor:") for lease in ground.leases.held()
    )
    until(lambda: state_of(ground, flow) == "done")


def test_two_workers_do_each_flow_once(ground: Ground, folder: Path, spawn: Spawn) -> None:
    flows = [submit(ground, "steps") for _ in range(3)]
    spawn()
    spawn()
    for flow in flows:
        operations.attach(ground, flow, lambda _: None)
    assert Counter(lines(folder)) == {f"step {number}": 3 for number in range(STEPS)}


def test_a_worker_that_only_seemed_dead_does_not_do_one_step_more(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    frozen = spawn()
    flow = submit(ground, "slow")
    until(lambda: lines(folder))
    frozen.send_signal(signal.SIGSTOP)
    # Half an hour passes: the lease of the frozen worker has run out.
    (folder / "clock-offset").write_text("1800")
    taker = spawn()
    until(lambda: f"begun by {taker.pid}" in lines(folder))
    frozen.send_signal(signal.SIGCONT)
    (folder / "come").touch()
    assert frozen.wait(60) == 4
    operations.attach(ground, flow, lambda _: None)
    assert lines(folder)[-1] == f"next by {taker.pid}"
    assert f"next by {frozen.pid}" not in lines(folder)


def test_a_stopped_worker_leaves_its_flow_to_the_next(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    first = spawn()
    flow = submit(ground, "slow")
    until(lambda: lines(folder))
    first.terminate()
    assert first.wait(60) == 0
    spawn()
    (folder / "come").touch()
    assert operations.attach(ground, flow, lambda _: None) == {}


def test_another_version_of_the_code_does_not_replay_a_flow(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    old = spawn()
    flow = submit(ground, "slow")
    until(lambda: lines(folder))
    old.kill()
    old.wait()
    spawn(TEST_CODE_VERSION="another")
    (folder / "come").touch()
    other = submit(ground, "steps")
    assert state_of(ground, other) == "queued"
    assert len(lines(folder)) == 1
    spawn()
    assert operations.attach(ground, flow, lambda _: None) == {}


def test_a_flow_of_another_version_is_told_as_refused(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = submit(ground, "steps")
    monkeypatch.setattr(operations, "code_version", lambda: "another")
    assert state_of(ground, flow) == operations.REFUSED
    with pytest.raises(Failed, match="another version of the code"):
        operations.attach(ground, flow, lambda _: None)


def test_a_waiting_flow_waits_by_the_environments_clock(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    spawn()
    flow = submit(ground, "patient", within_s=86400)
    until(lambda: operations.shown(ground, flow).step == "file: waiting, the file")
    (folder / "clock-offset").write_text("90000")
    with pytest.raises(Failed, match="the file has not come"):
        operations.attach(ground, flow, lambda _: None)


def test_a_clock_that_jumps_back_only_makes_a_flow_wait_longer(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    (folder / "clock-offset").write_text("7200")
    spawn()
    flow = submit(ground, "patient", within_s=3600)
    until(lambda: operations.shown(ground, flow).step == "file: waiting, the file")
    (folder / "clock-offset").write_text("0")
    (folder / "come").touch()
    assert operations.attach(ground, flow, lambda _: None) == {}


def test_a_killed_worker_keeps_the_deadline_of_a_waiting_flow(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    first = spawn()
    flow = submit(ground, "patient", within_s=3600)
    until(lambda: operations.shown(ground, flow).step == "file: waiting, the file")
    first.kill()
    first.wait()
    (folder / "clock-offset").write_text("3700")
    spawn()
    with pytest.raises(Failed, match="the file has not come"):
        operations.attach(ground, flow, lambda _: None)


def test_a_cancelled_flow_ends_and_a_resumed_one_goes_on(
    ground: Ground, folder: Path, spawn: Spawn, until: Until
) -> None:
    spawn()
    flow = submit(ground, "patient", within_s=3600)
    until(lambda: operations.shown(ground, flow).step == "file: waiting, the file")
    assert operations.cancel(ground, flow).state == "cancelled"
    with pytest.raises(Failed, match="was cancelled"):
        operations.attach(ground, flow, lambda _: None)
    with pytest.raises(BadInput, match="has ended"):
        operations.cancel(ground, flow)
    (folder / "come").touch()
    operations.resume(ground, flow)
    assert operations.attach(ground, flow, lambda _: None) == {}
    with pytest.raises(BadInput, match="was not cancelled"):
        operations.resume(ground, flow)


def test_what_passes_by_itself_is_tried_again(ground: Ground, folder: Path, spawn: Spawn) -> None:
    spawn()
    flow = submit(ground, "flaky", failures=2)
    assert operations.attach(ground, flow, lambda _: None) == {"answer": "through"}
    assert lines(folder) == ["try"] * 3


def test_a_fault_that_nobody_foresaw_is_one_error_for_whoever_is_attached(
    ground: Ground, folder: Path, spawn: Spawn
) -> None:
    spawn()
    flow = submit(ground, "unlucky")
    with pytest.raises(FleetError, match="ZeroDivisionError"):
        operations.attach(ground, flow, lambda _: None)
    assert state_of(ground, flow) == "failed"
    assert "ZeroDivisionError" in (folder / "worker.log").read_text()


def test_submitting_the_same_flow_twice_runs_it_once(
    ground: Ground, folder: Path, spawn: Spawn
) -> None:
    flow = submit(ground, "steps")
    operations.submit(ground, "steps", flow, {"actor": "test"})
    spawn()
    operations.attach(ground, flow, lambda _: None)
    assert Counter(lines(folder)) == {f"step {number}": 1 for number in range(STEPS)}


def test_an_unknown_flow_is_bad_input(ground: Ground, spawn: Spawn) -> None:
    spawn()
    with pytest.raises(BadInput, match="there is no such flow"):
        operations.shown(ground, "change-0")


def test_a_flow_goes_on_when_a_killed_postgresql_is_back(
    postgresql: Server, tmp_path: Path, until: Until, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "database.url").write_text(postgresql.new_database(f"down-{uuid.uuid4().hex[:8]}"))
    ground = ground_in(folder)
    request.addfinalizer(ground.close)
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.worker_under_test", str(folder)],
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    request.addfinalizer(worker.wait)
    request.addfinalizer(worker.kill)
    flow = submit(ground, "slow")
    until(lambda: lines(folder))
    postgresql.kill()
    (folder / "come").touch()
    postgresql.start()
    assert operations.attach(ground, flow, lambda _: None) == {}
    assert worker.poll() is None
    assert [line.split()[0] for line in lines(folder)] == ["begun", "next"]
