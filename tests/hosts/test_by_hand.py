"""Playbooks that a person runs on real hosts: what they take out of service, and what serves."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import Until
from tests.hosts.lab import Lab
from tests.hosts.nodes import SITE, kubelet, nodes, populate
from tests.hosts.packages import CONTAINERD, CURRENT, FAILS_TO_INSTALL, GOOD
from tests.hosts.requirements import why_not
from tests.playbooks import PLAYBOOKS, Told, run_playbook

from gpufleet.edges.kube import Cluster
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.ground import Ground

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(1800)]
ONE, TWO, HOLDER = "gpu-001", "gpu-002", "gpu-003"
PODS = "/api/v1/namespaces/gpufleet-interactive/pods"


@dataclass
class Hand:
    """Three hosts and their nodes; all replicas of their pool stand on the last one."""

    lab: Lab
    cluster: Cluster
    fleet_file: Path
    kubeconfig: Path

    def run(self, playbook: str, *hosts: str, check: bool = False, **given: object) -> Told:
        """Run a playbook over hosts; over whichever it takes where none is named."""
        told = {
            "gpufleet_kube_config": str(self.kubeconfig),
            "gpufleet_kube_context": SITE,
            "gpufleet_reboot_within_s": 90,
            "gpufleet_return_within_s": 20,
            # What answers for tokens is no part of the lab.
            "gpu_validate_token": False,
            **given,
        }
        limit = ["--limit", ",".join(hosts)] if hosts else []
        arguments = [*limit, *(["--check"] if check else []), "-e", json.dumps(told)]
        variables = self.lab.environment
        return run_playbook(self.fleet_file, PLAYBOOKS / playbook, *arguments, variables=variables)

    def is_cordoned(self, host: str) -> bool:
        """Whether its node takes no work."""
        return bool((self.cluster.get(f"/api/v1/nodes/{host}") or {})["spec"].get("unschedulable"))

    def version(self, host: str, package: str) -> str:
        """Of an installed package; empty where it is not."""
        shown = "--showformat=${Version}"
        return self.lab[host].run("dpkg-query", "--show", shown, package, check=False).stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[Hand]:
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("hand")
    with (
        pytest.MonkeyPatch.context() as patch,
        Lab(3) as lab,
        nodes(folder / "cluster", list(lab.hosts), until) as (cluster, kubeconfig),
    ):
        patch.setenv("GPUFLEET_DATABASE_URL", f"sqlite:///{folder / 'fleet.db'}")
        populate(cluster, list(lab.hosts), HOLDER)
        file = lab.write_fleet(folder / "fleet", fleet="hand-lab")
        # Playbooks find the environment in the clone that they are in.
        ground = Ground.open(Workspace.here(), file)
        ground.state.kubeconfig.write_bytes(kubeconfig.read_bytes())
        yield Hand(lab, cluster, file, kubeconfig)
        ground.close()
        shutil.rmtree(ground.state.root)


@pytest.fixture
def hand(made: Hand) -> Iterator[Hand]:
    """The same; after the test its first two hosts, and their nodes, are as new."""
    yield made
    made.lab.renew(ONE, TWO)
    for host in (ONE, TWO):
        kubelet(made.cluster, host)
        spec = {"unschedulable": None, "taints": None}
        marks = {"annotations": None, "labels": None}
        made.cluster.merge(f"/api/v1/nodes/{host}", {"spec": spec, "metadata": marks})


def test_where_nobody_says_which_hosts_none_is_touched(made: Hand) -> None:
    for check in (False, True):
        told = made.run("drivers.yml", gpufleet_version=GOOD, check=check)
        assert told.code != 0
        assert "nobody has said which hosts" in told.messages
        assert "--limit" in told.messages


def test_a_pool_that_has_nothing_to_spare_keeps_its_hosts(hand: Hand) -> None:
    gone = {"conditions": [{"type": "Ready", "status": "False"}]}
    back = {"conditions": [{"type": "Ready", "status": "True"}]}
    for pod in ("chat-0", "chat-1"):
        hand.cluster.merge(f"{PODS}/{pod}/status", {"status": gone})
    try:
        told = hand.run("drivers.yml", ONE, gpufleet_version=GOOD)
        assert told.code != 0
        assert "3 of 5 replicas serve" in told.messages
    finally:
        for pod in ("chat-0", "chat-1"):
            hand.cluster.merge(f"{PODS}/{pod}/status", {"status": back})
    assert not hand.is_cordoned(ONE)
    assert hand.lab[ONE].driver() == CURRENT


def test_hosts_go_one_after_the_other_and_none_after_a_failure(hand: Hand) -> None:
    told = hand.run("drivers.yml", ONE, TWO, gpufleet_version=FAILS_TO_INSTALL)
    assert told.code != 0
    assert told.report(ONE)["reason"]
    assert TWO not in told.facts["custom_stats"]
    assert not hand.is_cordoned(TWO)
    assert hand.version(TWO, "nvidia-driver") == f"{CURRENT}-1"


def test_a_host_is_judged_when_its_fabric_is_up_and_its_services_start_with_it(hand: Hand) -> None:
    # The packages do not let them start with the host, and eight GPUs take their time.
    hand.lab[ONE].set_fact("fabric_starts_s", "20")
    for unit in ("nvidia-fabricmanager", "nvidia-dcgm"):
        hand.lab[ONE].run("systemctl", "disable", "--now", unit)
    told = hand.run("drivers.yml", ONE, gpufleet_version=GOOD)
    assert told.code == 0, told.messages
    assert (told.report(ONE)["after"], told.report(ONE)["validated"]) == (GOOD, True)
    for unit in ("nvidia-fabricmanager", "nvidia-persistenced", "nvidia-dcgm"):
        assert hand.lab[ONE].run("systemctl", "is-enabled", unit).stdout == "enabled\n"
        assert hand.lab[ONE].run("systemctl", "is-active", unit).stdout == "active\n"
    assert not hand.is_cordoned(ONE)


def test_a_host_without_nvswitches_is_given_no_fabric_manager(hand: Hand) -> None:
    host = hand.lab[ONE]
    host.set_fact("nvswitches", "0")
    host.run("dpkg", "--purge", "nvidia-fabricmanager")
    host.reboot()
    told = hand.run("drivers.yml", ONE, gpufleet_version=GOOD)
    assert told.code == 0, told.messages
    assert told.report(ONE)["validated"]
    assert host.driver() == GOOD
    assert hand.version(ONE, "nvidia-fabricmanager") == ""


def test_a_node_whose_kubelet_does_not_come_back_stays_out(hand: Hand) -> None:
    kubelet(hand.cluster, ONE, ready=False)
    version = CONTAINERD[-1]
    told = hand.run("runtime.yml", ONE, gpufleet_version=version, node_uncordon_ready_within_s=5)
    assert told.code != 0
    assert "container runtime is down" in str(told.report(ONE)["reason"])
    assert hand.is_cordoned(ONE)


def test_a_node_that_offers_fewer_gpus_stays_out(hand: Hand) -> None:
    kubelet(hand.cluster, ONE, gpus=7)
    version = CONTAINERD[-1]
    told = hand.run("runtime.yml", ONE, gpufleet_version=version, node_uncordon_ready_within_s=5)
    assert "7 of 8 GPUs" in str(told.report(ONE)["reason"])
    assert hand.is_cordoned(ONE)


def test_a_containerd_that_takes_no_containers_is_never_done(hand: Hand) -> None:
    hand.lab[ONE].fault("cri", "no runtime handler")
    told = hand.run("runtime.yml", ONE, gpufleet_version=CONTAINERD[-1])
    assert told.code != 0
    assert "container runtime: RuntimeReady: no runtime handler" in str(told.report(ONE)["reason"])
    assert hand.is_cordoned(ONE)


def test_a_host_that_had_faults_before_is_left_as_it_is_and_others_go_on(hand: Hand) -> None:
    hand.lab[ONE].log_xid(94, "Contained: SM (0x1). RST: No, D-RST: No")
    told = hand.run("runtime.yml", ONE, TWO, gpufleet_version=CONTAINERD[-1])
    assert told.code == 0, told.messages
    report = told.report(ONE)
    assert (report["unfit"], report["touched"]) == (True, False)
    assert "94 at 0000:1b:00" in str(report["reason"])
    assert not hand.is_cordoned(ONE)
    assert hand.version(ONE, "containerd") == CONTAINERD[0]
    assert hand.version(TWO, "containerd") == CONTAINERD[-1]


def test_faults_of_before_do_not_count_where_somebody_wants_the_patch_all_the_same(
    hand: Hand,
) -> None:
    hand.lab[ONE].log_xid(94, "Contained: SM (0x1). RST: No, D-RST: No")
    version = CONTAINERD[-1]
    told = hand.run("runtime.yml", ONE, gpufleet_version=version, gpufleet_faults="patch")
    assert told.code == 0, told.messages
    assert told.report(ONE)["validated"]
    assert hand.version(ONE, "containerd") == version
