"""Files of the platform's state: written whole or not at all, readable by their owner only."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

from gpufleet.spec.errors import Retryable

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def write_private(path: Path, content: str | bytes) -> bool:
    """Write a file with mode 0600 by renaming; False if it held just that already.

    Raises:
        Retryable: the disk is full; the file is what it was.
    """
    data = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == data:
        return False
    try:
        _replace(path, data)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise Retryable(
            "the disk is full", where=str(path), mend="free some space, then run this again"
        ) from None
    return True


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_older(folder: Path, pattern: str, age_s: float) -> None:
    """Remove files that whoever was killed had no time to remove; younger ones may be in use."""
    for file in folder.glob(pattern):
        if time.time() - file.stat().st_mtime > age_s:
            file.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Like `write_private`, for a JSON value."""
    return write_private(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_rows(path: Path, rows: list[dict[str, Any]], only: str) -> bool:
    """Like `write_json`, for rows of pools; rows of those whose name begins otherwise stay.

    Args:
        path: of the file.
        rows: new ones; each names its `pool`.
        only: how the names of their pools begin; where it is empty nothing else stays.
    """
    before: list[dict[str, Any]] = read_json(path) or []
    return write_json(path, [*(row for row in before if not row["pool"].startswith(only)), *rows])


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """The JSON value of a file; None where it is missing or was cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
