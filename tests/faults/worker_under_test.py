"""A worker with small flows, that a test kills: `python -m tests.faults.worker_under_test FOLDER`.

Each flow writes what it does to `FOLDER/did`, one line each, so that a test sees what was done how
often, whatever the database says.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from tests.conftest import small_fleet

from gpufleet.edges.clock import clock_of
from gpufleet.edges.database import open_database
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows import durable
from gpufleet.flows.durable import Host, Run, flow
from gpufleet.flows.ground import Ground
from gpufleet.spec.errors import Failed, Retryable

STEPS = 4


def ground_in(folder: Path) -> Ground:
    """The environment whose state is in a folder."""
    state = EnvironmentDir(folder).make()
    database = open_database(state)
    database.migrate()
    clock = clock_of(state, simulated=True)
    workspace = Workspace(PROJECT_ROOT)
    return Ground(workspace, folder / "fleet.yaml", small_fleet("solo"), state, database, clock)


def did(folder: Path, what: str) -> None:
    """Say on disk what was done."""
    with (folder / "did").open("a") as file:
        file.write(f"{what}\n")


@flow("steps")
def steps(run: Run, order: dict[str, Any]) -> dict[str, JsonValue]:
    """A few steps, with a lease; kills its own process where the order says so, once for each."""
    folder = run.ground.state.root
    run.note("steps.begun")
    with run.holding("target", within=timedelta(minutes=1)) as fence:
        tokens: list[JsonValue] = [fence.token]
        for number in range(STEPS):
            run.step(f"step {number}", _dying(folder, f"step {number}", order))
            _die_at(folder, f"after step {number}", order)
    run.note("steps.done")
    return {"tokens": tokens}


@flow("patient")
def patient(run: Run, order: dict[str, Any]) -> dict[str, JsonValue]:
    """Waits until a file is there, or too long."""
    file = run.ground.state.root / "come"
    run.wait(
        "file",
        lambda: "" if file.exists() else "the file",
        within=timedelta(seconds=order["within_s"]),
        late=lambda: Failed("the file has not come"),
    )
    return {}


@flow("flaky")
def flaky(run: Run, order: dict[str, Any]) -> dict[str, JsonValue]:
    """A step that fails a few times, as a service does that is restarted."""
    folder = run.ground.state.root

    def work() -> str:
        did(folder, "try")
        tries = (folder / "did").read_text().count("try")
        if tries <= order["failures"]:
            raise Retryable("503", where="a service")
        return "through"

    return {"answer": run.step("try", work)}


@flow("unlucky")
def unlucky(run: Run, order: dict[str, Any]) -> dict[str, JsonValue]:
    """Fails in a way that nobody foresaw."""
    del order
    run.step("divide", lambda: 1 // 0)
    return {}


@flow("slow")
def slow(run: Run, order: dict[str, Any]) -> dict[str, JsonValue]:
    """One step that takes until a file is there, then another."""
    del order
    folder = run.ground.state.root

    def work() -> None:
        did(folder, f"begun by {os.getpid()}")
        while not (folder / "come").exists():
            time.sleep(0.05)

    with run.holding("target", within=timedelta(minutes=1)):
        run.step("long", work)
        run.step("next", lambda: did(folder, f"next by {os.getpid()}"))
    return {}


def _dying(folder: Path, name: str, order: dict[str, Any]) -> Callable[[], None]:
    def work() -> None:
        _die_at(folder, f"before {name}", order)
        did(folder, name)
        _die_at(folder, f"in {name}", order)

    return work


def _die_at(folder: Path, point: str, order: dict[str, Any]) -> None:
    if point in order.get("kills", []) and not (folder / point).exists():
        (folder / point).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path) -> None:
    """Work until killed."""
    if version := os.environ.get("TEST_CODE_VERSION"):
        vars(durable)["code_version"] = lambda: version
    ground = ground_in(folder)
    host = Host(ground, f"w-{os.getpid()}")
    host.start()
    (folder / f"ready-{os.getpid()}").touch()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    while not ended.wait(0.1):
        host.adopt()
    host.stop()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
