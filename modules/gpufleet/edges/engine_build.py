"""Building one engine with Go, into a folder that appears whole or not at all."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from gpufleet.edges.definition_files import compact_definitions
from gpufleet.edges.engine_table import Engine, ModuleFiles
from gpufleet.spec.errors import Failed, FleetError, Retryable

NEEDED_GO: Final = (1, 26)
_NETWORK: Final = re.compile(
    r"dial tcp|proxyconnect|i/o timeout|connection re|no such host|TLS handshake|server misbehaving"
    r"|unexpected EOF|: 5\d\d |: 429 |disabled by GOPROXY=off"
)
_TICK_S: Final = 1.0
_ASK_TIMEOUT_S: Final = 30
_FULL_BYTES: Final = 2**20

Tick = Callable[[str], None]
"""Told each second what is being done."""


def find_go(engines: Sequence[str]) -> str:
    """The Go tool, new enough to build the named engines.

    Raises:
        Failed: there is none, or it is too old.
    """
    wanted = ".".join(map(str, NEEDED_GO))
    need = f"Go {wanted} or later is needed to build {', '.join(engines)}"
    mend = "get it from https://go.dev/dl/ or your distribution, then run this again"
    go = shutil.which("go")
    if go is None:
        raise Failed(f"{need}, and there is none on PATH", mend=mend)
    try:
        told = subprocess.run(
            [go, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            timeout=_ASK_TIMEOUT_S,
            check=False,
            env=_environment(),
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        told = str(error)
    found = re.match(r"go(\d+)\.(\d+)", told)
    if found is None or (int(found[1]), int(found[2])) < NEEDED_GO:
        raise Failed(f"{need}, and {go} is {told or 'broken'}", mend=mend)
    return go


def build(go: str, engine: Engine, into: Path, tick: Tick) -> None:
    """Make an engine in the new folder `into`.

    Raises:
        Retryable: the network, the disk or a killed compiler; what was done is kept by Go's cache.
        Failed: the source does not build.
    """
    (into / "bin").mkdir(parents=True)
    # Beside the folder, so that it outlives a build that fails.
    log = into.parent / f"{engine.name}.log"
    log.unlink(missing_ok=True)
    run = _Runner(engine, log, tick)
    if engine.files:
        _copy_files(go, engine, into, run)
        for name in engine.binaries:
            (into / "bin" / name).chmod(0o755)
    if engine.generate:
        run([go, "generate", "./..."], "generating")
    if engine.package:
        flags = ["-trimpath", "-ldflags", f"-s -w {engine.ldflags}".strip()]
        packages = {engine.binaries[0]: engine.package, **engine.also}
        for name, package in packages.items():
            target = str(into / "bin" / name)
            run([go, "build", "-v", *flags, "-o", target, package], "compiling")
        for link in engine.binaries[1:]:
            if link not in packages:
                (into / "bin" / link).symlink_to(engine.binaries[0])
    log.unlink(missing_ok=True)


class _Runner:
    """Runs the steps of one build; its output goes to the log, its failure to one error."""

    def __init__(self, engine: Engine, log: Path, tick: Tick) -> None:
        self.engine = engine
        self.log = log
        self.tick = tick

    def __call__(self, command: list[str], doing: str) -> str:
        with self.log.open("ab") as log, tempfile.TemporaryFile() as answer:
            # Its own process group, so that an interruption also ends the compilers below it.
            process = subprocess.Popen(
                command,
                cwd=self.engine.folder,
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=log,
                env=_environment(),
                start_new_session=True,
            )
            try:
                self._wait(process, doing)
            except BaseException:
                _end_group(process)
                raise
            if process.returncode != 0:
                raise self._failure(doing)
            answer.seek(0)
            return answer.read().decode()

    def _wait(self, process: subprocess.Popen[bytes], doing: str) -> None:
        while True:
            try:
                process.wait(_TICK_S)
            except subprocess.TimeoutExpired:
                compiled = self.log.read_bytes().count(b"\n") if doing == "compiling" else 0
                detail = f"{doing}, {compiled} packages" if compiled else doing
                self.tick(detail)
            else:
                return

    def _failure(self, doing: str) -> FleetError:
        text = self.log.read_text(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        last = lines[-1].strip()[:300] if lines else "no output"
        where = f"engine {self.engine.name}"
        # A full disk also loses what Go has to say about it.
        if "no space left" in text or shutil.disk_usage(self.log.parent).free < _FULL_BYTES:
            return disk_full(self.log.parent, where)
        if _NETWORK.search(text):
            return Retryable(
                f"{doing} could not fetch a module: {last}",
                where=where,
                mend="check the network and GOPROXY, then run this again; what is built is kept",
            )
        if "signal: killed" in text:
            return Retryable(
                f"{doing} was killed, most likely for lack of memory",
                where=where,
                mend="free some memory (linking takes up to 3 GiB), then run this again",
            )
        return Failed(f"{doing} failed: {last}", where=where, mend=f"all it said is in {self.log}")


def disk_full(folder: Path, where: str) -> Retryable:
    """The error for a full disk, with what is free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    return Retryable(
        f"the disk is full ({free:.1f} GiB free at {folder})",
        where=where,
        mend="free 25 GiB for a first build (or move GPUFLEET_CACHE and GOCACHE), run this again",
    )


def is_disk_full(error: OSError) -> bool:
    """Whether an error of the operating system says that there is no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _copy_files(go: str, engine: Engine, into: Path, run: _Runner) -> None:
    """Copy folders out of modules, each checked against the engine's own go.sum."""
    sums = dict(
        line.rsplit(" ", 1) for line in (engine.folder / "go.sum").read_text().splitlines() if line
    )
    queries = sorted({f"{file.module}@{file.version}" for file in engine.files})
    # Twice, because with -json a failure is told on the wrong stream and without its cause.
    run([go, "mod", "download", *queries], f"fetching {len(queries)} modules")
    answer = run([go, "mod", "download", "-json", *queries], "finding modules")
    told = {f"{module['Path']}@{module['Version']}": module for module in _documents(answer)}
    for file in engine.files:
        query = f"{file.module}@{file.version}"
        if told[query]["Sum"] != sums.get(f"{file.module} {file.version}"):
            raise Failed(
                f"{query} is not what tools/{engine.name}/go.sum pins",
                where=f"engine {engine.name}",
                mend="do not use it: the module's content changed after it was pinned",
            )
        source = Path(told[query]["Dir"], file.path)
        if file.definitions:
            _make_chart(source, into / "charts" / file.to, file)
        else:
            _copy_folder(source, into / file.to)


def _copy_folder(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.is_file():
            # Without its mode: modules are read-only in Go's cache, copies are ours to remove.
            shutil.copyfile(file, target / file.name)


def _make_chart(source: Path, target: Path, pinned: ModuleFiles) -> None:
    """A Helm chart that holds the custom resource definitions of a folder, and nothing else."""
    (target / "templates").mkdir(parents=True)
    version = pinned.version.removeprefix("v")
    (target / "Chart.yaml").write_text(
        f"apiVersion: v2\nname: {pinned.to}-crds\nversion: {version}\n"
        f"description: Custom resource definitions of {pinned.module}\n",
        encoding="utf-8",
    )
    for file in sorted(source.glob("*.yaml")):
        if text := compact_definitions(file.read_text(encoding="utf-8")):
            (target / "templates" / file.name).write_text(text, encoding="utf-8")


def _documents(text: str) -> Iterator[dict[str, str]]:
    """JSON objects written one after the other."""
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:]


def _environment() -> dict[str, str]:
    """The caller's environment, with the toolchain and the module lists held still."""
    return {
        **os.environ,
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": "-buildvcs=false -mod=readonly",
    }


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
