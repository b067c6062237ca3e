"""The lab with its nodes in a cluster, as the playbooks that patch want it."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Until
from tests.hosts.fleet import HOSTS
from tests.hosts.lab import Lab
from tests.hosts.nodes import SITE, nodes
from tests.hosts.requirements import why_not
from tests.playbooks import PLAYBOOKS, Told, run_playbook

from gpufleet.core.patching.nodes import QUARANTINED
from gpufleet.edges.kube import Cluster

TOKEN_TASK = "token on the host"
"""Of the one task that writes on every run: each has a higher token."""


@dataclass
class PatchedLab:
    """Hosts and their nodes."""

    lab: Lab
    cluster: Cluster
    fleet_file: Path
    kubeconfig: Path

    def run(self, playbook: str, *hosts: str, check: bool = False, **given: object) -> Told:
        """Run a playbook over hosts with these variables."""
        told = {
            "gpufleet_kube_config": str(self.kubeconfig),
            "gpufleet_kube_context": SITE,
            "gpufleet_reboot_within_s": 90,
            "gpufleet_return_within_s": 20,
            # No replica runs on these nodes.
            "gpu_validate_token": False,
            **given,
        }
        return run_playbook(
            self.fleet_file,
            PLAYBOOKS / playbook,
            *("--limit", ":".join(hosts), "-e", json.dumps(told)),
            *(["--check"] if check else []),
            variables=self.lab.environment,
        )

    def node(self, host: str) -> dict[str, Any]:
        """The Node object."""
        found = self.cluster.get(f"/api/v1/nodes/{host}")
        assert found is not None
        return found

    def is_cordoned(self, host: str) -> bool:
        """Whether it takes no work."""
        return bool(self.node(host)["spec"].get("unschedulable"))

    def is_quarantined(self, host: str) -> bool:
        """Whether it is out until a person has looked."""
        taints = self.node(host)["spec"].get("taints") or []
        return self.is_cordoned(host) and QUARANTINED in [taint["key"] for taint in taints]

    def package(self, host: str, name: str) -> str:
        """Version of a package; empty where it is not installed whole."""
        asked = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", name]
        state, _, version = self.lab[host].run(*asked, check=False).stdout.partition(" ")
        return version if state == "installed" else ""


@contextlib.contextmanager
def patched_lab(folder: Path, until: Until, hosts: int = HOSTS) -> Iterator[PatchedLab]:
    """So many hosts, their nodes, and a database of their own; ended with the context."""
    if reason := why_not():
        pytest.skip(reason)
    with (
        pytest.MonkeyPatch.context() as patch,
        Lab(hosts) as lab,
        nodes(folder / "cluster", list(lab.hosts), until) as (cluster, kubeconfig),
    ):
        patch.setenv("GPUFLEET_DATABASE_URL", f"sqlite:///{folder / 'fleet.db'}")
        yield PatchedLab(lab, cluster, lab.write_fleet(folder / "fleet"), kubeconfig)


def each(values: Mapping[str, object]) -> str:
    """A variable that has a value of its own for each host, as Ansible reads it."""
    return f"{{{{ {json.dumps(dict(values))}[inventory_hostname] }}}}"
