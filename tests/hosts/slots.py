"""Where a lab is on this machine: a number of its own, by which its network and folder are named.

A lab holds its number's lock as long as it lives, so a number whose lock is free has no lab: what
is still there under it was left behind, and is removed by whoever comes next.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from tests.hosts.network import CannotMake, Network

from gpufleet.edges.processes import start_of

_LABS: Final = Path("/run/gpufleet-hosts")
_NUMBERS: Final = range(7, 32)
_PROCESSES: Final = "processes.json"


@dataclass(frozen=True)
class Slot:
    """A number that one lab has."""

    folder: Path
    network: Network

    def remember(self, pid: int) -> None:
        """Write down a process of the lab's, for whoever may have to end it."""
        file = self.folder / _PROCESSES
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        file.write_text(json.dumps([*known, [pid, start_of(pid)]]), encoding="utf-8")

    def clean(self) -> None:
        """End and remove everything that is there under this number."""
        file = self.folder / _PROCESSES
        with contextlib.suppress(OSError, ValueError):
            for pid, start in json.loads(file.read_text(encoding="utf-8")):
                if start is not None and start_of(pid) == start:
                    os.kill(pid, signal.SIGKILL)
        for mount in _mounts_below(self.folder):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
        self.network.remove()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def take_slot() -> Iterator[Slot]:
    """A number that nobody has; what earlier labs left is removed.

    Raises:
        CannotMake: every number is taken.
    """
    _LABS.mkdir(mode=0o755, exist_ok=True)
    own = None
    with contextlib.ExitStack() as held:
        for number in _NUMBERS:
            slot = Slot(_LABS / str(number), Network(number))
            lock = FileLock(_LABS / f"{number}.lock")
            if own is not None and not slot.folder.exists():
                continue
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            slot.clean()
            if own is None and slot.network.is_free():
                own = slot
                held.callback(lock.release)
            else:
                lock.release()
        if own is None:
            raise CannotMake(f"every subnet 10.213.{_NUMBERS[0]}-{_NUMBERS[-1]} is in use")
        own.folder.mkdir(mode=0o755)
        held.callback(own.clean)
        yield own


def _mounts_below(folder: Path) -> list[str]:
    """Mount points, the innermost first."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    points = [line.split()[4] for line in lines]
    return [point for point in reversed(points) if point.startswith(f"{folder}/")]
