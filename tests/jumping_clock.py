"""A machine's clock that a test moves, as the processes see it that are started with it."""

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_SOURCE: Final = Path(__file__).with_name("jumping_clock.c")


@dataclass(frozen=True)
class JumpingClock:
    """The clock of processes whose environment has its variables."""

    file: Path
    variables: dict[str, str]

    def jump(self, offset_s: float) -> None:
        """Let it be so many seconds off."""
        with self.file.open("r+b") as file:
            file.write(struct.pack("d", offset_s))


def jumping_clock(folder: Path) -> JumpingClock:
    """A clock that is right; the test is skipped where none can be made."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("a C compiler makes the clock that jumps, and there is none on PATH")
    file, library = folder / "offset", folder / "jumping_clock.so"
    file.write_bytes(struct.pack("d", 0.0))
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl", "-lm"]
    subprocess.run(command, check=True, timeout=60)
    return JumpingClock(file, {"LD_PRELOAD": str(library), "JUMPING_CLOCK": str(file)})
