"""Processes that outlived the supervisor that had started them.

Everything that a supervisor starts inherits `GPUFLEET_PLATFORM`, its platform's folder: so they are
recognized for certain, whatever their process ids are. psutil holds on to a process by its id and
start time, so nobody else's is ever signalled.
"""

from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

MARK: Final = "GPUFLEET_PLATFORM"
_TIMEOUT_S: Final = 5
_STOP_FIRST: Final = "process-compose"
_STOP_LAST: Final = ("kube-apiserver", "etcd")


def is_alive(pid: int) -> bool:
    """Whether a process runs; the supervisor learns of a death a moment later."""
    try:
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end_all(folder: Path) -> None:
    """End every process that a supervisor of this platform folder started, and the supervisor.

    In reverse order of the start: an API server whose etcd is gone does not end by itself.
    """
    stages = defaultdict(list)
    for process in _marked(folder):
        stages[_stage(process)].append(process)
    for stage in sorted(stages):
        _end(stages[stage])


def _marked(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _stage(process: psutil.Process) -> int:
    try:
        name = Path(process.cmdline()[0]).name
    except (psutil.Error, IndexError):
        return 0
    if name == _STOP_FIRST:
        return -1
    return _STOP_LAST.index(name) + 1 if name in _STOP_LAST else 0


def _end(processes: list[psutil.Process]) -> None:
    """Ask them to end, and kill those that do not."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, _TIMEOUT_S)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, _TIMEOUT_S)
