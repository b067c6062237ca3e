"""Drivers on real hosts: one run over eight of them, each with a fate of its own.

What a host's fate is to come to is a test each; the run is shared, since it takes a while.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Until
from tests.hosts.lab import Lab
from tests.hosts.nodes import SITE, nodes
from tests.hosts.packages import BREAKS_AFTER_REBOOT, CURRENT, FAILS_TO_INSTALL, GOOD
from tests.hosts.requirements import why_not

from gpufleet.edges.ansible_collections import ansible_collections
from gpufleet.edges.kube import Cluster
from gpufleet.edges.workspace import PROJECT_ROOT

PLAYBOOKS = PROJECT_ROOT / "playbooks"
PLAIN, BROKEN, BREAKS, LOST, FULL, CUT, HELD, KILLED = (f"gpu-{n:03d}" for n in range(1, 9))
WANTED = dict.fromkeys((PLAIN, LOST, FULL, CUT, HELD, KILLED), GOOD) | {
    BROKEN: FAILS_TO_INSTALL,
    BREAKS: BREAKS_AFTER_REBOOT,
}
RECORD = "/var/lib/gpufleet/patch.json"

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(3000)]


@dataclass(frozen=True)
class Run:
    """How an ansible-playbook ended."""

    code: int
    out: str

    @property
    def facts(self) -> dict[str, Any]:
        """What its JSON callback wrote."""
        return dict(json.loads(self.out[self.out.index("{") :]))

    def changed(self, host: str) -> int:
        """Changes on a host."""
        return int(self.facts["stats"][host]["changed"])

    def report(self, host: str) -> dict[str, Any]:
        """What role host_report said."""
        return dict(self.facts["custom_stats"][host]["gpufleet"])


@dataclass
class Fates:
    """The lab, its nodes, and the runs that were made over them."""

    lab: Lab
    cluster: Cluster
    fleet_file: Path
    folder: Path
    kubeconfig: Path
    runs: dict[str, Run] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)
    """Packages of each host before anything was done."""
    checked: str = ""
    """Those of the plain host after check mode."""

    def start(self, name: str, playbook: str, hosts: str, *arguments: str) -> Any:  # noqa: ANN401 - a process
        """Begin a run; ended by `finish`."""
        told = {
            "gpufleet_kube_config": str(self.kubeconfig),
            "gpufleet_kube_context": SITE,
            "gpufleet_reboot_within_s": 90,
            "gpufleet_return_within_s": 20,
            # No replica runs on these nodes.
            "gpu_validate_token": False,
        }
        command = [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *(str(PLAYBOOKS / playbook), "--limit", hosts, "-e", json.dumps(told), *arguments),
        ]
        with (self.folder / f"{name}.out").open("wb") as output:
            return subprocess.Popen(
                command,
                cwd=PLAYBOOKS,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=(self.folder / f"{name}.err").open("wb"),
                env={
                    **os.environ,
                    **self.lab.environment,
                    "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg"),
                    "ANSIBLE_COLLECTIONS_PATH": str(ansible_collections(lambda _: None)),
                    "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
                    "ANSIBLE_SHOW_CUSTOM_STATS": "true",
                    "GPUFLEET_FLEET": str(self.fleet_file),
                },
            )

    def finish(self, name: str, process: Any) -> Run:  # noqa: ANN401 - a process
        """Wait for the end of a run."""
        code = process.wait()
        self.runs[name] = Run(code, (self.folder / f"{name}.out").read_text(encoding="utf-8"))
        return self.runs[name]

    def run(self, name: str, playbook: str, hosts: str, *arguments: str) -> Run:
        """A run from its begin to its end."""
        return self.finish(name, self.start(name, playbook, hosts, *arguments))

    def packages(self, host: str) -> str:
        """Version, state and hold of a host's packages."""
        form = "-f=${Package} ${Version} ${db:Status-Status} ${db:Status-Want}\n"
        return self.lab[host].run("dpkg-query", "-W", form, "nvidia-*", "datacenter-*").stdout

    def node(self, host: str) -> dict[str, Any]:
        """The Node object."""
        found = self.cluster.get(f"/api/v1/nodes/{host}")
        assert found is not None
        return found

    def is_cordoned(self, host: str) -> bool:
        """Whether it takes no work."""
        return bool(self.node(host)["spec"].get("unschedulable"))


@pytest.fixture(scope="module")
def fates(tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[Fates]:
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("drivers")
    with (
        pytest.MonkeyPatch.context() as patch,
        Lab() as lab,
        nodes(folder / "cluster", list(lab.hosts), until) as (cluster, kubeconfig),
    ):
        patch.setenv("GPUFLEET_DATABASE_URL", f"sqlite:///{folder / 'fleet.db'}")
        file = lab.write_fleet(folder / "fleet")
        made = Fates(lab, cluster, file, folder, kubeconfig)
        _happen(made, until)
        yield made


def _happen(fates: Fates, until: Until) -> None:
    """Everything that the tests look at."""
    target = f"{{{{ {json.dumps(WANTED)}[inventory_hostname] }}}}"
    arguments = ("-e", json.dumps({"gpufleet_version": target}))
    lab = fates.lab
    fates.before = {host: fates.packages(host) for host in lab.hosts}
    for name in ("check", "check again"):
        fates.run(name, "drivers.yml", PLAIN, *arguments, "--check")
    fates.checked = fates.packages(PLAIN)
    lab[LOST].fault("does-not-return")
    lab[FULL].fill("/")
    lab[CUT].fault("hold-install")
    holder = lab[HELD].hold_gpu()
    others = ":".join(host for host in lab.hosts if host != KILLED)
    going = fates.start("all", "drivers.yml", others, *arguments, "-e", "gpu_clients_timeout_s=5")
    until(lambda: _installs(fates, CUT) or going.poll() is not None, 900)
    lab[CUT].cut()
    # Longer than ssh keeps a silent connection (ansible.cfg).
    threading.Event().wait(30)
    lab[CUT].plug()
    lab[CUT].mend("hold-install")
    fates.finish("all", going)
    holder.kill()
    holder.wait()
    lab[FULL].empty("/")
    _kill_in_the_middle(fates, until, arguments)
    fates.run("again", "drivers.yml", f"{PLAIN}:{KILLED}:{CUT}", *arguments)


def _installs(fates: Fates, host: str) -> bool:
    return (
        fates.lab[host].run("test", "-e", "/run/gpu-stub/installing", check=False).returncode == 0
    )


def _kill_in_the_middle(fates: Fates, until: Until, arguments: tuple[str, ...]) -> None:
    lab = fates.lab
    lab[KILLED].fault("hold-install")
    going = fates.start("killed", "drivers.yml", KILLED, *arguments)
    until(lambda: _installs(fates, KILLED) or going.poll() is not None, 600)
    going.kill()
    going.wait()
    # The power goes with it: dpkg is left in the middle.
    lab[KILLED].mend("hold-install")
    lab[KILLED].reboot()


def test_check_mode_touches_nothing_and_tells_the_same_twice(fates: Fates) -> None:
    first, second = (fates.runs[name] for name in ("check", "check again"))
    assert (first.code, second.code) == (0, 0)
    assert first.changed(PLAIN) == second.changed(PLAIN) > 0
    assert fates.checked == fates.before[PLAIN]


def test_a_host_gets_the_driver_is_validated_and_serves_again(fates: Fates) -> None:
    report = fates.runs["all"].report(PLAIN)
    assert (report["before"], report["after"]) == (CURRENT, GOOD)
    assert report["validated"]
    assert not fates.is_cordoned(PLAIN)
    assert fates.lab[PLAIN].driver() == GOOD
    packages = fates.packages(PLAIN)
    for name in ("nvidia-driver", "nvidia-kernel-dkms", "nvidia-fabricmanager"):
        assert f"{name} {GOOD}-1 installed hold" in packages


def test_the_second_run_changes_nothing(fates: Fates) -> None:
    again = fates.runs["again"]
    assert again.report(PLAIN)["reason"] == ""
    tasks = [
        task["task"]["name"]
        for play in again.facts["plays"]
        for task in play["tasks"]
        if task["hosts"].get(PLAIN, {}).get("changed")
    ]
    assert [name for name in tasks if "token on the host" not in name] == []


@pytest.mark.parametrize("host", [BROKEN, BREAKS])
def test_a_driver_that_breaks_goes_back_by_itself(fates: Fates, host: str) -> None:
    report = fates.runs["all"].report(host)
    assert report["after"] == CURRENT
    assert report["reason"]
    assert (report["quarantined"], report["validated"]) == (False, True)
    assert not fates.is_cordoned(host)
    assert fates.lab[host].driver() == CURRENT
    assert f"nvidia-driver {CURRENT}-1 installed hold" in fates.packages(host)


def test_a_host_that_does_not_return_is_quarantined_and_stays_cordoned(fates: Fates) -> None:
    report = fates.runs["all"].report(LOST)
    assert report["quarantined"]
    assert fates.is_cordoned(LOST)
    taints = [taint["key"] for taint in fates.node(LOST)["spec"]["taints"]]
    assert "gpufleet.dev/quarantined" in taints


def test_a_host_without_space_is_untouched_and_in_service(fates: Fates) -> None:
    report = fates.runs["all"].report(FULL)
    assert "not enough space" in report["reason"]
    assert not fates.is_cordoned(FULL)
    assert fates.packages(FULL) == fates.before[FULL]
    assert fates.lab[FULL].driver() == CURRENT


def test_who_holds_a_gpu_is_named_and_the_host_serves_as_before(fates: Fates) -> None:
    report = fates.runs["all"].report(HELD)
    assert "sleep (" in report["reason"]
    assert not fates.is_cordoned(HELD)
    assert fates.lab[HELD].driver() == CURRENT


def test_an_installation_goes_on_where_the_connection_was_lost(fates: Fates) -> None:
    assert fates.lab[CUT].driver() == GOOD
    assert not fates.is_cordoned(CUT)


def test_what_was_killed_in_the_middle_is_completed_by_the_next_run(fates: Fates) -> None:
    report = fates.runs["again"].report(KILLED)
    assert report["validated"]
    assert fates.lab[KILLED].driver() == GOOD
    assert not fates.is_cordoned(KILLED)
    record = json.loads(fates.lab[KILLED].path(RECORD).read_text(encoding="utf-8"))
    assert (record["state"], record["before"]) == ("done", CURRENT)
