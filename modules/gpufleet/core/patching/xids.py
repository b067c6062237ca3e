"""What the kernel log says of GPUs: NVIDIA's driver reports each event by a number, its XID."""

import re
from collections.abc import Iterable
from typing import Final

APPLICATION_XIDS: Final = frozenset({13, 31, 43, 45})
"""Those that a faulty program causes on a sound GPU (NVIDIA's XID catalogue: application errors).
Every other one speaks of the GPU, its links or its firmware."""
_XID: Final = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]+)\): (\d+)")
_SHOWN: Final = 8


def xid_lines(log: str, *, of_applications: bool = False) -> list[str]:
    """The lines of a kernel log that speak of the hardware, or else of programs, in its order."""
    return [
        line.strip()
        for line in log.splitlines()
        if (told := _XID.search(line)) and (int(told[2]) in APPLICATION_XIDS) == of_applications
    ]


def named(lines: Iterable[str], ignored: frozenset[int]) -> str:
    """Numbers and buses of such lines, such as `79 at 0000:1b:00`; empty where all are ignored."""
    found = {(int(number), bus) for line in lines for bus, number in _XID.findall(line)}
    shown = [f"{number} at {bus}" for number, bus in sorted(found) if number not in ignored]
    return ", ".join(shown[:_SHOWN])
