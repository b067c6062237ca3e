"""The project's own checks: which tool, in which folder, with which arguments."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gpufleet.edges.ansible_collections import collections_path

_SHELL: Final = ("fleet", ".ci/run", "tests/hosts/boot.sh")
_OWN_GO: Final = ("controlplane", "oci", "pulumi-resource-kubernetes")
_BENCHMARKS: Final = (
    *("benchmarks/capacity", "benchmarks/capacity_fit", "benchmarks/capacity_parts"),
    *("benchmarks/engine", "benchmarks/gateway", "benchmarks/gateway_parts"),
    *("benchmarks/ground", "benchmarks/provision", "benchmarks/up"),
)
_PYTHON: Final = (
    *("gateway", "modules", "playbooks", "stacks", "tests", "tools"),
    *(*_BENCHMARKS, "tasks.py"),
)


@dataclass(frozen=True)
class Check:
    """One static check: commands that all have to succeed in a folder."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    folder: Path
    needs: str = ""
    """A program that has to be on PATH; without it the check is skipped, and that is said."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a check ended: ok, failed or skipped, with its output where it failed."""

    check: str
    state: str
    seconds: float
    output: str


def checks(root: Path) -> list[Check]:
    """Every static check of the clone at `root`."""
    tools = Path(sys.executable).parent
    paths = [str(root / path) for path in _PYTHON if (root / path).exists()]
    shell = [path for path in _SHELL if (root / path).exists()]
    containerfiles = sorted(map(str, root.glob("images/*/Containerfile")))

    def tool(name: str, *arguments: str) -> tuple[str, ...]:
        return (str(tools / name), *arguments)

    found = [
        Check("ruff", (tool("ruff", "check", "--quiet", *paths),), root),
        Check("format", (tool("ruff", "format", "--check", "--quiet", *paths),), root),
        Check("mypy", (tool("mypy"),), root),
        Check("layers", (tool("lint-imports", "--no-cache"),), root),
        Check("shellcheck", (tool("shellcheck", *shell),), root),
        Check("hadolint", (tool("hadolint", *containerfiles),), root),
        Check("docs", ((sys.executable, "-m", "gpufleet.tasks", "docs", "--check"),), root),
        *(_rules(root, fleet) for fleet in sorted(root.glob("fleets/*/*.yaml"))),
        *(_go_vet(root, module) for module in _OWN_GO),
    ]
    return [*found, _playbooks(root, tools)]


def _playbooks(root: Path, tools: Path) -> Check:
    """ansible-lint and Ansible's own syntax check, with the collections that playbooks use."""
    playbooks = root / "playbooks"
    named = sorted(file.name for file in playbooks.glob("*.yml"))
    return Check(
        "ansible-lint",
        (
            # It makes the collections where they are not there yet.
            (sys.executable, "-P", "-m", "gpufleet.tasks", "env"),
            (str(tools / "ansible-lint"), "--offline", "--nocolor"),
            (str(tools / "ansible-playbook"), "--syntax-check", *named),
        ),
        playbooks,
        environment={
            "ANSIBLE_CONFIG": str(playbooks / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(collections_path()),
            "GPUFLEET_FLEET": str(root / "fleets" / "sample" / "production.yaml"),
            # ansible-lint looks for its programs there.
            "PATH": os.pathsep.join([str(tools), os.environ.get("PATH", "")]),
        },
    )


def _rules(root: Path, fleet: Path) -> Check:
    """promtool, which is built where it is missing, on what follows from a fleet file."""
    shown = fleet.relative_to(root)
    command = ("-m", "gpufleet.tasks", "slo.rules", "--check", f"--fleet={shown}")
    return Check(f"promtool {shown}", ((sys.executable, *command),), root)


def _go_vet(root: Path, module: str) -> Check:
    return Check(
        f"go vet {module}",
        (("go", "generate", "./..."), ("go", "vet", "./...")),
        root / "tools" / module,
        needs="go",
        # As the engines are built, so that their compiled packages are used again.
        environment={"GOFLAGS": "-buildvcs=false -mod=readonly -trimpath", "GOTOOLCHAIN": "local"},
    )


def run_all(found: list[Check]) -> Iterator[Outcome]:
    """Run checks side by side, and give each outcome as it comes."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for future in as_completed([threads.submit(_run, check) for check in found]):
            yield future.result()


def _run(check: Check) -> Outcome:
    started = time.monotonic()
    if check.needs and shutil.which(check.needs) is None:
        return Outcome(check.name, "skipped", 0.0, f"{check.needs} is not on PATH")
    for command in check.commands:
        result = subprocess.run(
            command,
            cwd=check.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **check.environment},
            check=False,
        )
        if result.returncode:
            return Outcome(check.name, "failed", time.monotonic() - started, result.stdout)
    return Outcome(check.name, "ok", time.monotonic() - started, "")


def run_pytest(root: Path, arguments: list[str]) -> int:
    """Run the tests in the foreground; pytest's own exit code."""
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, check=False).returncode
