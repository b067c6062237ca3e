"""A private folder for what is made and thrown away, by one process at a time."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpufleet.edges.workspace import PRIVATE
from gpufleet.spec.errors import Retryable


@contextmanager
def own_folder(folder: Path, *, what: str) -> Iterator[Path]:
    """An empty folder, mode 0700, removed at the end; what a killed process left goes first.

    Args:
        folder: it; its lock is beside it.
        what: is done in it, for people.

    Raises:
        Retryable: another process does the same.
    """
    folder.parent.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Retryable(
                f"{what} is under way already", where=str(folder), mend="wait until it has ended"
            ) from None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=PRIVATE)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
