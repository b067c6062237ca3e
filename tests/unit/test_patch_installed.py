"""What hosts print is read as what they have."""

import pytest

from gpufleet.core.patching.installed import (
    Gpu,
    Package,
    going_back,
    is_version,
    missing,
    parse_dpkg,
    parse_enabled_services,
    parse_madison,
    parse_nvidia_smi,
    parse_repoquery,
    parse_rpm,
    parse_security_updates,
    pick,
    space_needed,
    versionlock,
)

DPKG = (
    "nvidia-driver\t580.95.05-1\tinstalled\thold\n"
    "nvidia-kernel-dkms\t580.126.09-1\thalf-configured\tinstall\n"
    "nvidia-fabricmanager\t\tnot-installed\tunknown\n"
)


def test_dpkg_tells_version_state_and_hold() -> None:
    assert parse_dpkg(DPKG) == {
        "nvidia-driver": Package("580.95.05-1", "installed", held=True),
        "nvidia-kernel-dkms": Package("580.126.09-1", "half-configured"),
    }


def test_only_services_that_start_with_the_host_are_started_with_it() -> None:
    told = "nvidia-dcgm.service enabled enabled\ndcgm-exporter.service disabled enabled\n"
    assert parse_enabled_services(told) == ["nvidia-dcgm"]
    assert parse_enabled_services("0 unit files listed.\n") == []


def test_rpm_tells_what_is_installed_and_not_what_is_absent() -> None:
    told = "nvidia-driver\t3:580.95.05-1.el9\npackage dcgm is not installed\nkernel\t0:5.14-1\n"
    assert parse_rpm(told) == {
        "nvidia-driver": Package("3:580.95.05-1.el9"),
        "kernel": Package("5.14-1"),
    }


def test_gpus_are_read_and_an_error_is_no_gpu() -> None:
    rows = "580.95.05, 96.00.89.00.01\n580.95.05, 96.00.89.00.01\n"
    assert parse_nvidia_smi(rows) == [Gpu("580.95.05", "96.00.89.00.01")] * 2
    failed = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"
    assert parse_nvidia_smi(failed) == []


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ("580.95.05-1", "580.95.05", True),
        ("1:4.4.1-1", "4.4.1", True),
        ("1:4.4.1-1", "1:4.4.1-1", True),
        ("580.95.05-1", "580.95.0", False),
        ("580.95.05-2", "580.95.05-1", False),
    ],
)
def test_a_package_has_a_version_given_whole_or_as_the_upstreams(
    found: str, wanted: str, *, same: bool
) -> None:
    assert is_version(found, wanted) is same


def test_the_repositorys_own_version_is_chosen_and_its_newest_revision() -> None:
    told = (
        "nvidia-driver | 580.105.08-2 | http://repo ./ Packages\n"
        "nvidia-driver | 580.105.08-1 | http://repo ./ Packages\n"
        "nvidia-driver | 580.95.05-1 | http://repo ./ Packages\n"
    )
    offered = parse_madison(told)["nvidia-driver"]
    assert pick(offered, "580.105.08") == "580.105.08-2"
    assert pick(offered, "580.105.08-1") == "580.105.08-1"
    assert pick(offered, "590.44.01") is None


def test_dnf_offers_the_oldest_first_and_is_held_with_its_epoch() -> None:
    told = (
        "nvidia-driver\t3:580.95.05-1.el9\n\n"
        "nvidia-driver\t3:580.105.08-1.el9\n\n"
        "nvidia-driver\t3:580.105.08-2.el9\n\n"
        "containerd.io\t0:1.7.28-1.el9\n\n"
    )
    offered = parse_repoquery(told)
    assert pick(offered["nvidia-driver"], "580.105.08") == "3:580.105.08-2.el9"
    assert pick(offered["containerd.io"], "1.7.28") == "1.7.28-1.el9"
    assert versionlock("nvidia-driver", "3:580.105.08-2.el9") == (
        "nvidia-driver-3:580.105.08-2.el9.*"
    )
    assert versionlock("containerd.io", "1.7.28-1.el9") == "containerd.io-0:1.7.28-1.el9.*"


def test_what_is_not_whole_counts_as_missing() -> None:
    wanted = {"nvidia-driver": "580.95.05", "nvidia-kernel-dkms": "580.126.09", "dcgm": "4.4.1"}
    assert missing(parse_dpkg(DPKG), wanted) == {
        "nvidia-kernel-dkms": "580.126.09",
        "dcgm": "4.4.1",
    }
    assert missing(parse_dpkg(DPKG), {"nvidia-driver": "", "nvidia-kernel-dkms": ""}) == {}


def test_only_updates_from_security_are_taken() -> None:
    simulated = (
        "Inst libssl3 [3.0.11-1] (3.0.15-1~deb12u1 Debian-Security:12/stable-security [amd64]) []\n"
        "Inst tzdata [2024a-0] (2025b-0 Debian:12.11/stable [all])\n"
        "Inst libnew (1.0-1 Debian-Security:12/stable-security [amd64])\n"
        "Conf libssl3 (3.0.15-1~deb12u1 Debian-Security:12/stable-security [amd64])\n"
    )
    assert parse_security_updates(simulated) == {"libssl3": "3.0.15-1~deb12u1"}


def test_space_is_what_the_packages_say_and_some_beside() -> None:
    told = "Package: a\nInstalled-Size: 2\nSize: 100\n\nPackage: b\nInstalled-Size: 1\nSize: 11\n"
    assert space_needed(told, 10) == {"/usr": 6154, "/var": 3193, "/boot": 10}
    assert space_needed("", 10) == {"/usr": 10, "/var": 10, "/boot": 10}


def test_what_came_with_a_package_goes_back_with_it_and_what_is_called_alike_does_not() -> None:
    packages = {
        "nvidia-driver": Package("580.95.05-1"),
        "libcuda1": Package("580.95.05-1"),
        "datacenter-gpu-manager-4-core": Package("1:4.4.1-1"),
        "nvidia-container-toolkit": Package("1.18.0-1"),
        "libnvidia-old": Package("580.95.05-1", "config-files"),
    }
    assert going_back(packages, ["nvidia-driver", "datacenter-gpu-manager-4-core", "absent"]) == {
        "nvidia-driver": "580.95.05-1",
        "libcuda1": "580.95.05-1",
        "datacenter-gpu-manager-4-core": "1:4.4.1-1",
    }
