"""The engines that gpufleet runs: found on PATH, else in the user's cache, else built.

The cache holds one folder for each engine and key (`engines/NAME-KEY`), made once for each machine.
A build is made in a folder beside it and renamed, under a lock that the system lets go with its
holder: two builds at once make one, and an interruption leaves a folder that the next build sweeps.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from gpufleet.edges.engine_build import build, disk_full, is_disk_full
from gpufleet.edges.engine_table import Engine, read_table
from gpufleet.edges.workspace import PROJECT_ROOT, cache_dir
from gpufleet.spec.errors import Failed
from gpufleet.spec.progress import EngineProgress

TOOLS: Final = PROJECT_ROOT / "tools"
FILES: Final = "files"
PROVIDER_VERSION: Final = "4.25.0"
_ASK_TIMEOUT_S: Final = 10

OnProgress = Callable[[EngineProgress], None]


@dataclass(frozen=True)
class Binaries:
    """Resolved engines: a path for each binary, and the folder with pinned manifests."""

    paths: Mapping[str, Path]
    files: Path

    def path(self, binary: str) -> Path:
        """Where a binary is."""
        return self.paths[binary]

    def link_into(self, folder: Path) -> None:
        """Make `folder` hold one link for each binary, and nothing stale."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, target in self.paths.items():
            link = folder / name
            if link.is_symlink() and link.readlink() == target:
                continue
            fresh = folder / f".{name}.{os.getpid()}"
            fresh.symlink_to(target)
            fresh.replace(link)


@dataclass(frozen=True)
class Resolution:
    """How one engine is had: `path`, `cache` or `build`."""

    engine: Engine
    source: str
    binaries: Mapping[str, Path]
    folder: Path


def resolve(on_progress: OnProgress, *, tools: Path = TOOLS, cache: Path | None = None) -> Binaries:
    """Every declared engine, built where it has to be.

    Raises:
        Failed: Go is missing where something has to be built, or a build fails.
        Retryable: the network or the disk.
    """
    cache = cache or cache_dir()
    found = survey(tools=tools, cache=cache)
    missing = [resolution.engine for resolution in found if resolution.source == "build"]
    for index, engine in enumerate(missing, start=1):
        _build_once(engine, cache, index, len(missing), on_progress)
    paths: dict[str, Path] = {}
    for resolution in found:
        paths |= resolution.binaries
    files = next(r.folder for r in found if r.engine.name == FILES)
    return Binaries(_with_scripts(paths, files), files)


def survey(*, tools: Path = TOOLS, cache: Path | None = None) -> list[Resolution]:
    """How each engine would be had, without building anything."""
    cache = cache or cache_dir()
    return [_resolution(engine, cache) for engine in read_table(tools).values()]


def pinned_files(*, tools: Path = TOOLS, cache: Path | None = None) -> Path:
    """The folder of pinned manifests, which `resolve` has made before.

    Raises:
        Failed: it was not made yet.
    """
    folder = _folder(read_table(tools)[FILES], cache or cache_dir())
    if not folder.is_dir():
        raise Failed("the engines are not built yet", mend="run ./fleet up once")
    return folder


def _resolution(engine: Engine, cache: Path) -> Resolution:
    folder = _folder(engine, cache)
    if on_path := _on_path(engine):
        return Resolution(engine, "path", on_path, folder)
    binaries = {name: folder / "bin" / name for name in engine.binaries}
    return Resolution(engine, "cache" if folder.is_dir() else "build", binaries, folder)


def _folder(engine: Engine, cache: Path) -> Path:
    return cache / "engines" / f"{engine.name}-{engine.key}"


def _on_path(engine: Engine) -> dict[str, Path]:
    """The engine's binaries from PATH, if every one is there in a version that is accepted."""
    found: dict[str, Path] = {}
    for name, arguments in engine.on_path.items():
        where = shutil.which(name)
        if where is None or not _version_accepted([where, *arguments], engine.accepts, arguments):
            return {}
        found[name] = Path(where)
    return found


def _version_accepted(command: list[str], accepts: str, arguments: list[str]) -> bool:
    if not arguments:
        return True
    try:
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=False
        )
        version = re.search(r"v?(\d+\.\d+(?:\.\d+)?)", told.stdout)
        return bool(version) and Version(version[1]) in SpecifierSet(accepts)  # type: ignore[index]
    except (OSError, subprocess.TimeoutExpired, InvalidVersion):
        return False


def _build_once(
    engine: Engine, cache: Path, index: int, total: int, on_progress: OnProgress
) -> None:
    started = time.monotonic()

    def tell(state: str, detail: str = "") -> None:
        elapsed_s = time.monotonic() - started
        on_progress(EngineProgress(engine.name, index, total, state, elapsed_s, detail))

    try:
        (cache / "engines").mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(cache / "engines" / f".{engine.name}.lock")
        while not lock.is_locked:
            try:
                lock.acquire(timeout=1)
            except Timeout:
                tell("waiting", "another ./fleet builds it")
        try:
            _build_locked(engine, cache, tell)
        finally:
            lock.release()
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(cache, f"engine {engine.name}") from None
        raise


def _build_locked(engine: Engine, cache: Path, tell: Callable[[str, str], None]) -> None:
    folder = _folder(engine, cache)
    if folder.is_dir():
        tell("done", "")
        return
    for stale in folder.parent.glob(f".building-{engine.name}-*"):
        # Whoever made it held the lock that is ours now, so it is dead.
        shutil.rmtree(stale)
    temporary = folder.parent / f".building-{engine.name}-{os.getpid()}"
    tell("building", "")
    try:
        build(engine, temporary, lambda _elapsed_s, detail: tell("building", detail))
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    tell("done", "")


def _with_scripts(paths: dict[str, Path], files: Path) -> dict[str, Path]:
    """Add the script that starts our program; Pulumi's language host looks for it on PATH."""
    name = "pulumi-language-python-exec"
    if name not in paths:
        script = files / "pulumi-python" / name
        script.chmod(0o755)
        paths[name] = script
    return paths
