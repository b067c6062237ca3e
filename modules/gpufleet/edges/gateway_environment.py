"""The gateway's Python environment: LiteLLM's proxy from its own lock, made once for each machine.

It stands in the user's cache, in a folder named by what it is made of; the stamp that makes it
count is written last, and one maker works at a time, under a lock that the system lets go with its
holder. So a second clone finds it, and an interruption is mended by the next run.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from gpufleet.edges.engine_build import disk_full, is_disk_full
from gpufleet.edges.workspace import PROJECT_ROOT, cache_dir
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.progress import EngineProgress

LOCK: Final = PROJECT_ROOT / "gateway" / "requirements.lock"
_NAME: Final = "gateway"
_STAMP: Final = "whole"
_TELL_EVERY_S: Final = 1.0

OnProgress = Callable[[EngineProgress], None]


def gateway_python(
    on_progress: OnProgress, *, lock: Path = LOCK, cache: Path | None = None
) -> Path:
    """The Python of the gateway's environment, made where it is not there yet.

    Args:
        on_progress: told while it is made.
        lock: hashed requirements.
        cache: where it is made.

    Raises:
        Failed: a package is not the one in the lock, or does not install.
        Retryable: the network or the disk.
    """
    home = (cache or cache_dir()) / "gateway"
    folder = home / _key(lock)
    python = folder / "bin" / "python"
    if _is_whole(folder):
        return python
    started = time.monotonic()

    def tell(state: str, detail: str = "") -> None:
        on_progress(EngineProgress(_NAME, 1, 1, state, time.monotonic() - started, detail))

    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _only_one(home / f".{folder.name}.lock", tell):
            if not _is_whole(folder):
                _make(folder, lock, tell)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(home, "the gateway's environment") from None
        raise
    tell("done")
    return python


def _key(lock: Path) -> str:
    """Of everything that the environment follows from."""
    parts = (lock.read_bytes(), _base_python().encode(), sys.version.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _base_python() -> str:
    """The system's Python by its real name: ours is one of this clone's environment."""
    return os.path.realpath(sys.executable)


def _is_whole(folder: Path) -> bool:
    """Whether it was made to its end, and the Python that it stands on is still there."""
    return (folder / _STAMP).is_file() and (folder / "bin" / "python").is_file()


@contextmanager
def _only_one(file: Path, tell: Callable[[str, str], None]) -> Iterator[None]:
    lock = FileLock(file)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_TELL_EVERY_S)
        except Timeout:
            tell("waiting", "another ./fleet makes it")
    try:
        yield
    finally:
        lock.release()


def _make(folder: Path, lock: Path, tell: Callable[[str, str], None]) -> None:
    """Where it stays: a virtual environment cannot be moved."""
    shutil.rmtree(folder, ignore_errors=True)
    count = len(re.findall(r"^\S+==", lock.read_text(encoding="utf-8"), re.MULTILINE))
    log = folder.with_name(f"{folder.name}.log")
    log.write_bytes(b"")
    uv = str(Path(sys.executable).with_name("uv"))
    tell("building", "")
    _run(log, [uv, "venv", "--quiet", "--python", _base_python(), str(folder)], tell, "")
    install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--require-hashes"]
    python = str(folder / "bin" / "python")
    packages = f"{count} packages, once for each machine"
    _run(log, [*install, "--python", python, "-r", str(lock)], tell, packages)
    (folder / _STAMP).write_text("")


def _run(log: Path, command: list[str], tell: Callable[[str, str], None], detail: str) -> None:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                tell("building", detail)
                try:
                    process.wait(_TELL_EVERY_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        raise _failure(log, process.returncode)


def _failure(log: Path, code: int) -> Failed | Retryable:
    where = "the gateway's environment"
    text = log.read_text(encoding="utf-8", errors="replace")
    if "No space left" in text:
        return disk_full(log.parent, where)
    if "Hash mismatch" in text:
        return Failed(
            "a package is not the one in gateway/requirements.lock",
            where=where,
            mend=f"do not use it; see {log}",
        )
    last = (text.strip().splitlines() or [f"exit code {code}"])[-1].strip()
    return Retryable(
        f"its packages cannot be had: {last[:200]}", where=where, mend=f"see {log}, run this again"
    )
