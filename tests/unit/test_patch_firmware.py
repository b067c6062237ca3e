"""Firmware is written only where it may be, and only forwards."""

import re

import pytest

from gpufleet.core.patching.firmware import (
    activation_of,
    as_one,
    demand_forward,
    demand_ready,
    expression_of,
    is_done,
    is_older,
    resets_for,
    versions_of,
)
from gpufleet.spec.errors import PolicyRefused
from gpufleet.spec.firmware import Condition, Software
from gpufleet.spec.hardware import Activation
from gpufleet.spec.patching import Part


def entry(version: str, name: str = "BMC", *, updateable: bool = True) -> Software:
    return Software(
        f"/redfish/v1/UpdateService/FirmwareInventory/{name}", name, version, updateable
    )


@pytest.mark.parametrize(
    ("part", "name", "meant"),
    [
        (Part.BMC, "BMC", True),
        (Part.BMC, "HGX_FW_BMC_0", True),
        (Part.BMC, "gpu-001-bmc", True),
        (Part.BMC, "gpu-002-bmc", False),
        (Part.BMC, "HGX_FW_ERoT_BMC_0", False),
        (Part.VBIOS, "HGX_FW_GPU_SXM_8", True),
        (Part.VBIOS, "gpu-001-vbios", True),
        (Part.VBIOS, "HGX_FW_ERoT_GPU_SXM_8", False),
        (Part.VBIOS, "HGX_FW_BMC_0", False),
    ],
)
def test_a_parts_entries_are_those_of_boards_and_of_the_host_itself(
    part: Part, name: str, *, meant: bool
) -> None:
    found = re.fullmatch(expression_of(part, "gpu-001"), name, re.IGNORECASE)
    assert (found is not None) is meant


def test_entries_can_be_declared() -> None:
    assert expression_of(Part.BMC, "gpu-001", "iDRAC.*") == "iDRAC.*"


def test_an_older_version_is_refused_unless_it_was_rehearsed() -> None:
    entries = [entry("24.09.1"), entry("24.10.2", "BMC_1")]
    with pytest.raises(PolicyRefused, match="forward only: BMC_1 has"):
        demand_forward(entries, "24.09.1", rehearsed=False)
    demand_forward(entries, "24.09.1", rehearsed=True)
    demand_forward(entries, "24.10.2", rehearsed=False)


def test_gpu_firmware_is_compared_as_hexadecimal() -> None:
    with pytest.raises(PolicyRefused):
        demand_forward([entry("96.00.1A.00.01")], "96.00.19.00.01", rehearsed=False)
    demand_forward([entry("96.00.89.00.01")], "96.00.9F.00.01", rehearsed=False)


def test_what_the_controller_does_not_update_is_refused() -> None:
    with pytest.raises(PolicyRefused, match="does not update BMC"):
        demand_forward([entry("1.0", updateable=False)], "2.0", rehearsed=False)
    demand_forward([entry("2.0", updateable=False)], "2.0", rehearsed=False)


@pytest.mark.parametrize(
    ("part", "condition", "why"),
    [
        (Part.BMC, Condition("On", {"battery 1": "Warning"}), "battery 1 is Warning"),
        (Part.BMC, Condition("PoweringOff"), "power is PoweringOff"),
        (Part.VBIOS, Condition("Off"), "power is Off"),
    ],
)
def test_a_host_with_a_fault_or_without_settled_power_is_refused(
    part: Part, condition: Condition, why: str
) -> None:
    with pytest.raises(PolicyRefused, match=why):
        demand_ready(part, condition)


@pytest.mark.parametrize(
    ("part", "power"), [(Part.BMC, "On"), (Part.BMC, "Off"), (Part.BMC, ""), (Part.VBIOS, "On")]
)
def test_a_healthy_host_is_admitted(part: Part, power: str) -> None:
    demand_ready(part, Condition(power))


def test_it_is_done_when_every_entry_has_the_version() -> None:
    entries = [entry("2.0", "GPU_0"), entry("1.0", "GPU_1")]
    assert not is_done(entries, "2.0")
    assert as_one(versions_of(entries)) == "1.0,2.0"
    assert is_done(entries[:1], "2.0")


def test_each_part_has_its_usual_activation_and_takes_a_declared_one() -> None:
    assert activation_of(Part.BMC) is Activation.NONE
    assert activation_of(Part.VBIOS) is Activation.REBOOT
    assert activation_of(Part.VBIOS, "power-cycle") is Activation.POWER_CYCLE


@pytest.mark.parametrize(
    ("allowed", "power", "resets"),
    [
        (["On", "GracefulShutdown", "PowerCycle"], "On", ["GracefulShutdown", "On"]),
        (["On", "ForceOff", "PowerCycle"], "On", ["PowerCycle"]),
        (["On", "GracefulShutdown"], "Off", ["On"]),
        (["ForceRestart"], "On", []),
    ],
)
def test_a_hosts_power_is_cycled_in_order_where_it_can_be(
    allowed: list[str], power: str, resets: list[str]
) -> None:
    assert resets_for(allowed, power) == resets


def test_only_a_version_before_that_of_an_entry_is_older() -> None:
    assert is_older([entry("24.09.1"), entry("24.10.2")], "24.09.1")
    assert not is_older([entry("24.09.1")], "24.10.2")
