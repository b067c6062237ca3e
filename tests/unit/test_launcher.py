"""`./fleet`: its environment is made once, whole, and by itself."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TASKS = "import sys; print('ran', *sys.argv[1:])\n"
NO_SUCH_PACKAGE = f"uv==0.0.1 \\\n    --hash=sha256:{'0' * 64}\n"


def make_clone(root: Path) -> Path:
    """A clone whose lock is empty and whose tasks only tell what they were called with."""
    package = root / "modules" / "gpufleet" / "tasks"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(TASKS)
    (root / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "environment.py", root / "tools")
    shutil.copy(ROOT / "fleet", root)
    (root / "requirements.lock").write_text("")
    return root


def run(
    program: Path, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments],
        cwd=cwd or program.parent,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def start(clone: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [clone / "fleet", "status"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return make_clone(tmp_path / "clone")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a space in its path, whose first call made the environment and said so."""
    clone = make_clone(tmp_path_factory.mktemp("launcher") / "a clone")
    result = run(clone / "fleet", "up", "--fleet", "a b.yaml")
    assert (result.returncode, result.stdout) == (0, "ran up --fleet a b.yaml\n")
    assert "making .venv" in result.stderr
    return clone


def test_a_warm_call_makes_nothing(made: Path) -> None:
    result = run(made / "fleet", "status")
    assert (result.stdout, result.stderr) == ("ran status\n", "")


def test_links_to_the_launcher_work_from_any_folder(made: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "direct").symlink_to(made / "fleet")
    (tmp_path / "relative").symlink_to(Path("bin") / "direct")
    result = run(tmp_path / "relative", "status", cwd=Path("/"))
    assert (result.stdout, result.stderr) == ("ran status\n", "")


def test_modules_in_the_callers_folder_do_not_stand_in_for_ours(made: Path, tmp_path: Path) -> None:
    (tmp_path / "gpufleet").mkdir()
    (tmp_path / "gpufleet" / "__init__.py").write_text("raise SystemExit('not ours')\n")
    assert run(made / "fleet", "status", cwd=tmp_path).stdout == "ran status\n"


def test_a_changed_lock_brings_the_environment_up_to_date_in_place(made: Path) -> None:
    kept = made / ".venv" / "kept"
    kept.touch()
    (made / "requirements.lock").write_text("# changed\n")
    result = run(made / "fleet", "status")
    assert result.returncode == 0
    assert "up to date" in result.stderr
    assert kept.exists()
    assert run(made / "fleet", "status").stderr == ""


def test_two_started_at_once_make_one_environment(clone: Path) -> None:
    both = [start(clone), start(clone)]
    told = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [out for out, _ in told] == ["ran status\n", "ran status\n"]
    assert sum("making .venv" in err for _, err in told) == 1


def test_an_interrupted_environment_is_mended(clone: Path) -> None:
    for by in (signal.SIGINT, signal.SIGKILL):
        interrupted = start(clone)
        assert interrupted.stderr is not None
        assert "making .venv" in interrupted.stderr.readline()
        os.killpg(interrupted.pid, by)
        out, _ = interrupted.communicate(timeout=60)
        assert interrupted.returncode in (-by, 128 + by)
        assert out == ""
    mended = run(clone / "fleet", "status")
    assert (mended.returncode, mended.stdout) == (0, "ran status\n")
    assert "making .venv" in mended.stderr


def test_a_moved_clone_makes_its_environment_anew(made: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(made, tmp_path / "moved", symlinks=True)
    result = run(moved / "fleet", "status")
    assert (result.returncode, result.stdout) == (0, "ran status\n")
    assert "making .venv" in result.stderr


def test_packages_that_cannot_be_fetched_are_worth_another_try(clone: Path) -> None:
    (clone / "requirements.lock").write_text(NO_SUCH_PACKAGE)
    result = run(clone / "fleet", "status", env={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""})
    assert result.returncode == 4
    assert result.stdout == ""
    error = result.stderr.splitlines()[-1]
    assert error.startswith("fleet: fetching uv failed: ")
    assert "run it again" in error


def test_a_missing_python_is_one_line_that_says_how_to_get_it(clone: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    for tool in ("dirname", "readlink", "cmp"):
        (bare / tool).symlink_to(str(shutil.which(tool)))
    result = subprocess.run(
        ["/bin/sh", clone / "fleet"],
        env={"PATH": str(bare)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "Python 3.11 or later is needed" in result.stderr
    assert "apt-get install" in result.stderr


def test_a_python_that_is_named_is_not_replaced_by_another(clone: Path) -> None:
    result = run(clone / "fleet", env={"GPUFLEET_PYTHON": "/nowhere/python3"})
    assert result.returncode == 1
    assert "/nowhere/python3 has none" in result.stderr


def test_the_lock_names_no_host_and_hashes_everything() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    requirements = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert all("==" in line and line.endswith("\\") for line in requirements)
    assert lock.count("--hash=sha256:") >= len(requirements)
