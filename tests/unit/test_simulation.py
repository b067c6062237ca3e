"""Faults by task: who is hit is shown first, and what cannot be meant is said."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tests.engines import SETTINGS, address

from gpufleet.core.serving import Probe
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.simulation import clear, fault, replicas
from gpufleet.local.agent_api import AgentApi
from gpufleet.local.agent_metrics import AgentMetrics
from gpufleet.local.engine.host import Host, Start
from gpufleet.local.engine.replica import Identity, View
from gpufleet.local.engine.settings import Probes
from gpufleet.local.gpu_board import GpuBoard
from gpufleet.spec.errors import BadInput, Failed, FleetError, Retryable

FLEET = PROJECT_ROOT / "fleets" / "article" / "production.yaml"
PROBES = Probes(Probe(1, 1, 30), Probe(5, 4, 2), Probe(20, 10, 6))
COUNT = 4


@dataclass(frozen=True)
class Site:
    """A site whose node agent runs some replicas."""

    workspace: Workspace
    ports: Path

    def hit(self, *, kind: str = "slow", share: float = 1.0, apply: bool = False) -> list[str]:
        found = fault(self.workspace, FLEET, kind=kind, pool="answers", share=share, apply=apply)
        return [each.pod for each in found.replicas]

    def faulty(self) -> list[str]:
        return [each.pod for each in replicas(self.workspace, FLEET) if each.faults]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    ready = threading.Semaphore(0)

    def changed(_: Identity, view: View) -> None:
        if view.is_ready:
            ready.release()

    host = Host(changed)
    host.start()
    for number in range(COUNT):
        identity = Identity(f"u{number}", "ns", f"answers-{number}", "answers", address())
        host.begin(identity, Start(lambda: SETTINGS, PROBES))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    gpus = GpuBoard(tmp_path, list, host.seen)
    api = AgentApi(host, AgentMetrics(lambda: COUNT), gpus, lambda: True)
    asyncio.run_coroutine_threadsafe(api.open("127.0.0.1", port), host.loop).result(10)
    file = tmp_path / ".fleet" / "article" / "production" / "sites" / "main" / "ports.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"agent": port}))
    assert all(ready.acquire(timeout=10) for _ in range(COUNT))
    yield Site(Workspace(tmp_path), file)
    for number in range(COUNT):
        host.leave(f"u{number}", 0)


def test_a_fault_is_shown_before_it_happens(site: Site) -> None:
    assert site.hit(share=0.5) == ["answers-0", "answers-1"]
    assert site.faulty() == []
    assert site.hit(share=0.5, apply=True) == ["answers-0", "answers-1"]
    assert site.faulty() == ["answers-0", "answers-1"]
    assert [each.pod for each in clear(site.workspace, FLEET)] == ["answers-0", "answers-1"]
    assert site.faulty() == ["answers-0", "answers-1"]
    clear(site.workspace, FLEET, apply=True)
    assert site.faulty() == []


def test_a_share_of_requests_hits_every_replica(site: Site) -> None:
    assert len(site.hit(kind="errors", share=0.5, apply=True)) == COUNT
    assert {tuple(each.faults) for each in replicas(site.workspace, FLEET)} == {("errors 50%",)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "moon"}, "no such kind of fault"),
        ({"kind": "slow", "factor": 0.5}, "greater than 1"),
        ({"kind": "slow", "share": 1.5}, "less than or equal to 1"),
        ({"kind": "slow", "pool": "other"}, "no such pool"),
        ({"kind": "slow", "site": "other"}, "no such embedded site"),
        ({"kind": "slow", "pod": "other"}, "no simulated replica"),
    ],
)
def test_what_cannot_be_meant_is_said(site: Site, given: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        fault(site.workspace, FLEET, **given)  # type: ignore[arg-type]


def test_sites_that_are_not_up_and_clusters_of_ones_own_are_told_apart(
    site: Site, tmp_path: Path
) -> None:
    with pytest.raises(Failed, match="no port yet"):
        replicas(Workspace(tmp_path / "elsewhere"), FLEET)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        site.ports.write_text(json.dumps({"agent": probe.getsockname()[1]}))
    with pytest.raises(Retryable, match="does not answer"):
        replicas(site.workspace, FLEET)
    own = yaml.safe_load(FLEET.read_text())
    own["sites"]["main"]["cluster"] = {"provider": "existing", "context": "mine"}
    own.pop("freeze_calendars")
    own["governance"] = {"calendar_required": False}
    file = tmp_path / "own.yaml"
    file.write_text(json.dumps(own, default=str))
    with pytest.raises(FleetError, match="for simulated replicas only"):
        replicas(site.workspace, file)
