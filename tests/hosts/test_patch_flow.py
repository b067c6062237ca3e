"""Patches of real hosts by the flow and its own playbooks: a canary, a version that breaks."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.conftest import Until
from tests.contract.patch_site import order
from tests.contract.test_patch_flow import Flow, first_wave, steps  # noqa: F401 - a fixture
from tests.hosts.lab import Lab
from tests.hosts.nodes import nodes, populate
from tests.hosts.packages import CURRENT, FAILS_TO_INSTALL, GOOD
from tests.hosts.requirements import why_not

from gpufleet.edges.kube import Cluster
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.ground import Ground
from gpufleet.flows.patch_plan import plan_patch
from gpufleet.spec.errors import TargetMissed
from gpufleet.spec.patching import HostState, PatchReport

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(3000)]
HOLDER = "gpu-008"
"""The host that all replicas stand on, and that no early wave takes."""


@dataclass
class Patched:
    """The lab with an environment of its own."""

    lab: Lab
    cluster: Cluster
    ground: Ground

    def run(self, flow: str, version: str) -> tuple[Flow, PatchReport]:
        """The first wave of a patch."""
        plan = plan_patch(self.ground, order(version=version))
        # No Prometheus stands here: its gates are tried elsewhere.
        cut = {**first_wave(plan), "gates": []}
        made = Flow(self.ground, plan.model_copy(update=cut), flow)
        return made, made.end(1500)

    def is_cordoned(self, host: str) -> bool:
        """Whether it takes no work."""
        return bool((self.cluster.get(f"/api/v1/nodes/{host}") or {})["spec"].get("unschedulable"))


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[Patched]:
    """Eight hosts, their nodes, and the replicas of their pool on one of them."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("patched")
    with (
        pytest.MonkeyPatch.context() as patch,
        Lab() as lab,
        nodes(folder / "cluster", list(lab.hosts), until) as (cluster, kubeconfig),
    ):
        for name, value in lab.environment.items():
            patch.setenv(name, value)
        patch.setenv("GPUFLEET_DATABASE_URL", f"sqlite:///{folder / 'fleet.db'}")
        file = lab.write_fleet(folder / "fleet")
        declared = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**declared, "fleet": "patched-lab"}), encoding="utf-8")
        populate(cluster, list(lab.hosts), HOLDER)
        # Playbooks find the environment in the clone that they are in.
        ground = Ground.open(Workspace.here(), file)
        ground.state.kubeconfig.write_bytes(kubeconfig.read_bytes())
        yield Patched(lab, cluster, ground)
        ground.close()
        shutil.rmtree(ground.state.root)


def test_a_canary_gets_the_driver_and_serves_again(patched: Patched) -> None:
    flow, report = patched.run("patch-good", GOOD)
    assert flow.error is None
    [canary] = report.hosts
    outcome = report.hosts[canary]
    assert (outcome.state, outcome.before, outcome.after) == (HostState.DONE, CURRENT, GOOD)
    assert patched.lab[canary].driver() == GOOD
    assert not patched.is_cordoned(canary)


def test_a_version_that_breaks_is_rolled_back_by_itself(patched: Patched) -> None:
    flow, report = patched.run("patch-bad", FAILS_TO_INSTALL)
    assert isinstance(flow.error, TargetMissed)
    [canary] = report.hosts
    assert report.hosts[canary].state is HostState.ROLLED_BACK
    assert report.outcome == "rolled-back"
    assert patched.lab[canary].driver() == report.hosts[canary].before
    assert not patched.is_cordoned(canary)
    assert {"patch.requested", "patch.ended"} <= {
        record.event for record in patched.ground.journal.records()
    }
