"""The lab with its nodes in a cluster, and playbooks over it: as a flow runs them, and by hand."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.conftest import Until
from tests.hosts.fleet import HOSTS
from tests.hosts.lab import Lab
from tests.hosts.nodes import SITE, nodes, populate
from tests.hosts.requirements import why_not
from tests.playbooks import PLAYBOOKS, Running, Told, start_playbook

from gpufleet.core.leases import lease_of
from gpufleet.core.patching.nodes import QUARANTINED
from gpufleet.edges.kube import Cluster
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.ground import Ground, whoami
from gpufleet.spec.errors import Retryable
from gpufleet.spec.fence import Fence
from gpufleet.spec.records import Fact

TOKEN_TASK = "token on the host"
"""Of the one task that writes on every run: each has a higher token."""


@dataclass
class PatchedLab:
    """Hosts, their nodes, and the environment that they are patched in."""

    lab: Lab
    cluster: Cluster
    kubeconfig: Path
    ground: Ground
    until: Until

    @contextlib.contextmanager
    def running(
        self, playbook: str, *hosts: str, check: bool = False, **given: object
    ) -> Iterator[Running]:
        """A run over hosts, all at once, as a flow makes it that has the site's lease meanwhile."""
        with contextlib.ExitStack() as stack:
            fence = self.until(lambda: self._lease(stack))
            # Whoever meets its marks later asks whether there was such a flow.
            asked = Fact(
                event="patch.requested", actor=whoami(), flow=fence.owner, target=playbook, body={}
            )
            self.ground.journal.append(asked)
            flow = {
                "gpufleet_flow": fence.owner,
                "gpufleet_fence": fence.token,
                "gpufleet_batch": len(hosts),
            }
            run = self._start(playbook, *hosts, check=check, **flow, **given)
            try:
                yield run
            finally:
                if not run.has_ended:
                    run.kill()

    def run(self, playbook: str, *hosts: str, check: bool = False, **given: object) -> Told:
        """The same, to its end."""
        with self.running(playbook, *hosts, check=check, **given) as run:
            return run.end()

    def by_hand(self, playbook: str, *hosts: str, check: bool = False, **given: object) -> Told:
        """What a person runs over hosts; over whichever it takes where none is named."""
        return self._start(playbook, *hosts, check=check, **given).end()

    def _lease(self, stack: contextlib.ExitStack) -> Fence | None:
        """The site's lease; a run by hand that has ended gives it back a moment later."""
        try:
            return stack.enter_context(self.ground.holding(lease_of(SITE), why="patch"))
        except Retryable:
            return None

    def _start(self, playbook: str, *hosts: str, check: bool, **given: object) -> Running:
        told = {
            "gpufleet_kube_config": str(self.kubeconfig),
            "gpufleet_kube_context": SITE,
            "gpufleet_reboot_within_s": 90,
            "gpufleet_return_within_s": 20,
            # No replica answers on these nodes.
            "gpu_validate_token": False,
            **given,
        }
        return start_playbook(
            self.ground.fleet_file,
            PLAYBOOKS / playbook,
            *(["--limit", ",".join(hosts)] if hosts else []),
            *(["--check"] if check else []),
            *("-e", json.dumps(told)),
            variables=self.lab.environment,
        )

    def node(self, host: str) -> dict[str, Any]:
        """The Node object."""
        found = self.cluster.get(f"/api/v1/nodes/{host}")
        assert found is not None
        return found

    def annotation(self, host: str, name: str) -> str:
        """An annotation of the node; empty where there is none."""
        return str((self.node(host)["metadata"].get("annotations") or {}).get(name, ""))

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

    def packages(self, host: str) -> str:
        """Version, state and hold of what drives a host's GPUs."""
        form = "-f=${Package} ${Version} ${db:Status-Status} ${db:Status-Want}\n"
        return self.lab[host].run("dpkg-query", "-W", form, "nvidia-*", "datacenter-*").stdout

    def after_installing(self, host: str, script: str) -> None:
        """Let a host run a script as root whenever packages were installed or removed."""
        self.lab[host].write("/usr/local/sbin/after-installing", script, mode=0o755)
        line = 'DPkg::Post-Invoke { "/usr/local/sbin/after-installing"; };\n'
        self.lab[host].write("/etc/apt/apt.conf.d/99after-installing", line)

    def installs(self, host: str) -> bool:
        """Whether the installation of a package is held in its middle."""
        return self.lab[host].path("/run/gpu-stub/installing").exists()

    def is_connected(self, host: str) -> bool:
        """Whether an SSH connection to a host is believed to be there."""
        end = (self.lab[host].address, 22)
        return any(
            each.raddr == end and each.status == psutil.CONN_ESTABLISHED
            for each in psutil.net_connections("tcp4")
        )


@contextlib.contextmanager
def patched_lab(
    folder: Path, until: Until, hosts: int = HOSTS, *, holder: str = ""
) -> Iterator[PatchedLab]:
    """So many hosts, their nodes, and an environment of their own; ended with the context.

    Args:
        folder: that everything is kept in; the environment is named after it.
        until: waits for a condition.
        hosts: how many.
        holder: the host that all replicas of their pool stand on; none where there are no replicas.
    """
    if reason := why_not():
        pytest.skip(reason)
    with (
        pytest.MonkeyPatch.context() as patch,
        Lab(hosts) as lab,
        nodes(folder / "cluster", list(lab.hosts), until) as (cluster, kubeconfig),
    ):
        patch.setenv("GPUFLEET_DATABASE_URL", f"sqlite:///{folder / 'fleet.db'}")
        if holder:
            populate(cluster, list(lab.hosts), holder)
        name = folder.name.replace("_", "-").rstrip("-")
        # Playbooks find the environment in the clone that they are in.
        ground = Ground.open(Workspace.here(), lab.write_fleet(folder / "fleet", fleet=name))
        ground.state.kubeconfig.write_bytes(kubeconfig.read_bytes())
        try:
            yield PatchedLab(lab, cluster, kubeconfig, ground, until)
        finally:
            ground.close()
            shutil.rmtree(ground.state.root)


def each(values: Mapping[str, object]) -> str:
    """A variable that has a value of its own for each host, as Ansible reads it."""
    return f"{{{{ {json.dumps(dict(values))}[inventory_hostname] }}}}"
