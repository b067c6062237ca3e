"""Engines: found on PATH, else in the cache, else built; once, whole, and with clear faults."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import pytest

from gpufleet.edges import engines
from gpufleet.edges.engine_table import read_table
from gpufleet.edges.engines import PROVIDER_VERSION, resolve, survey
from gpufleet.spec.errors import BadInput, Failed, Retryable
from gpufleet.spec.progress import EngineProgress

ROOT = Path(__file__).resolve().parents[2]
TABLE = """
[hello]
version = "1.4.0"
package = "."
ldflags = "-X main.version=v1.4.0"
binaries = ["hello", "greet"]

[hello.on_path]
hello = { ask = ["--version"], accepts = ">=1.4,<2" }
greet = { ask = ["--version"], accepts = ">=1.4,<2" }

[seldom]
version = "1"
package = "."
binaries = ["seldom"]
optional = true

[files]
version = "1"
"""
PROGRAM = """package main

import "os"

var version = "unknown"

func main() { os.Stdout.WriteString(version + "\\n") }
"""
RESOLVE = """
import sys
from pathlib import Path
from gpufleet.edges.engines import resolve

resolve(
    lambda event: print(event.engine, event.state, event.detail, flush=True),
    ["hello"],
    tools=Path(sys.argv[1]),
    cache=Path(sys.argv[2]),
)
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    folder = tmp_path / "tools"
    (folder / "hello").mkdir(parents=True)
    (folder / "engines.toml").write_text(TABLE)
    (folder / "hello" / "go.mod").write_text("module tools/hello\n\ngo 1.26\n")
    (folder / "hello" / "go.sum").touch()
    (folder / "hello" / "main.go").write_text(PROGRAM)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a shell script first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(name: str, script: str) -> Path:
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return program

    return put


def source_of(name: str, tools: Path, cache: Path) -> str:
    return survey([name], tools=tools, cache=cache)[0].source


def build(tools: Path, cache: Path, names: Iterable[str] = ("hello",)) -> list[EngineProgress]:
    events: list[EngineProgress] = []
    resolve(events.append, list(names), tools=tools, cache=cache)
    return events


def no_build(event: EngineProgress) -> None:
    pytest.fail(f"nothing was to be built: {event}")


def left_over(cache: Path) -> list[Path]:
    return list((cache / "engines").glob(".building-*"))


def start(tools: Path, cache: Path) -> subprocess.Popen[str]:
    """Resolve in a process of its own, as a second `./fleet` would."""
    return subprocess.Popen(
        [sys.executable, "-c", RESOLVE, tools, cache],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_an_engine_is_built_at_its_pins_and_then_taken_from_the_cache(
    tools: Path, cache: Path
) -> None:
    events = build(tools, cache)
    assert [(e.engine, e.index, e.total) for e in events[:1]] == [("hello", 1, 1)]
    assert events[-1].state == "done"
    binaries = resolve(no_build, ["hello"], tools=tools, cache=cache)
    for name in ("hello", "greet"):
        told = subprocess.check_output([binaries.path(name)], text=True)
        assert told == "v1.4.0\n"
    assert left_over(cache) == []


def test_engines_without_a_name_are_those_that_are_not_optional(tools: Path, cache: Path) -> None:
    assert [r.engine.name for r in survey(tools=tools, cache=cache)] == ["hello", "files"]
    with pytest.raises(BadInput, match="no such engine: helo") as caught:
        survey(["helo"], tools=tools, cache=cache)
    assert "hello" in caught.value.mend


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("hello/go.mod", "go 1.26", "go 1.26.0"),
        ("hello/go.sum", "", "example.com/a v1.0.0 h1:x=\n"),
        ("hello/main.go", "unknown", "none"),
        ("engines.toml", "main.version=v1.4.0", "main.version=v1.4.1"),
    ],
)
def test_a_changed_pin_source_or_flag_means_another_build(
    tools: Path, file: str, old: str, new: str
) -> None:
    before = read_table(tools)["hello"].key
    assert read_table(tools)["hello"].key == before
    path = tools / file
    path.write_text(path.read_text().replace(old, new) if old else new)
    assert read_table(tools)["hello"].key != before


def test_versions_on_path_that_are_good_enough_are_used(
    tools: Path, cache: Path, on_path: Callable[[str, str], Path]
) -> None:
    hello = on_path("hello", "echo hello version v1.5.2 go1.26.8")
    assert source_of("hello", tools, cache) == "build"
    greet = on_path("greet", "echo 1.4.0")
    binaries = resolve(no_build, ["hello"], tools=tools, cache=cache)
    assert binaries.paths == {"hello": hello, "greet": greet}


@pytest.mark.parametrize(
    "script",
    ["echo v1.3.9", "echo v2.0.0", "echo what?", "exit 1", "exec sleep 60"],
    ids=["too old", "too new", "no version", "fails", "never answers"],
)
def test_versions_on_path_that_are_not_good_enough_are_left_alone(
    tools: Path,
    cache: Path,
    on_path: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
    script: str,
) -> None:
    monkeypatch.setattr(engines, "_ASK_TIMEOUT_S", 1)
    on_path("hello", "echo v1.4.0")
    on_path("greet", script)
    assert source_of("hello", tools, cache) == "build"


def test_our_own_links_on_path_are_not_taken_for_another_build(
    tools: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tools, cache)
    links = tmp_path / "links"
    monkeypatch.setenv("PATH", f"{links}:{os.environ['PATH']}")
    for _ in range(2):
        resolve(no_build, ["hello"], tools=tools, cache=cache).link_into(links)
        assert source_of("hello", tools, cache) == "cache"
        assert subprocess.check_output([links / "greet"], text=True) == "v1.4.0\n"


def test_an_engine_that_lost_a_part_is_built_again(tools: Path, cache: Path) -> None:
    build(tools, cache)
    hello = resolve(no_build, ["hello"], tools=tools, cache=cache).path("hello")
    hello.unlink()
    build(tools, cache)
    assert hello.is_file()


def test_two_at_once_build_once(
    tools: Path, cache: Path, tmp_path: Path, on_path: Callable[[str, str], Path]
) -> None:
    count = tmp_path / "count"
    on_path("go", f'[ "$1" != build ] || echo build >>{count}\nexec {shutil.which("go")} "$@"')
    both = [start(tools, cache), start(tools, cache)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        # Whoever comes when the other has ended finds it built, and has nothing to tell.
        assert not out or out.splitlines()[-1].strip() == "hello done"
    assert count.read_text() == "build\n"


def test_a_killed_build_is_swept_and_made_by_the_next_run(
    tools: Path, cache: Path, tmp_path: Path, on_path: Callable[[str, str], Path]
) -> None:
    waiting = tmp_path / "waiting"
    os.mkfifo(waiting)
    stub = on_path(
        "go", f'[ "$1" = env ] && echo go1.26.8 && exit\necho $$ >{waiting}\nexec sleep 60'
    )
    killed = start(tools, cache)
    compiler = psutil.Process(int(waiting.read_text()))
    try:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate(timeout=10)
        assert len(left_over(cache)) == 1
        stub.unlink()
        build(tools, cache)
        assert left_over(cache) == []
        assert source_of("hello", tools, cache) == "cache"
    finally:
        compiler.kill()


def test_an_interrupted_build_ends_its_compilers_and_leaves_nothing(
    tools: Path, cache: Path, tmp_path: Path, on_path: Callable[[str, str], Path]
) -> None:
    waiting = tmp_path / "waiting"
    os.mkfifo(waiting)
    on_path("go", f'[ "$1" = env ] && echo go1.26.8 && exit\necho $$ >{waiting}\nexec sleep 60')
    interrupted = start(tools, cache)
    compiler = int(waiting.read_text())
    assert interrupted.stdout is not None
    while "compiling" not in interrupted.stdout.readline():
        # Only then is the build waited for, and no longer being started.
        assert interrupted.poll() is None
    os.killpg(interrupted.pid, signal.SIGINT)
    _, err = interrupted.communicate(timeout=10)
    assert "KeyboardInterrupt" in err
    assert not psutil.pid_exists(compiler)
    assert left_over(cache) == []


def test_missing_go_names_what_needs_it_and_where_to_get_it(
    tools: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failed) as caught:
        build(tools, cache, ["hello", "seldom"])
    assert caught.value.what == (
        "Go 1.26 or later is needed to build hello, seldom, and there is none on PATH"
    )
    assert "go.dev" in caught.value.mend


def test_an_old_go_is_told_with_its_version(
    tools: Path, cache: Path, on_path: Callable[[str, str], Path]
) -> None:
    go = on_path("go", "echo go1.25.4")
    with pytest.raises(Failed) as caught:
        build(tools, cache)
    assert caught.value.what.endswith(f"and {go} is go1.25.4")


@pytest.mark.parametrize(
    ("told", "error", "what"),
    [
        ("main.go:3:1: no space left on device", Retryable, "the disk is full"),
        ("dial tcp: lookup proxy: no such host", Retryable, "could not fetch a module"),
        ("compile: signal: killed", Retryable, "lack of memory"),
        ("./main.go:3:1: undefined: x", Failed, "compiling failed: ./main.go:3:1: undefined: x"),
    ],
)
def test_a_failed_build_tells_its_kind_and_keeps_its_log(
    tools: Path,
    cache: Path,
    on_path: Callable[[str, str], Path],
    told: str,
    error: type[Exception],
    what: str,
) -> None:
    on_path("go", f'[ "$1" = env ] && echo go1.26.8 && exit\necho "{told}" >&2; exit 1')
    with pytest.raises(error, match=what):
        build(tools, cache)
    assert told in (cache / "engines" / "hello.log").read_text()
    assert left_over(cache) == []


def test_a_module_that_no_proxy_may_give_is_named(
    tools: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tools / "engines.toml").write_text(
        '[files]\nversion = "1"\n[[files.files]]\n'
        'module = "example.com/crds"\nversion = "v1.0.0"\npath = "crd"\nto = "crd"\n'
    )
    (tools / "files").mkdir()
    (tools / "files" / "go.mod").write_text("module tools/files\n\ngo 1.26\n")
    (tools / "files" / "go.sum").write_text("example.com/crds v1.0.0 h1:x=\n")
    monkeypatch.setenv("GOPROXY", "off")
    with pytest.raises(Retryable, match=r"example\.com/crds@v1\.0\.0"):
        build(tools, cache, ["files"])


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_fills_while_building_is_told_and_mended(tools: Path, cache: Path) -> None:
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", cache], check=True)
    try:
        with pytest.raises(Retryable, match="the disk is full") as caught:
            build(tools, cache)
        assert "free" in caught.value.mend
        assert left_over(cache) == []
        subprocess.run(["mount", "-o", "remount,size=64m", cache], check=True)
        assert build(tools, cache)[-1].state == "done"
    finally:
        subprocess.run(["umount", cache], check=True)


def test_the_declared_engines_are_pinned_and_match_the_python_packages() -> None:
    table = read_table(ROOT / "tools")
    for engine in table.values():
        assert (engine.folder / "go.sum").is_file()
        sums = (engine.folder / "go.sum").read_text()
        assert all(f"{file.module} {file.version} h1:" in sums for file in engine.files)
        assert engine.version in (engine.ldflags or engine.version)
    lock = (ROOT / "requirements.lock").read_text()
    assert f"\npulumi=={table['pulumi'].version} " in lock
    assert f"\npulumi-kubernetes=={PROVIDER_VERSION} " in lock
    assert table["pulumi-resource-kubernetes"].version == PROVIDER_VERSION
