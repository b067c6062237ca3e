"""What this machine has: the facts that are judged elsewhere."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psutil

from gpufleet.edges.engines import FOR_STACKS, survey
from gpufleet.edges.workspace import Workspace, cache_dir
from gpufleet.spec.machine import Facts


def look(workspace: Workspace, sites: int) -> Facts:
    """Look at everything that `up` of so many embedded sites needs."""
    engines = survey(None if sites else FOR_STACKS)
    cache = _existing(cache_dir())
    return Facts(
        python=(sys.version_info.major, sys.version_info.minor),
        go=_go(),
        engines_missing=tuple(found.engine.name for found in engines if found.source == "build"),
        engines_from_path=tuple(found.engine.name for found in engines if found.source == "path"),
        cache_free_bytes=shutil.disk_usage(cache).free,
        state_free_bytes=shutil.disk_usage(workspace.root).free,
        cache_writable=os.access(cache, os.W_OK),
        state_writable=os.access(workspace.root, os.W_OK),
        memory_free_bytes=psutil.virtual_memory().available,
        loopback_block=_can_listen("127.77.0.1"),
        time_zones=_has_time_zones(),
        ssh_keygen=shutil.which("ssh-keygen") is not None,
        sites=sites,
    )


def _go() -> tuple[int, int] | None:
    go = shutil.which("go")
    if go is None:
        return None
    told = subprocess.run(
        [go, "env", "GOVERSION"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GOTOOLCHAIN": "local"},
    ).stdout
    found = re.match(r"go(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else None


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _can_listen(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _has_time_zones() -> bool:
    try:
        ZoneInfo("Europe/Berlin")
    except ZoneInfoNotFoundError:
        return False
    return True
