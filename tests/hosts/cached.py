"""What takes long to make is made once for each machine, in the user's cache."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from filelock import FileLock

from gpufleet.edges.workspace import cache_dir

_STAMP: Final = "whole"


def made_once(kind: str, of: Iterable[bytes], make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills, named by what it is made of; the stamp is written last.

    One maker at a time, under a lock that ends with its holder; what an interrupted one left is
    made anew.
    """
    digest = hashlib.sha256()
    for part in of:
        digest.update(len(part).to_bytes(8, "big") + part)
    home = cache_dir() / "hosts"
    home.mkdir(parents=True, exist_ok=True)
    folder = home / f"{kind}-{digest.hexdigest()[:16]}"
    if (folder / _STAMP).is_file():
        return folder
    with FileLock(home / f".{folder.name}.lock"):
        if not (folder / _STAMP).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            # Hosts and the repository's server read it; only its owner writes.
            folder.chmod(0o755)
            (folder / _STAMP).touch()
    return folder


def sources(*files: Path) -> list[bytes]:
    """The content of files and of all Python files below folders."""
    found = []
    for file in files:
        below = sorted(file.glob("*.py")) if file.is_dir() else [file]
        found += [os.fsencode(each.name) + b"\0" + each.read_bytes() for each in below]
    return found
