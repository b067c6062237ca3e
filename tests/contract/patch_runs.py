"""What tests of patches share: a site with small playbooks, and a patch in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS
from pydantic import JsonValue
from tests.contract.patch_site import NEW, Site, ground_in, unproven, write_site

from gpufleet.flows.durable import Run
from gpufleet.flows.ground import Ground
from gpufleet.flows.patching import patch
from gpufleet.spec.errors import FleetError
from gpufleet.spec.patching import HostState, PatchPlan, PatchReport

HOSTS = [f"h100-{number:03d}" for number in range(1, 5)]


@dataclass
class Alone:
    """What a run asks of its worker, where nothing else runs."""

    cancelled: bool = False

    def demand_own(self) -> None:
        """It always has."""

    def is_cancelled(self, flow: str) -> bool:
        return bool(flow) and self.cancelled


@contextmanager
def environment(folder: Path, hosts: list[str], **declared: Any) -> Iterator[Ground]:  # noqa: ANN401 - YAML
    """An environment of hosts, with a cluster and a Prometheus; at its end none serves unproven."""
    write_site(folder, hosts=len(hosts), **declared)
    made, site = ground_in(folder), Site(hosts)
    site.place(made)
    yield made
    assert unproven(folder) == {}
    site.stop()
    made.close()


@pytest.fixture(autouse=True)
def steps(tmp_path: Path) -> Iterator[None]:
    """Steps outside of a worker: each is done, and none is kept."""
    DBOS(config={"name": "test", "system_database_url": f"sqlite:///{tmp_path / 'dbos.sqlite'}"})
    yield
    DBOS.destroy()


@dataclass
class Flow:
    """A patch in a thread."""

    ground: Ground
    plan: PatchPlan
    id: str = "patch-1"
    host: Alone = field(default_factory=Alone)
    result: dict[str, JsonValue] | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        asked = {"plan": self.plan.model_dump(mode="json")}
        run = Run(self.ground, self.id, "mara", self.host)  # type: ignore[arg-type]

        def work() -> None:
            try:
                self.result = patch(run, asked)
            except Exception as error:  # noqa: BLE001 - the test asks for it
                self.error = error

        self._thread = threading.Thread(target=work)
        self._thread.start()

    @property
    def report(self) -> PatchReport:
        return self.ground.patches.report(self.id)

    def end(self, within_s: float = 200) -> PatchReport:
        self._thread.join(within_s)
        assert not self._thread.is_alive()
        if self.error and not isinstance(self.error, FleetError):
            raise self.error
        return self.report


def fault(folder: Path, host: str, what: str, version: str = NEW) -> Path:
    file = folder / "faults" / f"{host}-{version}-{what}"
    file.touch()
    return file


def states(report: PatchReport) -> dict[str, HostState]:
    return {host: outcome.state for host, outcome in report.hosts.items()}


def first_wave(plan: PatchPlan) -> dict[str, Any]:
    """A plan cut to its first wave."""
    wave = plan.waves[0]
    return {"waves": [wave], "hosts": {host: plan.hosts[host] for host in wave.hosts}}


def told(ground: Ground, step: str, flow: str = "patch-1") -> str:
    """What a step last told while it waited."""
    for _, event in ground.progress.latest(flow):
        if getattr(event, "step", "") == step and getattr(event, "state", "") == "waiting":
            return str(getattr(event, "detail", ""))
    return ""


def skip_soak(ground: Ground) -> None:
    """Let the environment's clock jump over the soak that waits."""
    file = ground.state.root / "clock-offset"
    before = float(file.read_text()) if file.exists() else 0.0
    file.write_text(str(before + 700))


def write_calendar(file: Path, begins_in_s: float) -> None:
    """A freeze of ten hours; and one long ago, so that the calendar is fresh."""
    begins = datetime.now(UTC) + timedelta(seconds=begins_in_s)
    ends = begins + timedelta(hours=10)
    lines = [
        *("BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//test//EN"),
        *("BEGIN:VEVENT", "UID:1", f"DTSTAMP:{datetime.now(UTC):%Y%m%dT%H%M%SZ}"),
        *("SUMMARY:Freeze", f"DTSTART:{begins:%Y%m%dT%H%M%SZ}", f"DTEND:{ends:%Y%m%dT%H%M%SZ}"),
        *("END:VEVENT", "END:VCALENDAR"),
    ]
    new = file.parent / ".company.ics"
    new.write_text("\r\n".join(lines) + "\r\n")
    new.replace(file.parent / "company.ics")
