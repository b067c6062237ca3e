"""Plain ansible-playbook as a person runs it, and what it told."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpufleet.edges.ansible_collections import ansible_collections
from gpufleet.edges.workspace import PROJECT_ROOT

PLAYBOOKS = PROJECT_ROOT / "playbooks"


@dataclass(frozen=True)
class Told:
    """How a run ended."""

    code: int
    out: str
    errors: str

    @property
    def facts(self) -> dict[str, Any]:
        """What the JSON callback wrote; empty where Ansible ended before any play."""
        begin = self.out.find("{")
        return dict(json.loads(self.out[begin:])) if begin >= 0 else {}

    @property
    def changed(self) -> dict[str, int]:
        """Changes by host."""
        return {host: counts["changed"] for host, counts in self.facts["stats"].items()}

    @property
    def messages(self) -> str:
        """Every message of a failed task, and whatever Ansible itself said."""
        failed = [
            str(result.get("msg", ""))
            for play in self.facts.get("plays", [])
            for task in play["tasks"]
            for result in task["hosts"].values()
            if result.get("failed") or result.get("unreachable")
        ]
        return "\n".join([*failed, self.errors])

    def changing(self, host: str) -> list[str]:
        """Tasks that changed a host."""
        return [
            task["task"]["name"]
            for play in self.facts["plays"]
            for task in play["tasks"]
            if task["hosts"].get(host, {}).get("changed")
        ]

    def report(self, host: str) -> dict[str, Any]:
        """What role host_report said of a host."""
        return dict(self.facts["custom_stats"][host]["gpufleet"])


class Running:
    """A run under way.

    Args:
        command: with its arguments.
        variables: the whole environment.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        # Files: nobody reads a pipe while the run goes on.
        self._out, self._errors = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            cwd=PLAYBOOKS,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._errors,
            env=dict(variables),
        )

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        self.process.kill()
        self.end()

    def end(self) -> Told:
        """Wait for its end."""
        code = self.process.wait()
        said = []
        for file in (self._out, self._errors):
            file.seek(0)
            said.append(file.read().decode())
            file.close()
        return Told(code, *said)


def start_playbook(
    fleet_file: Path, playbook: Path, *arguments: str, variables: Mapping[str, str] | None = None
) -> Running:
    """Begin a run of a playbook in gpufleet's own environment.

    Args:
        fleet_file: that the inventory reads.
        playbook: its path.
        arguments: more of the command line.
        variables: more of the environment.
    """
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return Running(
        [program, str(playbook), *arguments],
        {
            **os.environ,
            "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ansible_collections(lambda _: None)),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_SHOW_CUSTOM_STATS": "true",
            "GPUFLEET_FLEET": str(fleet_file),
            **(variables or {}),
        },
    )


def run_playbook(
    fleet_file: Path, playbook: Path, *arguments: str, variables: Mapping[str, str] | None = None
) -> Told:
    """Run a playbook from its begin to its end; arguments as of `start_playbook`."""
    return start_playbook(fleet_file, playbook, *arguments, variables=variables).end()
