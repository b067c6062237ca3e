"""What a machine has to have, judged: pure, from facts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gpufleet.spec.machine import Facts

GIB: Final = 2**30
BUILD_DISK_BYTES: Final = 25 * GIB
"""Go's module cache (7 GB), build cache (12 GB) and the engines, measured at a first build."""
RUN_DISK_BYTES: Final = 2 * GIB
MEMORY_BYTES_PER_SITE: Final = 2 * GIB


@dataclass(frozen=True)
class Finding:
    """One prerequisite: `ok`, `warn` (something will not work) or `bad` (`up` will fail)."""

    what: str
    level: str
    seen: str
    mend: str = ""


def judge(facts: Facts) -> list[Finding]:
    """Every prerequisite with its mend."""
    return [*_software(facts), *_resources(facts)]


def _software(facts: Facts) -> Iterator[Finding]:
    seen = f"{facts.python[0]}.{facts.python[1]}"
    yield _finding("Python 3.11", facts.python >= (3, 11), seen, "install Python 3.11 or later")
    missing = ", ".join(facts.engines_missing)
    yield Finding("engines", "ok", f"to build: {missing}" if missing else "all built")
    if facts.engines_from_path:
        yield Finding("engines from PATH", "ok", ", ".join(facts.engines_from_path))
    if missing:
        go = facts.go
        seen = f"{go[0]}.{go[1]}" if go else "not on PATH"
        good = go is not None and go >= (1, 26)
        yield _finding("Go 1.26", good, seen, "install Go 1.26 or later from https://go.dev/dl/")
    yield _finding(
        "time zones",
        facts.time_zones,
        "found" if facts.time_zones else "missing",
        "install tzdata (Debian: apt-get install tzdata)",
    )
    yield _finding(
        "ssh-keygen",
        facts.ssh_keygen,
        "found" if facts.ssh_keygen else "missing",
        "install OpenSSH's client; approvals are signed with it",
        level="warn",
    )


def _resources(facts: Facts) -> Iterator[Finding]:
    needed = BUILD_DISK_BYTES if facts.engines_missing else RUN_DISK_BYTES
    yield _finding(
        "disk for the cache",
        facts.cache_writable and facts.cache_free_bytes >= needed,
        _space(facts.cache_free_bytes, writable=facts.cache_writable),
        f"free {needed // GIB} GiB, or move it: GPUFLEET_CACHE and GOCACHE",
    )
    yield _finding(
        "disk for .fleet",
        facts.state_writable and facts.state_free_bytes >= RUN_DISK_BYTES,
        _space(facts.state_free_bytes, writable=facts.state_writable),
        f"free {RUN_DISK_BYTES // GIB} GiB where the clone is",
    )
    memory = MEMORY_BYTES_PER_SITE * max(1, facts.sites)
    yield _finding(
        "memory",
        facts.memory_free_bytes >= memory,
        f"{facts.memory_free_bytes / GIB:.1f} GiB free",
        f"free {memory // GIB} GiB: each embedded site takes {MEMORY_BYTES_PER_SITE // GIB}",
        level="warn",
    )
    yield _finding(
        "loopback addresses",
        facts.loopback_block,
        "127.0.0.0/8" if facts.loopback_block else "127.0.0.1 only",
        "simulated replicas need all of 127.0.0.0/8, which Linux gives by default",
    )


def _finding(what: str, good: bool, seen: str, mend: str, *, level: str = "bad") -> Finding:  # noqa: FBT001 - reads as a table
    return Finding(what, "ok", seen) if good else Finding(what, level, seen, mend)


def _space(free_bytes: int, *, writable: bool) -> str:
    return f"{free_bytes / GIB:.0f} GiB free" if writable else "not writable"
