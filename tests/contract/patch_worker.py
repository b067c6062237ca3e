"""A worker that patches, and that a test kills: `python -m tests.contract.patch_worker FOLDER`.

It kills itself at the end of each step, before anybody has recorded it, and in each wait, once for
each of them; only where their name matches a pattern. A wait is named `during NAME`.

`start` forks it from a process that has loaded everything: a test kills dozens of them.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.contract.patch_site import ground_in

from gpufleet.edges.code_version import code_version
from gpufleet.flows import patching  # noqa: F401 - importing a flow declares it
from gpufleet.flows.durable import PATIENCE, Host, Run

T = TypeVar("T")
plain_step = Run.step
plain_wait = Run.wait
_forks: Final = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([__name__])
# Once for all of them.
code_version()


def start(folder: Path, kills: str = "") -> ForkServerProcess:
    """A worker in a process of its own, which kills itself where `kills` matches."""
    process = _forks.Process(target=_logged, args=(folder, kills), daemon=True)
    process.start()
    return process


def work(folder: Path, kills: str = "") -> None:
    """Work until killed."""
    points = folder / "kills"
    points.mkdir(exist_ok=True)

    def die(name: str) -> None:
        point = points / re.sub(r"\W+", "-", name)
        if kills and re.search(kills, name) and not point.exists():
            point.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def step(run: Run, name: str, work: Callable[[], T], *, patience: timedelta = PATIENCE) -> T:
        def dying() -> T:
            result = work()
            die(name)
            return result

        return plain_step(run, name, dying, patience=patience)

    def wait(run: Run, name: str, look: Callable[[], str], **given: Any) -> None:  # noqa: ANN401
        def dying() -> str:
            if said := look():
                die(f"during {name}")
            return said

        plain_wait(run, name, dying, **given)

    # The type checker knows one step and one wait only.
    setattr(Run, "step", step)  # noqa: B010
    setattr(Run, "wait", wait)  # noqa: B010
    host = Host(ground_in(folder), f"w-{os.getpid()}")
    host.start()
    (folder / f"ready-{os.getpid()}").touch()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    while not ended.wait(0.1):
        host.adopt()
    host.stop()
    os._exit(0)


def _logged(folder: Path, kills: str) -> None:
    log = os.open(folder / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for output in (1, 2):
        os.dup2(log, output)
    work(folder, kills)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
