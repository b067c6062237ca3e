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
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from packaging.specifiers import SpecifierSet

from gpufleet.edges.engine_build import build, disk_full, find_go, is_disk_full
from gpufleet.edges.engine_table import Engine, PathCheck, read_table
from gpufleet.edges.workspace import PROJECT_ROOT, cache_dir
from gpufleet.spec.errors import BadInput, Failed
from gpufleet.spec.progress import EngineProgress

TOOLS: Final = PROJECT_ROOT / "tools"
FILES: Final = "files"
PROVIDER_VERSION: Final = "4.25.0"
FOR_STACKS: Final = (
    "pulumi",
    "pulumi-language-python",
    "pulumi-resource-kubernetes",
    FILES,
)
"""What an environment needs that embeds no site."""
_ASK_TIMEOUT_S: Final = 10
_VERSION: Final = re.compile(r"\bv?(\d+\.\d+(?:\.\d+)?)")

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


def resolve(
    on_progress: OnProgress,
    names: Collection[str] | None = None,
    *,
    tools: Path = TOOLS,
    cache: Path | None = None,
    use_path: bool = True,
) -> Binaries:
    """The named engines, built where they have to be; without names, all that are not optional.

    Args:
        on_progress: told while something is built.
        names: of engines.
        tools: folder of their declarations.
        cache: where they are built.
        use_path: whether one on PATH will do.

    Raises:
        BadInput: a name that is not declared.
        Failed: Go is missing where something has to be built, or a build fails.
        Retryable: the network or the disk.
    """
    cache = cache or cache_dir()
    found = survey(names, tools=tools, cache=cache, use_path=use_path)
    missing = [resolution.engine for resolution in found if resolution.source == "build"]
    if missing:
        go = find_go([engine.name for engine in missing])
        builder = _Builder(go, cache, len(missing), on_progress)
        for index, engine in enumerate(missing, start=1):
            builder.make(engine, index)
    paths: dict[str, Path] = {}
    for resolution in found:
        paths |= resolution.binaries
    return Binaries(paths, _folder(read_table(tools)[FILES], cache))


def survey(
    names: Collection[str] | None = None,
    *,
    tools: Path = TOOLS,
    cache: Path | None = None,
    use_path: bool = True,
) -> list[Resolution]:
    """How each engine would be had, without building anything.

    Raises:
        BadInput: a name that is not declared.
    """
    cache = cache or cache_dir()
    table = read_table(tools)
    if names is None:
        names = [name for name, engine in table.items() if not engine.optional]
    if unknown := sorted(set(names) - set(table)):
        raise BadInput(
            f"no such engine: {', '.join(unknown)}", mend=f"there are: {', '.join(table)}"
        )
    return [_resolution(table[name], cache, use_path=use_path) for name in names]


def pinned_files(*, tools: Path = TOOLS, cache: Path | None = None) -> Path:
    """The folder of pinned manifests, which `resolve` has made before: a folder for each source.

    Raises:
        Failed: it was not made yet.
    """
    folder = _folder(read_table(tools)[FILES], cache or cache_dir())
    if not folder.is_dir():
        raise Failed("the engines are not built yet", mend="run ./fleet up once")
    return folder


def _resolution(engine: Engine, cache: Path, *, use_path: bool) -> Resolution:
    folder = _folder(engine, cache)
    if use_path and (on_path := _on_path(engine, cache)):
        return Resolution(engine, "path", on_path, folder)
    binaries = {name: folder / "bin" / name for name in engine.binaries}
    return Resolution(engine, "cache" if _is_whole(engine, folder) else "build", binaries, folder)


def _folder(engine: Engine, cache: Path) -> Path:
    return cache / "engines" / f"{engine.name}-{engine.key}"


def _is_whole(engine: Engine, folder: Path) -> bool:
    """Builds appear whole, but a person who wants room may have removed a part of one."""
    return folder.is_dir() and all((folder / "bin" / name).is_file() for name in engine.binaries)


def _on_path(engine: Engine, cache: Path) -> dict[str, Path]:
    """The engine's binaries from PATH, if every one is there in a version that is accepted."""
    found: dict[str, Path] = {}
    for name, check in engine.on_path.items():
        where = shutil.which(name)
        # `./fleet env` puts links to our own builds on PATH: those are not another's.
        if where is None or Path(where).resolve().is_relative_to(cache.resolve()):
            return {}
        if not _accepted(where, check):
            return {}
        found[name] = Path(where)
    return found


def _accepted(where: str, check: PathCheck) -> bool:
    try:
        told = subprocess.run(
            [where, *check.ask],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ASK_TIMEOUT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = _VERSION.search(told)
    return version is not None and SpecifierSet(check.accepts).contains(version[1])


@dataclass(frozen=True)
class _Builder:
    """Builds engines into the cache, each once, however many ask at a time."""

    go: str
    cache: Path
    total: int
    on_progress: OnProgress

    def make(self, engine: Engine, index: int) -> None:
        started = time.monotonic()

        def tell(state: str, detail: str = "") -> None:
            elapsed_s = time.monotonic() - started
            self.on_progress(
                EngineProgress(engine.name, index, self.total, state, elapsed_s, detail)
            )

        try:
            (self.cache / "engines").mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._lock(engine, tell):
                self._make_locked(engine, tell)
        except OSError as error:
            if is_disk_full(error):
                raise disk_full(self.cache, f"engine {engine.name}") from None
            raise
        tell("done")

    @contextmanager
    def _lock(self, engine: Engine, tell: Callable[[str, str], None]) -> Iterator[None]:
        lock = FileLock(self.cache / "engines" / f".{engine.name}.lock")
        while not lock.is_locked:
            try:
                lock.acquire(timeout=1)
            except Timeout:
                tell("waiting", "another ./fleet builds it")
        try:
            yield
        finally:
            lock.release()

    def _make_locked(self, engine: Engine, tell: Callable[[str, str], None]) -> None:
        folder = _folder(engine, self.cache)
        if _is_whole(engine, folder):
            return
        # Whoever left these held the lock that is ours now, so nobody is at work in them.
        for stale in (*folder.parent.glob(f".building-{engine.name}-*"), folder):
            shutil.rmtree(stale, ignore_errors=True)
        temporary = folder.parent / f".building-{engine.name}-{os.getpid()}"
        tell("building", "")
        try:
            build(self.go, engine, temporary, lambda detail: tell("building", detail))
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
