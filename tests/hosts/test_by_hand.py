"""Playbooks that a person runs on real hosts: what they take out of service, and what serves."""

from collections.abc import Iterator

import pytest
from tests.conftest import Until
from tests.hosts.nodes import kubelet
from tests.hosts.packages import CONTAINERD, CURRENT, FAILS_TO_INSTALL, GOOD
from tests.hosts.patched import PatchedLab, patched_lab

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(1800)]
ONE, TWO, HOLDER = "gpu-001", "gpu-002", "gpu-003"
PODS = "/api/v1/namespaces/gpufleet-interactive/pods"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[PatchedLab]:
    """Three hosts; all replicas of their pool stand on the last one."""
    with patched_lab(tmp_path_factory.mktemp("hand"), until, 3, holder=HOLDER) as made:
        yield made


@pytest.fixture
def hand(made: PatchedLab) -> Iterator[PatchedLab]:
    """The same; after the test its first two hosts, and their nodes, are as new."""
    yield made
    made.lab.renew(ONE, TWO)
    for host in (ONE, TWO):
        kubelet(made.cluster, host)
        spec = {"unschedulable": None, "taints": None}
        marks = {"annotations": None, "labels": None}
        made.cluster.merge(f"/api/v1/nodes/{host}", {"spec": spec, "metadata": marks})


def test_where_nobody_says_which_hosts_none_is_touched(made: PatchedLab) -> None:
    for check in (False, True):
        told = made.by_hand("drivers.yml", gpufleet_version=GOOD, check=check)
        assert told.code != 0
        assert "nobody has said which hosts" in told.messages
        assert "--limit" in told.messages


def test_a_pool_that_has_nothing_to_spare_keeps_its_hosts(hand: PatchedLab) -> None:
    gone = {"conditions": [{"type": "Ready", "status": "False"}]}
    back = {"conditions": [{"type": "Ready", "status": "True"}]}
    for pod in ("chat-0", "chat-1"):
        hand.cluster.merge(f"{PODS}/{pod}/status", {"status": gone})
    try:
        told = hand.by_hand("drivers.yml", ONE, gpufleet_version=GOOD)
        assert told.code != 0
        assert "3 of 5 replicas serve" in told.messages
    finally:
        for pod in ("chat-0", "chat-1"):
            hand.cluster.merge(f"{PODS}/{pod}/status", {"status": back})
    assert not hand.is_cordoned(ONE)
    assert hand.lab[ONE].driver() == CURRENT


def test_hosts_go_one_after_the_other_and_none_after_a_failure(hand: PatchedLab) -> None:
    told = hand.by_hand("drivers.yml", ONE, TWO, gpufleet_version=FAILS_TO_INSTALL)
    assert told.code != 0
    assert told.report(ONE)["reason"]
    assert TWO not in told.facts["custom_stats"]
    assert not hand.is_cordoned(TWO)
    assert hand.package(TWO, "nvidia-driver") == f"{CURRENT}-1"


def test_a_host_is_judged_when_its_fabric_is_up_and_its_services_start_with_it(
    hand: PatchedLab,
) -> None:
    # The packages do not let them start with the host, and eight GPUs take their time.
    hand.lab[ONE].set_fact("fabric_starts_s", "20")
    for unit in ("nvidia-fabricmanager", "nvidia-dcgm"):
        hand.lab[ONE].run("systemctl", "disable", "--now", unit)
    told = hand.by_hand("drivers.yml", ONE, gpufleet_version=GOOD)
    assert told.code == 0, told.messages
    assert (told.report(ONE)["after"], told.report(ONE)["validated"]) == (GOOD, True)
    for unit in ("nvidia-fabricmanager", "nvidia-persistenced", "nvidia-dcgm"):
        assert hand.lab[ONE].run("systemctl", "is-enabled", unit).stdout == "enabled\n"
        assert hand.lab[ONE].run("systemctl", "is-active", unit).stdout == "active\n"
    assert not hand.is_cordoned(ONE)


def test_a_host_without_nvswitches_is_given_no_fabric_manager(hand: PatchedLab) -> None:
    host = hand.lab[ONE]
    host.set_fact("nvswitches", "0")
    host.run("dpkg", "--purge", "nvidia-fabricmanager")
    host.reboot()
    told = hand.by_hand("drivers.yml", ONE, gpufleet_version=GOOD)
    assert told.code == 0, told.messages
    assert told.report(ONE)["validated"]
    assert host.driver() == GOOD
    assert hand.package(ONE, "nvidia-fabricmanager") == ""


def test_a_node_whose_kubelet_does_not_come_back_stays_out(hand: PatchedLab) -> None:
    kubelet(hand.cluster, ONE, ready=False)
    version = CONTAINERD[-1]
    told = hand.by_hand(
        "runtime.yml", ONE, gpufleet_version=version, node_uncordon_ready_within_s=5
    )
    assert told.code != 0
    assert "container runtime is down" in str(told.report(ONE)["reason"])
    assert hand.is_cordoned(ONE)


def test_a_node_that_offers_fewer_gpus_stays_out(hand: PatchedLab) -> None:
    kubelet(hand.cluster, ONE, gpus=7)
    version = CONTAINERD[-1]
    told = hand.by_hand(
        "runtime.yml", ONE, gpufleet_version=version, node_uncordon_ready_within_s=5
    )
    assert "7 of 8 GPUs" in str(told.report(ONE)["reason"])
    assert hand.is_cordoned(ONE)


def test_a_containerd_that_takes_no_containers_is_never_done(hand: PatchedLab) -> None:
    hand.lab[ONE].fault("cri", "no runtime handler")
    told = hand.by_hand("runtime.yml", ONE, gpufleet_version=CONTAINERD[-1])
    assert told.code != 0
    assert "container runtime: RuntimeReady: no runtime handler" in str(told.report(ONE)["reason"])
    assert hand.is_cordoned(ONE)


def test_a_host_that_had_faults_before_is_left_as_it_is_and_others_go_on(hand: PatchedLab) -> None:
    hand.lab[ONE].log_xid(94, "Contained: SM (0x1). RST: No, D-RST: No")
    told = hand.by_hand("runtime.yml", ONE, TWO, gpufleet_version=CONTAINERD[-1])
    assert told.code == 0, told.messages
    report = told.report(ONE)
    assert (report["unfit"], report["touched"]) == (True, False)
    assert "94 at 0000:1b:00" in str(report["reason"])
    assert not hand.is_cordoned(ONE)
    assert hand.package(ONE, "containerd") == CONTAINERD[0]
    assert hand.package(TWO, "containerd") == CONTAINERD[-1]


def test_faults_of_before_do_not_count_where_somebody_wants_the_patch_all_the_same(
    hand: PatchedLab,
) -> None:
    hand.lab[ONE].log_xid(94, "Contained: SM (0x1). RST: No, D-RST: No")
    version = CONTAINERD[-1]
    told = hand.by_hand("runtime.yml", ONE, gpufleet_version=version, gpufleet_faults="patch")
    assert told.code == 0, told.messages
    assert told.report(ONE)["validated"]
    assert hand.package(ONE, "containerd") == version
