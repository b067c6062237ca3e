"""dmesg and journalctl: of the host's own kernel log."""

import contextlib
import itertools
from pathlib import Path
from typing import Final

from tests.hosts.stubs import state
from tests.hosts.stubs.output import say

_BEFORE: Final = state.STATE / "kernel.log.1"
"""The log of the boot before this one."""


def dmesg(arguments: list[str]) -> int:
    """The log of this boot; -C empties it."""
    if {"-C", "--clear"} & set(arguments):
        state.require_root("dmesg")
        state.KERNEL_LOG.write_text("", encoding="utf-8")
        return 0
    for line in _lines(before=False):
        say(line)
    return 0


def journalctl(arguments: list[str]) -> int:
    """The kernel's lines of this boot, or with `-b -1` of the one before."""
    before = "-b-1" in arguments or any(
        flag in {"-b", "--boot"} and following == "-1"
        for flag, following in itertools.pairwise(arguments)
    )
    bare = "cat" in arguments or "--output=cat" in arguments
    for line in _lines(before=before):
        text = line.partition("] ")[2]
        say(text if bare else f"Jan 01 00:00:00 {_host()} kernel: {text}")
    return 0


def rotate() -> None:
    """A boot begins: what the last one said becomes the log before."""
    with contextlib.suppress(OSError):
        if state.KERNEL_LOG.exists():
            state.KERNEL_LOG.replace(_BEFORE)
        state.KERNEL_LOG.touch()


def _lines(*, before: bool) -> list[str]:
    file = _BEFORE if before else state.KERNEL_LOG
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def _host() -> str:
    return Path("/etc/hostname").read_text(encoding="utf-8").strip()
