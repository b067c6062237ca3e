"""Container runtime, kernel and security updates on real hosts, each host with a fate of its own.

What a host's fate comes to is a test each; the runs are shared, since they take a while.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from tests.conftest import Until
from tests.hosts.packages import CONTAINERD, KERNELS, SECURITY, TOOLKIT
from tests.hosts.patched import TOKEN_TASK, PatchedLab, each, patched_lab
from tests.playbooks import Told

RUNTIME, TOOLS, KERNEL, UPDATES, NO_IMAGE, NO_GPU, UNFIT, NO_SERVICE = (
    f"gpu-{number:03d}" for number in range(1, 9)
)
SOUND = (RUNTIME, TOOLS, KERNEL, UPDATES)
PARTS = {
    RUNTIME: "containerd",
    TOOLS: "container-toolkit",
    KERNEL: "kernel",
    UPDATES: "security",
    NO_IMAGE: "containerd",
    NO_GPU: "kernel",
    UNFIT: "security",
    NO_SERVICE: "containerd",
}
VERSIONS = {
    **dict.fromkeys((RUNTIME, NO_IMAGE, NO_SERVICE), CONTAINERD[1]),
    TOOLS: TOOLKIT[1],
    KERNEL: KERNELS[1],
    NO_GPU: KERNELS[2],
    **dict.fromkeys((UPDATES, UNFIT), ""),
}
IMAGE = f"docker.io/vllm/vllm-openai@sha256:{'9':0<64}"
IMAGES: dict[str, list[str]] = {
    host: [IMAGE] if host in {RUNTIME, NO_IMAGE} else [] for host in PARTS
}
KEPT_IMAGES = "/var/lib/gpu-stub/images"
BREAKS_A_GPU = """\
#!/bin/sh
mkdir -p /var/lib/gpu-stub/faults
echo failure > /var/lib/gpu-stub/faults/row-remap
"""

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(3000)]


@dataclass
class Fates:
    """The hosts, and the runs that were made over them."""

    hosts: PatchedLab
    boots: dict[str, str] = field(default_factory=dict)
    """The boot that each host was in before anything was done."""
    runs: dict[str, Told] = field(default_factory=dict)
    checked: dict[str, str] = field(default_factory=dict)
    """What hosts had after check mode."""

    def run(self, name: str, *hosts: str, check: bool = False, **given: object) -> None:
        """Bring hosts to what they are to have."""
        wanted = {
            "gpufleet_part": each(PARTS),
            "gpufleet_version": each(VERSIONS),
            "gpufleet_images": each(IMAGES),
        }
        self.runs[name] = self.hosts.run("runtime.yml", *hosts, check=check, **wanted, **given)

    def has(self, host: str) -> str:
        """What a host has of its part, as it tells itself."""
        package = {
            "containerd": "containerd",
            "container-toolkit": "nvidia-container-toolkit",
            "security": "libgpustub1",
        }
        if PARTS[host] == "kernel":
            return self.hosts.lab.ssh(host, "uname -r").stdout.strip()
        return self.hosts.package(host, package[PARTS[host]])


@pytest.fixture(scope="module")
def fates(tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[Fates]:
    with patched_lab(tmp_path_factory.mktemp("runtime"), until) as hosts:
        made = Fates(hosts, {name: host.boot_id for name, host in hosts.lab.hosts.items()})
        # The lists of packages are refreshed by no run in check mode.
        hosts.lab.ssh(UPDATES, "sudo apt-get -qq update")
        made.run("check", *SOUND, check=True)
        made.run("check again", *SOUND, check=True)
        made.checked = {host: made.has(host) for host in SOUND}
        hosts.lab[NO_IMAGE].fault("pull", "manifest unknown")
        hosts.after_installing(UNFIT, BREAKS_A_GPU)
        hosts.lab[NO_SERVICE].fault("unit-containerd")
        made.run("all", *PARTS)
        hosts.lab[NO_IMAGE].mend()
        made.run("again", *SOUND)
        yield made


BEFORE = {
    "containerd": CONTAINERD[0],
    "container-toolkit": TOOLKIT[0],
    "kernel": KERNELS[0],
    "security": SECURITY[0],
}


def test_check_mode_touches_nothing_and_tells_the_same_twice(fates: Fates) -> None:
    first, second = (fates.runs[name] for name in ("check", "check again"))
    assert (first.code, second.code) == (0, 0), first.messages + second.messages
    for host in SOUND:
        assert first.changing(host) == second.changing(host) != []
    assert fates.checked == {host: BEFORE[PARTS[host]] for host in SOUND}


@pytest.mark.parametrize(
    ("host", "version"),
    [(RUNTIME, CONTAINERD[1]), (TOOLS, TOOLKIT[1]), (UPDATES, SECURITY[1]), (KERNEL, KERNELS[1])],
)
def test_a_host_gets_its_part_is_validated_and_serves_again(
    fates: Fates, host: str, version: str
) -> None:
    report = fates.runs["all"].report(host)
    assert (report["reason"], report["validated"], report["uncordoned"]) == ("", True, True)
    assert fates.has(host) == version
    assert not fates.hosts.is_cordoned(host)


def test_only_a_new_kernel_restarts_its_host(fates: Fates) -> None:
    restarted = [host for host in SOUND if fates.hosts.lab[host].boot_id != fates.boots[host]]
    assert restarted == [KERNEL]
    report = fates.runs["all"].report(KERNEL)
    assert (report["before"], report["after"]) == KERNELS[:2]


def test_an_engine_image_is_pulled_by_its_digest_while_the_host_is_out(fates: Fates) -> None:
    assert fates.hosts.lab[RUNTIME].path(KEPT_IMAGES).read_text().split() == [IMAGE]


def test_the_second_run_changes_nothing(fates: Fates) -> None:
    again = fates.runs["again"]
    assert again.code == 0, again.messages
    for host in SOUND:
        changing = [name for name in again.changing(host) if TOKEN_TASK not in name]
        assert (host, changing) == (host, [])


def test_an_image_that_cannot_be_pulled_gives_the_host_its_runtime_back(fates: Fates) -> None:
    report = fates.runs["all"].report(NO_IMAGE)
    assert "manifest unknown" in report["reason"]
    assert (report["quarantined"], report["validated"]) == (False, True)
    assert fates.has(NO_IMAGE) == CONTAINERD[0]
    assert not fates.hosts.is_cordoned(NO_IMAGE)


def test_a_kernel_without_a_driver_gives_the_host_its_kernel_back(fates: Fates) -> None:
    report = fates.runs["all"].report(NO_GPU)
    assert "Start the services: " in report["reason"]
    assert "nvidia-" in report["reason"]
    assert (report["after"], report["quarantined"], report["validated"]) == (
        KERNELS[0],
        False,
        True,
    )
    assert fates.has(NO_GPU) == KERNELS[0]
    assert not fates.hosts.is_cordoned(NO_GPU)


def test_an_unfit_host_keeps_its_security_updates_and_is_quarantined(fates: Fates) -> None:
    report = fates.runs["all"].report(UNFIT)
    assert "is not fit to serve" in report["reason"]
    assert "no way back" in report["reason"]
    assert report["quarantined"]
    assert fates.has(UNFIT) == SECURITY[1]
    assert fates.hosts.is_quarantined(UNFIT)


def test_a_runtime_that_starts_in_no_version_quarantines_its_host(fates: Fates) -> None:
    report = fates.runs["all"].report(NO_SERVICE)
    assert "containerd" in report["reason"]
    assert (report["quarantined"], report["validated"]) == (True, False)
    assert fates.hosts.is_quarantined(NO_SERVICE)


def test_an_image_by_tag_and_a_version_that_nobody_has_are_refused_untouched(fates: Fates) -> None:
    hosts = fates.hosts
    refused = {RUNTIME: "docker.io/vllm/vllm-openai:latest", TOOLS: ""}
    told = hosts.run(
        "runtime.yml",
        *refused,
        gpufleet_part=each(PARTS),
        gpufleet_version=each({RUNTIME: CONTAINERD[1], TOOLS: "9.9.9-1"}),
        gpufleet_images=each({host: [image] if image else [] for host, image in refused.items()}),
    )
    assert told.code != 0
    assert "pulled by digest only" in told.report(RUNTIME)["reason"]
    assert "does not have nvidia-container-toolkit 9.9.9-1" in told.report(TOOLS)["reason"]
    for host in refused:
        assert told.report(host)["touched"] is False
        assert fates.has(host) == VERSIONS[host]
        assert not hosts.is_cordoned(host)
