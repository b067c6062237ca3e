"""A process that holds a lease for another one, for as long as that one lives."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gpufleet.edges.processes import start_of


def is_running(pid: int, started: int | None) -> bool:
    """Whether a process is still the one that started then, and has not ended.

    One that has ended, and that its parent has not asked about yet, is in state Z (proc(5)).
    """
    if started is None or start_of(pid) != started:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def start_keeper(module: str, arguments: Sequence[str], log: Path) -> dict[str, object]:
    """Start a keeper in the background, and read the one line of JSON that it begins with.

    Args:
        module: of the keeper's program.
        arguments: its arguments.
        log: where its errors go.
    """
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            # A Ctrl-C in the caller's terminal is the caller's; the keeper sees it end.
            start_new_session=True,
            cwd="/",
        )
    assert process.stdout is not None  # noqa: S101 - asked for above
    with process.stdout as told:
        line = told.readline()
    if not line.strip():
        return {"error": f"the lease's keeper ended at once; see {log}"}
    answer: dict[str, object] = json.loads(line)
    return answer
