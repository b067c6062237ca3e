"""Hosts in quarantine: half patched ones are brought back first, sound ones come back whole."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Until
from tests.hosts.lab import Lab
from tests.hosts.nodes import SITE, nodes
from tests.hosts.packages import CURRENT, GOOD
from tests.playbooks import PLAYBOOKS, Told, run_playbook

from gpufleet.edges.kube import Cluster

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(1800)]
HOST = "gpu-001"
RECORD = "/var/lib/gpufleet/patch.json"
BACK = ("-e", "gpufleet_quarantine=absent", "-e", '{"gpufleet_reason": "well again"}')


@dataclass
class Quarantined:
    """A host of the lab, its node, and playbooks by hand on it."""

    lab: Lab
    cluster: Cluster
    fleet_file: Path
    folder: Path
    kubeconfig: Path

    def play(self, playbook: str, *arguments: str) -> Told:
        """Run a playbook on the host."""
        told = {
            "gpufleet_kube_config": str(self.kubeconfig),
            "gpufleet_kube_context": SITE,
            "gpufleet_reboot_within_s": 300,
            # No replica runs on these nodes.
            "gpu_validate_token": False,
        }
        variables = {
            **self.lab.environment,
            "GPUFLEET_DATABASE_URL": f"sqlite:///{self.folder / 'fleet.db'}",
            "ANSIBLE_HOME": str(self.folder / "ansible"),
        }
        return run_playbook(
            self.fleet_file,
            PLAYBOOKS / playbook,
            *("--limit", HOST, "-e", json.dumps(told), *arguments),
            variables=variables,
        )

    def node(self) -> dict[str, Any]:
        """The Node object."""
        found = self.cluster.get(f"/api/v1/nodes/{HOST}")
        assert found is not None
        return found

    def leave_half_patched(self) -> None:
        """As an installation that was killed, and whose node was then quarantined."""
        record = {
            "state": "begun",
            "part": "driver",
            "flow": "patch-1",
            "version": GOOD,
            "before": CURRENT,
            "packages": {},
        }
        host = self.lab[HOST]
        host.run("mkdir", "-p", str(Path(RECORD).parent))
        host.run("sh", "-c", f"echo '{json.dumps(record)}' > {RECORD}")
        host.run("systemctl", "stop", "nvidia-dcgm")


@pytest.fixture
def quarantined(one: Lab, tmp_path: Path, until: Until) -> Iterator[Quarantined]:
    with nodes(tmp_path / "cluster", [HOST], until) as (cluster, kubeconfig):
        file = one.write_fleet(tmp_path / "fleet")
        yield Quarantined(one, cluster, file, tmp_path, kubeconfig)


def test_a_half_patched_host_goes_back_before_it_leaves_quarantine(
    quarantined: Quarantined,
) -> None:
    quarantined.leave_half_patched()
    paused = {"nvidia.com/gpu.deploy.device-plugin": "paused-for-driver-upgrade"}
    quarantined.cluster.merge(f"/api/v1/nodes/{HOST}", {"metadata": {"labels": paused}})
    told = quarantined.play("quarantine.yml", "-e", "gpufleet_reason=killed")
    assert told.code == 0, told.messages

    told = quarantined.play("quarantine.yml", *BACK)
    assert told.code != 0
    assert f"a change of `driver` to {GOOD} has not ended" in told.messages
    told = quarantined.play("rollback.yml", "-e", f"gpufleet_version={GOOD}")
    assert told.code != 0
    assert "is no way back" in told.messages

    told = quarantined.play("rollback.yml")
    assert told.code == 0, told.messages
    report = told.report(HOST)
    assert (report["after"], report["validated"], report["record_open"]) == (CURRENT, True, "false")
    # A person has put it there: no patch lets it out.
    assert report["quarantined"]
    assert not report["uncordoned"]

    told = quarantined.play("quarantine.yml", *BACK)
    assert told.code == 0, told.messages
    node = quarantined.node()
    assert not node["spec"].get("unschedulable")
    assert not node["spec"].get("taints")
    assert node["metadata"]["labels"]["nvidia.com/gpu.deploy.device-plugin"] == "true"
    assert quarantined.lab[HOST].run("systemctl", "is-active", "nvidia-dcgm").stdout == "active\n"


def test_a_host_returns_with_the_driver_that_it_has_and_whole_packages_only(
    quarantined: Quarantined,
) -> None:
    told = quarantined.play("drivers.yml", "-e", f"gpufleet_version={GOOD}")
    assert told.code == 0, told.messages
    told = quarantined.play("quarantine.yml", "-e", "gpufleet_reason=XID")
    assert told.code == 0, told.messages
    told = quarantined.play("quarantine.yml", *BACK)
    # The fleet file still pins the one of before.
    assert told.code == 0, told.messages
    assert not quarantined.node()["spec"].get("unschedulable")
    assert quarantined.lab[HOST].driver() == GOOD
