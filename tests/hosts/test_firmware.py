"""Firmware of real hosts by the playbook, each host with a fate of its own.

What a host's fate comes to is a test each; the runs are shared, since they take a while.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from tests.conftest import Until
from tests.hosts.patched import TOKEN_TASK, PatchedLab, each, patched_lab
from tests.playbooks import Told

BMC, VBIOS, OLDER, BATTERY, HANGS, FAILS, LOST, NO_FILE = (
    f"gpu-{number:03d}" for number in range(1, 9)
)
SOUND = (BMC, VBIOS)
PARTS = {
    **dict.fromkeys((BMC, OLDER, BATTERY, HANGS, FAILS, LOST, NO_FILE), "bmc"),
    VBIOS: "vbios",
}
FIRST = {"bmc": "1.00", "vbios": "96.00.89.00.01"}
VERSIONS = {
    **dict.fromkeys((BMC, BATTERY, HANGS, FAILS, LOST), "1.02"),
    VBIOS: "96.00.9F.00.02",
    OLDER: "0.90",
    NO_FILE: "1.03",
}
# The two that never end are waited for in vain; a controller is lost once it has written all.
WITHIN_S = {**dict.fromkeys(PARTS, 900), HANGS: 5, LOST: 60}

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(3000)]


@dataclass
class Fates:
    """The hosts, and the runs that were made over them."""

    hosts: PatchedLab
    boots: dict[str, str] = field(default_factory=dict)
    """The boot that each host was in before anything was done."""
    runs: dict[str, Told] = field(default_factory=dict)

    def run(self, name: str, *hosts: str, check: bool = False) -> None:
        """Bring hosts to what they are to have."""
        self.runs[name] = self.hosts.run(
            "firmware.yml",
            *hosts,
            check=check,
            gpufleet_part=each(PARTS),
            gpufleet_version=each(VERSIONS),
            gpu_firmware_folder=str(self.hosts.lab.controllers.folder),
            gpu_firmware_within_s=each(WITHIN_S),
        )

    def has_restarted(self, host: str) -> bool:
        """Whether a host is in another boot than at first."""
        return self.hosts.lab[host].boot_id != self.boots[host]


@pytest.fixture(scope="module")
def fates(tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[Fates]:
    with patched_lab(tmp_path_factory.mktemp("firmware"), until) as hosts:
        made = Fates(hosts, {name: host.boot_id for name, host in hosts.lab.hosts.items()})
        controllers = hosts.lab.controllers
        for host, part in PARTS.items():
            if host != NO_FILE:
                controllers.image(part, VERSIONS[host])
        made.run("check", *SOUND, check=True)
        made.run("check again", *SOUND, check=True)
        controllers.fault(BATTERY, "battery-low")
        controllers.fault(HANGS, "update-hangs")
        controllers.fault(FAILS, "update-fails")
        controllers.fault(LOST, "does-not-return")
        made.run("all", *PARTS)
        made.run("again", *SOUND)
        yield made


def test_check_mode_touches_nothing_and_tells_the_same_twice(fates: Fates) -> None:
    first, second = (fates.runs[name] for name in ("check", "check again"))
    assert (first.code, second.code) == (0, 0), first.messages + second.messages
    for host in SOUND:
        assert first.changing(host) == second.changing(host) != []
        assert fates.runs["all"].report(host)["before"] == FIRST[PARTS[host]]


@pytest.mark.parametrize("host", SOUND)
def test_a_host_gets_its_firmware_is_validated_and_serves_again(fates: Fates, host: str) -> None:
    report = fates.runs["all"].report(host)
    assert (report["before"], report["after"]) == (FIRST[PARTS[host]], VERSIONS[host])
    assert (report["reason"], report["validated"], report["uncordoned"]) == ("", True, True)
    assert not fates.hosts.is_cordoned(host)


def test_firmware_of_gpus_restarts_its_host_and_is_what_they_say_then(fates: Fates) -> None:
    assert [host for host in SOUND if fates.has_restarted(host)] == [VBIOS]
    asked = ("nvidia-smi", "--query-gpu=vbios_version", "--format=csv,noheader")
    assert set(fates.hosts.lab.ssh(VBIOS, *asked).stdout.split()) == {VERSIONS[VBIOS]}


def test_the_second_run_changes_nothing(fates: Fates) -> None:
    again = fates.runs["again"]
    assert again.code == 0, again.messages
    for host in SOUND:
        changing = [name for name in again.changing(host) if TOKEN_TASK not in name]
        assert (host, changing) == (host, [])


@pytest.mark.parametrize(
    ("host", "why"),
    [(OLDER, "firmware goes forward only"), (BATTERY, "battery 1 is"), (NO_FILE, "cannot be read")],
)
def test_what_must_not_be_written_is_refused_and_the_host_serves_on(
    fates: Fates, host: str, why: str
) -> None:
    report = fates.runs["all"].report(host)
    assert why in report["reason"]
    assert (report["touched"], report["quarantined"]) == (False, False)
    assert report["after"] == FIRST["bmc"]
    assert not fates.hosts.is_cordoned(host)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        (HANGS, "did not end within 5 s"),
        (FAILS, "the component keeps its version"),
        (LOST, "does not answer"),
    ],
)
def test_firmware_that_was_not_written_whole_quarantines_its_host(
    fates: Fates, host: str, why: str
) -> None:
    report = fates.runs["all"].report(host)
    assert why in report["reason"]
    assert "no way back" in report["reason"]
    assert (report["quarantined"], report["validated"]) == (True, False)
    assert fates.hosts.is_quarantined(host)
