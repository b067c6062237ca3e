"""What Ansible is told of a fleet's hosts."""

import re
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.patching.hosts import (
    Inventory,
    demand_patchable,
    group_name,
    inventory_of,
    why_no_wave,
    why_unreachable,
)
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.hardware import Activation, BmcAccess, SshAccess

SSH = SshAccess(known_hosts="hosts/known_hosts", domain="fra1.example.com")


def fleet(**changes: Any) -> Fleet:  # noqa: ANN401 - any field of a node group
    """The article's fleet, whose node group `h100` has two hosts in two racks."""
    base = load_fleet(PROJECT_ROOT / "fleets" / "article" / "production.yaml")
    group = base.node_groups["h100"].model_copy(update={"ssh": SSH, **changes})
    return base.model_copy(update={"node_groups": {"h100": group}})


def told(declared: Fleet, **more: Any) -> Inventory:  # noqa: ANN401 - keywords of `inventory_of`
    given: dict[str, Any] = {"clusters": {}, "states": {}, **more}
    return inventory_of(declared, PurePosixPath("/fleets/article"), **given)


def test_hosts_are_called_like_their_nodes_and_stand_in_a_group_of_each_kind() -> None:
    groups = told(fleet()).groups
    for group in ("site_main", "node_group_h100", "pool_answers", "gpu_type_h100_sxm"):
        assert groups[group] == ["h100-001", "h100-002"], group
    assert groups["rack_r1"] == ["h100-001"]
    assert groups["rack_r2"] == ["h100-002"]


def test_a_host_is_in_service_until_something_else_is_remembered() -> None:
    groups = told(fleet(), states={"h100-002": "quarantined"}).groups
    assert groups["state_in_service"] == ["h100-001"]
    assert groups["state_quarantined"] == ["h100-002"]


def test_every_host_that_can_be_patched_is_in_one_wave_and_the_first_has_one() -> None:
    groups = told(fleet()).groups
    waves = {name: hosts for name, hosts in groups.items() if name.startswith("wave_")}
    assert len(waves["wave_1"]) == 1
    assert sorted(host for hosts in waves.values() for host in hosts) == ["h100-001", "h100-002"]
    assert not any(name.startswith("wave_") for name in told(fleet(ssh=None)).groups)


def test_a_wave_that_is_not_there_says_which_are_or_why_there_is_none() -> None:
    assert why_no_wave(told(fleet()), "1") == ""
    assert "waves 1 to 2" in why_no_wave(told(fleet()), "9")
    assert "wave_9" in why_no_wave(told(fleet()), "9")
    assert "no node group of the fleet file says" in why_no_wave(told(fleet(ssh=None)), "1")


def test_a_host_is_told_how_fast_its_links_have_to_be_and_where_its_switches_are() -> None:
    variables = told(fleet()).hosts["h100-001"].variables
    assert variables["gpufleet_gpu_fabric"] == "nvswitch"
    assert variables["gpufleet_least_bus_gb_per_s"] == 270
    assert variables["gpufleet_gpu_access"] == "device-plugin"


def test_a_host_key_that_is_not_in_the_declared_file_is_never_trusted() -> None:
    variables = told(fleet()).hosts["h100-001"].variables
    options = str(variables["ansible_ssh_common_args"])
    assert "StrictHostKeyChecking=yes" in options
    assert '"/fleets/article/hosts/known_hosts"' in options
    assert "GlobalKnownHostsFile=/dev/null" in options


def test_how_long_a_restart_may_take_is_declared_with_how_a_host_is_reached() -> None:
    ssh = SSH.model_copy(update={"reboot_within_s": 600})
    assert told(fleet(ssh=ssh)).hosts["h100-001"].variables["gpufleet_reboot_within_s"] == 600


def test_an_address_wins_over_the_name_with_its_domain() -> None:
    ssh = SSH.model_copy(update={"addresses": {"h100-001": "10.1.2.3"}, "port": 2222})
    hosts = told(fleet(ssh=ssh)).hosts
    assert hosts["h100-001"].variables["ansible_host"] == "10.1.2.3"
    assert hosts["h100-002"].variables["ansible_host"] == "h100-002.fra1.example.com"
    assert hosts["h100-002"].variables["ansible_port"] == 2222


def test_the_controller_of_a_host_is_found_by_its_node_s_name() -> None:
    bmc = BmcAccess(
        endpoint="https://{node}-bmc.example.com",
        certificate_authority="hosts/ca.pem",
        vbios_activation=Activation.POWER_CYCLE,
    )
    variables = told(fleet(bmc=bmc)).hosts["h100-002"].variables
    assert variables["gpufleet_bmc_endpoint"] == "https://h100-002-bmc.example.com"
    assert variables["gpufleet_bmc_system"] == "h100-002"
    assert variables["gpufleet_bmc_certificate_authority"] == "/fleets/article/hosts/ca.pem"
    assert variables["gpufleet_bmc_activation"] == "none"
    assert variables["gpufleet_vbios_activation"] == "power-cycle"


def test_the_site_s_cluster_is_named_where_it_can_be_reached() -> None:
    hosts = told(fleet(), clusters={"main": {"context": "prod-main"}}).hosts
    assert hosts["h100-001"].variables["gpufleet_kube_context"] == "prod-main"
    assert "gpufleet_kube_config" not in hosts["h100-001"].variables


def test_a_host_that_nobody_says_how_to_reach_is_refused_with_the_field_to_set() -> None:
    hosts = told(fleet(ssh=None)).hosts
    with pytest.raises(BadInput, match=r"node_groups\.h100\.ssh") as caught:
        demand_patchable(hosts, {"h100-001"})
    assert caught.value.where == "host h100-001"


def test_a_host_in_no_pool_is_refused_and_the_reason_says_so() -> None:
    declared = fleet()
    spare = {**declared.node_groups, "spare": declared.node_groups["h100"]}
    hosts = told(declared.model_copy(update={"node_groups": spare})).hosts
    demand_patchable(hosts, {"h100-001"})
    with pytest.raises(BadInput, match=r"in no pool.*\(and 1 more\)") as caught:
        demand_patchable(hosts, {"h100-001", "spare-001", "spare-002"})
    assert caught.value.where == "host spare-001"


def test_a_host_that_the_fleet_does_not_have_is_refused() -> None:
    with pytest.raises(BadInput, match="not in the fleet file"):
        demand_patchable(told(fleet()).hosts, {"h100-003"})


@given(st.text(max_size=40))
def test_a_group_s_name_is_an_identifier_of_ansible(name: str) -> None:
    assert re.fullmatch(r"pool_[A-Za-z0-9_]*", group_name("pool", name))


CHANGED = """@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
Host key verification failed."""


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (CHANGED, "its SSH host key is not the one in /f/known_hosts"),
        ("No ED25519 host key is known for 10.0.0.1", "not the one in /f/known_hosts"),
        ("gpufleet@10.0.0.1: Permission denied (publickey).", "refuses the login"),
        ("ssh: connect to host x port 22: Connection refused", "port 22: Connection refused"),
        ("", "no answer"),
    ],
)
def test_an_unreachable_host_is_told_in_one_line(message: str, shown: str) -> None:
    told_ = why_unreachable("h100-001", message, "/f/known_hosts")
    assert shown in told_
    assert "\n" not in told_
    assert told_.startswith("host h100-001:")
