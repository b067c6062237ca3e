"""Drivers where the firmware lets the kernel load nothing without a known signature."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import Until
from tests.hosts.packages import CURRENT, GOOD, PRECOMPILED
from tests.hosts.patched import TOKEN_TASK, PatchedLab, each, patched_lab

UNKNOWN, ENROLLED, SIGNED = HOSTS = ("gpu-001", "gpu-002", "gpu-003")
FLAVOURS = {UNKNOWN: "dkms", ENROLLED: "dkms", SIGNED: "precompiled"}
PACKAGES = {
    "apt": {
        "dkms": ["nvidia-driver", "nvidia-kernel-dkms", "nvidia-fabricmanager"],
        "precompiled": ["nvidia-driver", PRECOMPILED, "nvidia-fabricmanager"],
    }
}

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[PatchedLab]:
    """Hosts with secure boot; DKMS has signed with a key that only one of them knows."""
    with patched_lab(tmp_path_factory.mktemp("secure"), until, len(HOSTS)) as made:
        for name in HOSTS:
            made.lab[name].set_fact("secure_boot", "1")
            made.lab[name].set_fact("key_enrolled", "1" if name == ENROLLED else "0")
        # As an earlier patch leaves it.
        made.lab[SIGNED].run("apt-mark", "hold", "nvidia-kernel-dkms")
        yield made


def test_a_driver_that_the_kernel_would_not_load_is_refused_and_a_signed_one_goes_on(
    hosts: PatchedLab,
) -> None:
    wanted: dict[str, Any] = {
        "gpufleet_version": GOOD,
        "gpu_driver_flavour": each(FLAVOURS),
        "gpu_driver_packages": PACKAGES,
    }
    told = hosts.run("drivers.yml", *HOSTS, **wanted)
    refused = told.report(UNKNOWN)
    assert "the key of DKMS (/var/lib/dkms/mok.pub) is not enrolled" in refused["reason"]
    assert refused["touched"] is False
    assert hosts.lab[UNKNOWN].driver() == CURRENT
    assert hosts.package(UNKNOWN, "nvidia-driver") == f"{CURRENT}-1"
    for host in (ENROLLED, SIGNED):
        report = told.report(host)
        assert (report["reason"], report["validated"]) == ("", True)
        assert hosts.lab[host].driver() == GOOD
    assert hosts.package(SIGNED, PRECOMPILED) == f"{GOOD}-1"
    assert hosts.package(SIGNED, "nvidia-kernel-dkms") == ""
    assert not any(hosts.is_cordoned(host) for host in HOSTS)

    again = hosts.run("drivers.yml", ENROLLED, SIGNED, **wanted)
    assert again.code == 0, again.messages
    for host in (ENROLLED, SIGNED):
        assert [name for name in again.changing(host) if TOKEN_TASK not in name] == []
