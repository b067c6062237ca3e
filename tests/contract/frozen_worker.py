"""A worker of a frozen environment: `python -m tests.contract.frozen_worker FOLDER`.

The clock is the file `now` in the folder, so that a test moves it.
"""

import os
import signal
import sys
import threading
from datetime import datetime
from pathlib import Path

from gpufleet.edges.database import open_database
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows import change  # noqa: F401 - importing a flow declares it
from gpufleet.flows.durable import Host
from gpufleet.flows.ground import Ground
from gpufleet.spec import load_fleet


def ground_in(folder: Path) -> Ground:
    """The environment whose fleet and state are in a folder."""
    file = folder / "sample" / "production.yaml"
    state = EnvironmentDir(folder / "state").make()
    database = open_database(state)
    database.migrate()

    def clock() -> datetime:
        return datetime.fromisoformat((folder / "now").read_text())

    return Ground(Workspace(PROJECT_ROOT), file, load_fleet(file), state, database, clock)


def main(folder: Path) -> None:
    """Work until killed."""
    host = Host(ground_in(folder), f"w-{os.getpid()}")
    host.start()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    while not ended.wait(0.2):
        host.adopt()
    host.stop()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
