"""A worker that patches, and that a test kills: `python -m tests.contract.patch_worker FOLDER`.

It kills itself at the end of each step, before anybody has recorded it, once for each step: with
`GPUFLEET_TEST_KILLS` only at steps whose name it matches.
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from tests.contract.patch_site import ground_in

from gpufleet.flows import patching  # noqa: F401 - importing a flow declares it
from gpufleet.flows.durable import PATIENCE, Host, Run

T = TypeVar("T")
KILLS = os.environ.get("GPUFLEET_TEST_KILLS", "")
plain_step = Run.step


def main(folder: Path) -> None:
    """Work until killed."""
    points = folder / "kills"
    points.mkdir(exist_ok=True)

    def step(run: Run, name: str, work: Callable[[], T], *, patience: timedelta = PATIENCE) -> T:
        def dying() -> T:
            result = work()
            point = points / re.sub(r"\W+", "-", name)
            if KILLS and re.search(KILLS, name) and not point.exists():
                point.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return plain_step(run, name, dying, patience=patience)

    setattr(Run, "step", step)  # noqa: B010 - the type checker knows one step only
    host = Host(ground_in(folder), f"w-{os.getpid()}")
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
