"""Which process a process id stands for: ids are given again, and clocks are set."""

from pathlib import Path


def start_of(pid: int) -> int | None:
    """When a process of this machine started, in ticks since the boot; None where there is none.

    From /proc, since psutil adds the time of the boot by the wall clock: each time that one is
    set, every process would seem to be another.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # proc(5): the name, in parentheses, may hold anything; starttime is the 22nd field.
    return int(stat.rpartition(")")[2].split()[19])
