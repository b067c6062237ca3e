"""A clone of the project, and what a person does in it."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
UP_TIMEOUT_S = 900


@dataclass
class Clone:
    """A clone, and what a person does in it."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    """What the first `up` answered."""

    def run(
        self, *command: str, cwd: Path | None = None, within_s: float = UP_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone; its output and exit code."""
        return subprocess.run(
            command,
            cwd=cwd or self.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
            env={**os.environ, **self.variables},
        )

    def fleet(self, *arguments: str, code: int = 0) -> str:
        """Run a task, expect its exit code, and give its stdout."""
        done = self.run("./fleet", *arguments)
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:  # noqa: ANN401 - JSON
        """Run a task that prints JSON alone on stdout."""
        return json.loads(self.fleet(*arguments, "--json", code=code))

    def use(self, fleet_file: str) -> None:
        """From now on, as after `eval "$(./fleet env)"`."""
        self.variables = {}
        self.variables = self.json("env", "--fleet", fleet_file)

    def kubectl(self, site: str, *arguments: str) -> Any:  # noqa: ANN401 - JSON
        """Ask a site's cluster with plain kubectl; parsed JSON."""
        done = self.run("kubectl", f"--context={site}", *arguments, "--output=json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def pulumi(self, project: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run plain pulumi in a stack's folder."""
        return self.run("pulumi", *arguments, cwd=self.root / "stacks" / project)


def copy_project(target: Path) -> None:
    """What a clone of the working tree would hold: tracked and new files, nothing ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source, copy = ROOT / name, target / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)


def freeze_around_now(summary: str, *, in_days: int = 0) -> str:
    """An iCalendar file with one event, from yesterday and for three more days; or later."""

    def moment(days: int) -> str:
        return time.strftime("%Y%m%dT000000Z", time.gmtime(time.time() + days * 86_400))

    return (
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\nBEGIN:VEVENT\r\nUID:now@test\r\n"
        f"DTSTAMP:{moment(0)}\r\nSUMMARY:{summary}\r\nDTSTART:{moment(in_days - 1)}\r\n"
        f"DTEND:{moment(in_days + 3)}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    )
