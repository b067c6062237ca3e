"""Drivers on real hosts, each with a fate of its own.

What a host's fate comes to is a test each. The runs take a while, so that they are shared: each is
a fixture that is made once, over whatever the runs before it have left.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.conftest import Until
from tests.hosts.lab import Lab
from tests.hosts.nodes import SITE, nodes
from tests.hosts.packages import BREAKS_AFTER_REBOOT, CURRENT, FAILS_TO_INSTALL, GOOD
from tests.hosts.requirements import why_not
from tests.playbooks import PLAYBOOKS, Running, Told, start_playbook

from gpufleet.core.patching.nodes import CORDONED_BY, QUARANTINE_REASON, QUARANTINED
from gpufleet.edges.kube import Cluster

HOSTS = [f"gpu-{number:03d}" for number in range(1, 13)]
PLAIN, BROKEN, BREAKS, LOST, FULL, CUT, HELD, UNFIT, SICK, GONE, KILLED, LEFT = HOSTS
WANTED = dict.fromkeys(HOSTS, GOOD) | {BROKEN: FAILS_TO_INSTALL, BREAKS: BREAKS_AFTER_REBOOT}
# Until a run has come so far, on a machine that has other things to do.
WITHIN_S = 1800
RECORD = "/var/lib/gpufleet/patch.json"
# With the new driver, and only with it, a GPU has half of its lanes.
UNFIT_WITH_NEW = f"""\
#!/bin/sh
mkdir -p /var/lib/gpu-stub/faults
rm -f /var/lib/gpu-stub/faults/pcie-width
[ ! -e /var/lib/gpu-stub/built/{GOOD} ] || echo 8 > /var/lib/gpu-stub/faults/pcie-width
"""

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(3000)]


@dataclass
class Fates:
    """The lab and its nodes."""

    lab: Lab
    cluster: Cluster
    fleet_file: Path
    kubeconfig: Path
    until: Until
    before: dict[str, str] = field(default_factory=dict)
    """Packages of each host before anything was done."""

    def start(self, playbook: str, *hosts: str, check: bool = False, **given: object) -> Running:
        """Begin a run with these variables."""
        told = {
            "gpufleet_kube_config": str(self.kubeconfig),
            "gpufleet_kube_context": SITE,
            "gpufleet_reboot_within_s": 90,
            "gpufleet_return_within_s": 20,
            # No replica runs on these nodes.
            "gpu_validate_token": False,
            **given,
        }
        return start_playbook(
            self.fleet_file,
            PLAYBOOKS / playbook,
            *("--limit", ":".join(hosts), "-e", json.dumps(told)),
            *(["--check"] if check else []),
            variables=self.lab.environment,
        )

    def drivers(self, *hosts: str, check: bool = False, **given: object) -> Running:
        """Begin to bring each host to the driver that it is to have."""
        target = f"{{{{ {json.dumps(WANTED)}[inventory_hostname] }}}}"
        return self.start("drivers.yml", *hosts, check=check, gpufleet_version=target, **given)

    def quarantine(self, host: str, state: str) -> Told:
        """Put a host into quarantine, or take it out."""
        return self.start(
            "quarantine.yml", host, gpufleet_quarantine=state, gpufleet_reason="it was away"
        ).end()

    def packages(self, host: str) -> str:
        """Version, state and hold of a host's packages."""
        form = "-f=${Package} ${Version} ${db:Status-Status} ${db:Status-Want}\n"
        return self.lab[host].run("dpkg-query", "-W", form, "nvidia-*", "datacenter-*").stdout

    def node(self, host: str) -> dict[str, Any]:
        """The Node object."""
        found = self.cluster.get(f"/api/v1/nodes/{host}")
        assert found is not None
        return found

    def annotation(self, host: str, name: str) -> str:
        """An annotation of the node; empty where there is none."""
        return str((self.node(host)["metadata"].get("annotations") or {}).get(name, ""))

    def is_cordoned(self, host: str) -> bool:
        """Whether it takes no work."""
        return bool(self.node(host)["spec"].get("unschedulable"))

    def is_quarantined(self, host: str) -> bool:
        """Whether it carries the taint."""
        taints = self.node(host)["spec"].get("taints") or []
        return QUARANTINED in [taint["key"] for taint in taints]

    def installs(self, host: str) -> bool:
        """Whether the installation of a package is held in its middle."""
        asked = self.lab[host].run("test", "-e", "/run/gpu-stub/installing", check=False)
        return asked.returncode == 0

    def is_connected(self, host: str) -> bool:
        """Whether an SSH connection to a host is believed to be there."""
        end = (self.lab[host].address, 22)
        return any(
            each.raddr == end and each.status == psutil.CONN_ESTABLISHED
            for each in psutil.net_connections("tcp4")
        )


@pytest.fixture(scope="module")
def fates(tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[Fates]:
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("drivers")
    with (
        pytest.MonkeyPatch.context() as patch,
        Lab(len(HOSTS)) as lab,
        nodes(folder / "cluster", HOSTS, until) as (cluster, kubeconfig),
    ):
        patch.setenv("GPUFLEET_DATABASE_URL", f"sqlite:///{folder / 'fleet.db'}")
        file = lab.write_fleet(folder / "fleet")
        made = Fates(lab, cluster, file, kubeconfig, until)
        made.before = {host: made.packages(host) for host in HOSTS}
        yield made


@pytest.fixture(scope="module")
def patched(fates: Fates) -> Told:
    """One run over most of the hosts, while this and that befalls them."""
    lab, until = fates.lab, fates.until
    lab[LOST].fault("does-not-return")
    lab[FULL].fill("/")
    lab[CUT].fault("hold-install")
    lab[UNFIT].write("/usr/local/sbin/unfit", UNFIT_WITH_NEW, mode=0o755)
    lab[UNFIT].write(
        "/etc/apt/apt.conf.d/99unfit", 'DPkg::Post-Invoke { "/usr/local/sbin/unfit"; };\n'
    )
    lab[SICK].fault("row-remap", "failure")
    holder = lab[HELD].hold_gpu()
    # As a person gives it on a command line: text.
    run = fates.drivers(*HOSTS[: HOSTS.index(KILLED)], gpu_clients_timeout_s="5")
    until(lambda: fates.is_cordoned(GONE) or run.has_ended, WITHIN_S)
    lab[GONE].cut()
    until(lambda: fates.installs(CUT) or run.has_ended, WITHIN_S)
    lab[CUT].cut()
    until(lambda: not fates.is_connected(CUT) or run.has_ended, WITHIN_S)
    lab[CUT].plug()
    lab[CUT].mend("hold-install")
    told = run.end()
    holder.kill()
    holder.wait()
    lab[FULL].empty("/")
    return told


@pytest.fixture(scope="module")
def cut_short(fates: Fates) -> None:
    """Two hosts whose run is killed while it installs; then their power goes."""
    hosts = [fates.lab[name] for name in (KILLED, LEFT)]
    for host in hosts:
        host.fault("hold-install")
    run = fates.drivers(KILLED, LEFT)
    fates.until(lambda: all(fates.installs(host.name) for host in hosts) or run.has_ended, WITHIN_S)
    assert not run.has_ended, run.end().messages
    run.kill()
    for host in hosts:
        host.mend("hold-install")
        host.reboot()


@pytest.fixture(scope="module")
def again(fates: Fates, patched: Told, cut_short: None) -> Told:  # noqa: ARG001 - it comes after
    """The same once more, over what is patched and what was cut short."""
    return fates.drivers(PLAIN, KILLED).end()


@pytest.fixture(scope="module")
def returned(fates: Fates, again: Told) -> list[Told]:  # noqa: ARG001 - it comes after
    """The way back, twice: patched, cut short, and never touched."""
    return [fates.start("rollback.yml", PLAIN, LEFT, FULL).end() for _ in range(2)]


def test_check_mode_touches_nothing_and_tells_the_same_twice(fates: Fates) -> None:
    first, second = (fates.drivers(PLAIN, check=True).end() for _ in range(2))
    assert (first.code, second.code) == (0, 0), first.messages + second.messages
    assert first.changing(PLAIN) == second.changing(PLAIN) != []
    assert fates.packages(PLAIN) == fates.before[PLAIN]
    assert not fates.is_cordoned(PLAIN)


def test_a_host_gets_the_driver_is_validated_and_serves_again(fates: Fates, patched: Told) -> None:
    report = patched.report(PLAIN)
    assert report["reason"] == ""
    assert (report["before"], report["after"]) == (CURRENT, GOOD)
    assert report["validated"]
    assert not fates.is_cordoned(PLAIN)
    assert fates.lab[PLAIN].driver() == GOOD
    packages = fates.packages(PLAIN)
    for name in ("nvidia-driver", "nvidia-kernel-dkms", "nvidia-fabricmanager"):
        assert f"{name} {GOOD}-1 installed hold" in packages


@pytest.mark.parametrize(
    ("host", "why"),
    [
        pytest.param(BROKEN, "dpkg returned an error code", id="fails in its post-install"),
        pytest.param(BREAKS, "wanted driver", id="breaks after the restart"),
        pytest.param(UNFIT, "not fit to serve: pcie", id="fails its validation"),
    ],
)
def test_a_driver_that_breaks_goes_back_by_itself(
    fates: Fates, patched: Told, host: str, why: str
) -> None:
    report = patched.report(host)
    assert why in report["reason"]
    assert report["after"] == CURRENT
    assert (report["quarantined"], report["validated"]) == (False, True)
    assert not fates.is_cordoned(host)
    assert fates.lab[host].driver() == CURRENT
    assert f"nvidia-driver {CURRENT}-1 installed hold" in fates.packages(host)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        pytest.param(LOST, "", id="does not return"),
        pytest.param(SICK, "not fit to serve: row", id="is not fit with its former driver either"),
    ],
)
def test_a_host_that_does_not_come_back_is_quarantined_and_stays_cordoned(
    fates: Fates, patched: Told, host: str, why: str
) -> None:
    report = patched.report(host)
    assert why in report["reason"]
    assert (report["quarantined"], report["validated"]) == (True, False)
    assert fates.is_cordoned(host)
    assert fates.is_quarantined(host)
    assert fates.annotation(host, QUARANTINE_REASON)


def test_a_host_without_space_is_untouched_and_in_service(fates: Fates, patched: Told) -> None:
    assert "not enough space" in patched.report(FULL)["reason"]
    assert not fates.is_cordoned(FULL)
    assert fates.packages(FULL) == fates.before[FULL]
    assert fates.lab[FULL].driver() == CURRENT


def test_who_holds_a_gpu_is_named_and_the_host_serves_as_before(
    fates: Fates, patched: Told
) -> None:
    report = patched.report(HELD)
    assert "sleep (" in report["reason"]
    assert report["validated"]
    assert not fates.is_cordoned(HELD)
    assert fates.lab[HELD].driver() == CURRENT


def test_an_installation_goes_on_where_the_connection_was_lost(fates: Fates, patched: Told) -> None:
    assert patched.report(CUT)["reason"] == ""
    assert fates.lab[CUT].driver() == GOOD
    assert not fates.is_cordoned(CUT)


def test_a_host_that_is_gone_stays_cordoned_until_it_is_quarantined_without_ssh(
    fates: Fates, patched: Told
) -> None:
    assert patched.facts["stats"][GONE]["unreachable"] == 1
    assert "gpufleet" not in patched.facts["custom_stats"].get(GONE, {})
    assert fates.is_cordoned(GONE)
    assert fates.annotation(GONE, CORDONED_BY).startswith("patch/")
    told = fates.quarantine(GONE, "present")
    assert (told.code, told.messages.strip()) == (0, "")
    assert fates.is_quarantined(GONE)
    assert fates.is_cordoned(GONE)
    # It comes back validated, and not otherwise.
    told = fates.quarantine(GONE, "absent")
    assert told.code != 0
    assert fates.is_quarantined(GONE)
    fates.lab[GONE].plug()
    told = fates.quarantine(GONE, "absent")
    assert told.code == 0, told.messages
    assert told.report(GONE)["validated"]
    assert not fates.is_quarantined(GONE)
    assert not fates.is_cordoned(GONE)


def test_what_was_killed_in_the_middle_is_completed_by_the_next_run(
    fates: Fates, again: Told
) -> None:
    report = again.report(KILLED)
    assert report["reason"] == ""
    assert report["validated"]
    assert fates.lab[KILLED].driver() == GOOD
    assert not fates.is_cordoned(KILLED)
    record = json.loads(fates.lab[KILLED].path(RECORD).read_text(encoding="utf-8"))
    assert (record["state"], record["before"]) == ("done", CURRENT)


def test_the_second_run_changes_nothing(again: Told) -> None:
    assert again.report(PLAIN)["reason"] == ""
    assert [name for name in again.changing(PLAIN) if "token on the host" not in name] == []


@pytest.mark.parametrize(
    "host",
    [pytest.param(PLAIN, id="patched"), pytest.param(LEFT, id="killed in the middle")],
)
def test_rollback_brings_a_host_back_to_what_it_had(
    fates: Fates, returned: list[Told], host: str
) -> None:
    first, second = (told.report(host) for told in returned)
    assert first["reason"] == second["reason"] == ""
    assert (first["after"], first["validated"]) == (CURRENT, True)
    assert fates.lab[host].driver() == CURRENT
    assert fates.packages(host).replace("hold", "install") == fates.before[host].replace(
        "hold", "install"
    )
    assert not fates.is_cordoned(host)
    assert [name for name in returned[1].changing(host) if "token on the host" not in name] == []


def test_rollback_touches_no_host_that_was_not_patched(fates: Fates, returned: list[Told]) -> None:
    for told in returned:
        assert "the host remembers none to go back to" in told.report(FULL)["reason"]
    assert fates.packages(FULL) == fates.before[FULL]
    assert not fates.is_cordoned(FULL)
