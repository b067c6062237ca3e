"""A fleet that serves on the lab's hosts, and what its operator does to it."""

import json
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.conftest import Until
from tests.e2e.cloned import ROOT, Clone, freeze_around_now
from tests.hosts.lab import Lab

from gpufleet.edges.workspace import Workspace
from gpufleet.flows.ground import Ground
from gpufleet.spec.patching import PatchReport

SITE: Final = "main"
SPACE: Final = "gpufleet-interactive"
FREEZE: Final = "Audit week"
_CALENDAR: Final = "company.ics"
_FAR_DAYS: Final = 300
_REBOOT_WITHIN_S: Final = 60
WITHIN_S: Final = 1800


@dataclass
class Tale:
    """The lab, the clone that it is driven from, and the fleet file."""

    lab: Lab
    clone: Clone
    file: Path
    ground: Ground
    until: Until
    threads: ThreadPoolExecutor

    @classmethod
    def begin(cls, lab: Lab, folder: Path, until: Until, threads: ThreadPoolExecutor) -> "Tale":
        """Write the fleet file, without bringing anything up."""
        file = lab.write_fleet(folder, **_declared(lab))
        (folder / _CALENDAR).write_text(_far_freeze())
        ground = Ground.open(Workspace(ROOT), file)
        return cls(lab, Clone(ROOT, dict(lab.environment)), file, ground, until, threads)

    def up(self) -> None:
        """Bring it up; plain tools see it from now on."""
        self.fleet("up")
        self.clone.use(str(self.file))
        self.clone.variables |= self.lab.environment

    def change(self, **declared: object) -> None:
        """Declare something else."""
        content = json.loads(self.file.read_text())
        self.file.write_text(json.dumps(content | declared))

    def fleet(self, *arguments: str, code: int = 0) -> str:
        """A task of this fleet; its stdout."""
        return self.clone.fleet(*arguments, f"--fleet={self.file}", code=code)

    def json(self, *arguments: str, code: int = 0) -> Any:  # noqa: ANN401 - JSON
        """A task that prints JSON."""
        return json.loads(self.fleet(*arguments, "--json", code=code))

    def start(self, *order: str) -> tuple[str, Future[subprocess.CompletedProcess[str]]]:
        """Start a patch and follow it; its id once the worker has begun, and how it ends."""
        before = {report.flow for report in self.ground.patches.reports()}
        command = ("./fleet", "patch.start", *order, f"--fleet={self.file}", "--apply", "--json")
        followed = self.threads.submit(partial(self.clone.run, *command, within_s=3 * WITHIN_S))

        def begun() -> str | None:
            assert not followed.done(), followed.result()
            new = {report.flow for report in self.ground.patches.reports()} - before
            return new.pop() if new else None

        return self.until(begun, WITHIN_S), followed

    def report(self, flow: str) -> PatchReport:
        """The story of a patch so far."""
        return self.ground.patches.report(flow)

    def is_patched(self, host: str) -> bool:
        """Whether a playbook has the host now."""
        return self.lab[host].path("/run/gpufleet/patch.json").is_file()

    def drivers(self) -> dict[str, str]:
        """The loaded driver of each host that is on."""
        return {name: host.driver() for name, host in self.lab.hosts.items() if host.is_on}

    def freeze(self) -> None:
        """An event begins that nobody has planned for; returns once the cluster knows."""
        self._write(freeze_around_now(FREEZE))
        self.until(lambda: FREEZE in self.scale().stderr)

    def thaw(self) -> None:
        """It is called off; returns once the cluster knows."""
        self._write(_far_freeze())
        self.until(lambda: self.scale().returncode == 0)

    def _write(self, calendar: str) -> None:
        written = self.file.parent / f"{_CALENDAR}.new"
        written.write_text(calendar)
        written.replace(self.file.parent / _CALENDAR)

    def scale(self) -> subprocess.CompletedProcess[str]:
        """Somebody would scale a pool past gpufleet; changes nothing even where it may."""
        words = ("scale", f"--namespace={SPACE}", "deployment/chat", "--replicas=6")
        return self.kubectl(*words, "--dry-run=server")

    def kubectl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Plain kubectl, as the cluster's administrator."""
        return self.clone.run("kubectl", f"--context={SITE}", *words)

    def node(self, name: str) -> dict[str, Any]:
        """A Node's spec."""
        spec: dict[str, Any] = self.clone.kubectl(SITE, "get", "node", name)["spec"]
        return spec

    def is_cordoned(self, host: str) -> bool:
        """Whether it takes no work."""
        return bool(self.node(host).get("unschedulable"))

    def ready(self) -> dict[str, int]:
        """Ready replicas by pool."""
        found = self.clone.kubectl(SITE, "get", "deployments", f"--namespace={SPACE}")["items"]
        return {each["metadata"]["name"]: each["status"].get("readyReplicas", 0) for each in found}


def _far_freeze() -> str:
    """A calendar that holds nothing now; without any event its age would be unknown."""
    return freeze_around_now(FREEZE, in_days=_FAR_DAYS)


def _declared(lab: Lab) -> dict[str, Any]:
    """What differs from the lab's usual fleet: a calendar, hosts that are soon lost."""
    fleet = lab.fleet()
    for group in fleet["node_groups"].values():
        group["ssh"]["reboot_within_s"] = _REBOOT_WITHIN_S
    return {
        "fleet": "tale",
        "node_groups": fleet["node_groups"],
        "freeze_calendars": {"company": {"file": _CALENDAR, "stale_after_s": "1y"}},
    }
