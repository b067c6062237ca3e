"""Hosts in quarantine: half patched ones are brought back first, sound ones come back whole."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Until
from tests.hosts.packages import CURRENT, GOOD
from tests.hosts.patched import PatchedLab, patched_lab

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(1800)]
HOST, HOLDER = "gpu-001", "gpu-002"
RECORD = "/var/lib/gpufleet/patch.json"
BACK: dict[str, Any] = {"gpufleet_quarantine": "absent", "gpufleet_reason": "well again"}


@pytest.fixture
def hand(tmp_path: Path, until: Until) -> Iterator[PatchedLab]:
    """A host that is changed by hand, and one that all replicas stand on."""
    with patched_lab(tmp_path / "quarantined", until, 2, holder=HOLDER) as made:
        yield made


def leave_half_patched(hand: PatchedLab) -> None:
    """As an installation that was killed, and whose node was then hand."""
    record = {
        "state": "begun",
        "part": "driver",
        "flow": "patch-1",
        "version": GOOD,
        "before": CURRENT,
        "packages": {},
    }
    hand.lab[HOST].write(RECORD, json.dumps(record))
    hand.lab[HOST].run("systemctl", "stop", "nvidia-dcgm")


def test_a_half_patched_host_goes_back_before_it_leaves_quarantine(hand: PatchedLab) -> None:
    leave_half_patched(hand)
    paused = {"nvidia.com/gpu.deploy.device-plugin": "paused-for-driver-upgrade"}
    hand.cluster.merge(f"/api/v1/nodes/{HOST}", {"metadata": {"labels": paused}})
    told = hand.by_hand("quarantine.yml", HOST, gpufleet_reason="killed")
    assert told.code == 0, told.messages

    told = hand.by_hand("quarantine.yml", HOST, **BACK)
    assert told.code != 0
    assert f"a change of `driver` to {GOOD} has not ended" in told.messages
    told = hand.by_hand("rollback.yml", HOST, gpufleet_version=GOOD)
    assert told.code != 0
    assert "is no way back" in told.messages

    told = hand.by_hand("rollback.yml", HOST)
    assert told.code == 0, told.messages
    report = told.report(HOST)
    assert (report["after"], report["validated"], report["record_open"]) == (CURRENT, True, "false")
    # A person has put it there: no patch lets it out.
    assert report["quarantined"]
    assert not report["uncordoned"]

    told = hand.by_hand("quarantine.yml", HOST, **BACK)
    assert told.code == 0, told.messages
    node = hand.node(HOST)
    assert not node["spec"].get("unschedulable")
    assert not node["spec"].get("taints")
    assert node["metadata"]["labels"]["nvidia.com/gpu.deploy.device-plugin"] == "true"
    assert hand.lab[HOST].run("systemctl", "is-active", "nvidia-dcgm").stdout == "active\n"


def test_a_host_returns_with_the_driver_that_it_has_and_whole_packages_only(
    hand: PatchedLab,
) -> None:
    told = hand.by_hand("drivers.yml", HOST, gpufleet_version=GOOD)
    assert told.code == 0, told.messages
    told = hand.by_hand("quarantine.yml", HOST, gpufleet_reason="XID")
    assert told.code == 0, told.messages
    told = hand.by_hand("quarantine.yml", HOST, **BACK)
    # The fleet file still pins the one of before.
    assert told.code == 0, told.messages
    assert not hand.node(HOST)["spec"].get("unschedulable")
    assert hand.lab[HOST].driver() == GOOD
