"""Which code this is: a flow that one version began is never replayed by another."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from gpufleet.edges.workspace import PROJECT_ROOT

_SOURCES: Final = ("modules/gpufleet/**/*.py", "modules/gpufleet/**/*.yaml", "stacks/*/*.py")
_FILES: Final = ("requirements.lock",)


@cache
def code_version(root: Path = PROJECT_ROOT) -> str:
    """16 hexadecimal digits over every source file and the pinned packages."""
    digest = hashlib.sha256()
    files = {file for pattern in _SOURCES for file in root.glob(pattern)}
    files |= {root / name for name in _FILES if (root / name).is_file()}
    for file in sorted(files):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
