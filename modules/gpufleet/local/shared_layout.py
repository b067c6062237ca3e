"""The processes of an embedded environment that all its sites share."""

import sys
from pathlib import Path
from typing import Final

from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.local.process import LOOPBACK, Process

SHARED: Final = "_"
"""Stands for all sites where a site's name would stand; no site can have this name."""
OWN_CODE: Final = tuple(
    sorted(
        file
        for pattern in ("modules/gpufleet/**/*.py", "stacks/*/*.py", "requirements.lock")
        for file in PROJECT_ROOT.glob(pattern)
    )
)
SHARED_PORTS: Final = ("worker", "gateway", "gateway-control")


def our_task(*words: str) -> tuple[str, ...]:
    """The command line of one of our tasks."""
    return (sys.executable, "-P", "-m", "gpufleet.tasks", *words)


def worker(fleet_file: Path, port: int, database_url: Path) -> Process:
    """Runs the environment's flows; started anew when the code changes, never for the fleet file.

    Args:
        fleet_file: of the environment.
        port: of its metrics and readiness.
        database_url: file with the URL of its database; not there for SQLite.
    """
    return Process(
        "worker",
        our_task("worker", f"--fleet={fleet_file}", f"--port={port}"),
        ready=f"http://{LOOPBACK}:{port}/readyz",
        reads=(*OWN_CODE, *([database_url] if database_url.is_file() else [])),
    )
