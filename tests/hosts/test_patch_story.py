"""Patches as an operator sees them: `./fleet patch.*` on a fleet that serves on real hosts."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Until
from tests.hosts.lab import Lab
from tests.hosts.packages import CONTAINERD, CURRENT, FAILS_TO_INSTALL, GOOD
from tests.hosts.requirements import why_not
from tests.hosts.tale import FREEZE, WITHIN_S, Tale

from gpufleet.spec.patching import HostState, PatchReport

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(3000)]
TAINT = "gpufleet.dev/quarantined"
BMC = "1.02"
FIRST, SECOND = "aux-001", "aux-002"


@pytest.fixture(scope="module")
def tale(tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[Tale]:
    """Eight hosts in two node groups, with a pool on each, up."""
    if reason := why_not():
        pytest.skip(reason)
    with Lab(6, aux=2) as lab, ThreadPoolExecutor(1) as threads:
        tale = Tale.begin(lab, tmp_path_factory.mktemp("tale"), until, threads)
        try:
            tale.up()
            yield tale
        finally:
            tale.fleet("down", "--purge")
            tale.ground.close()


def ended(run: "subprocess.CompletedProcess[str]", code: int = 0) -> None:
    assert run.returncode == code, f"{run.stdout}\n{run.stderr}"


def holds(tale: Tale, flow: str, why: str) -> bool:
    """Whether a patch waits now, and for this."""
    held = tale.report(flow).held
    return bool(held) and why in held[-1] and " until " not in held[-1]


def test_a_driver_goes_over_the_fleet_in_waves_and_its_report_tells_the_story(
    tale: Tale, tmp_path: Path
) -> None:
    order = ("--component=driver", f"--to={GOOD}", "--soak=2s", "--failures=1")
    plan = tale.json("patch.plan", *order)
    waves = [[host for batch in wave["batches"] for host in batch] for wave in plan["waves"]]
    assert [len(wave) for wave in waves] == [1, 1, 2, 4]
    assert {"replicas ready: chat", "replicas ready: aux"} <= {g["name"] for g in plan["gates"]}
    canary, lost = waves[0][0], waves[3][-1]
    tale.lab[lost].fault("does-not-return")

    flow, followed = tale.start(*order, "--why=monthly", "--advisory=CVE-2026-1234:critical")
    tale.until(lambda: tale.is_patched(canary), WITHIN_S)
    tale.freeze()
    # What runs goes to its end, and nothing new begins.
    tale.until(lambda: holds(tale, flow, FREEZE), WITHIN_S)
    rest = {host: CURRENT for host in tale.lab.hosts if host != canary}
    assert tale.drivers() == {canary: GOOD, **rest}
    assert not tale.is_cordoned(canary)
    told = tale.json("patch.status", f"--id={flow}")
    assert [host["state"] for wave in told[0]["waves"] for host in wave["hosts"]] == ["done"]

    tale.fleet("patch.pause", f"--id={flow}", "--apply")
    tale.thaw()
    tale.until(lambda: holds(tale, flow, "paused"))
    assert tale.json("patch.status", "--open")[0]["outcome"] == "paused"
    tale.fleet("patch.resume", f"--id={flow}", "--apply")

    done = followed.result(WITHIN_S * 3)
    ended(done)
    for host in tale.lab.hosts:
        assert f", {host}: running" in done.stderr
    report = PatchReport.model_validate_json(done.stdout)
    assert report.outcome == "done"
    states = {host: outcome.state for host, outcome in report.hosts.items()}
    assert states.pop(lost) is HostState.QUARANTINED
    assert set(states.values()) == {HostState.DONE}
    assert tale.drivers() == dict.fromkeys(states, GOOD)
    assert not any(tale.is_cordoned(host) for host in states)
    tale.until(lambda: tale.ready() == {"chat": 5, "aux": 5}, WITHIN_S)

    told_as_text, page = tale.fleet("patch.report", f"--id={flow}"), tmp_path / "patch.html"
    assert tale.json("patch.report", f"--id={flow}") == report.model_dump(mode="json")
    tale.fleet("patch.report", f"--id={flow}", f"--html={page}")
    for story in (told_as_text, page.read_text()):
        words = ("monthly", "CVE-2026-1234", CURRENT, GOOD, canary, lost, "quarantined", FREEZE)
        assert [word for word in words if word not in story] == []


def test_whoever_is_in_quarantine_stays_there(tale: Tale) -> None:
    lost = next(name for name, host in tale.lab.hosts.items() if not host.is_on)
    tale.fleet("up")
    assert tale.is_cordoned(lost)
    assert TAINT in {taint["key"] for taint in tale.node(lost)["taints"]}
    plan = tale.json("patch.plan", "--component=driver", f"--to={FAILS_TO_INSTALL}")
    assert "quarantine" in plan["left_out"][lost]


def test_a_version_that_breaks_goes_back_by_itself_though_a_freeze_has_begun(tale: Tale) -> None:
    order = ("--component=driver", f"--to={FAILS_TO_INSTALL}", "--soak=2s")
    [[canary]] = tale.json("patch.plan", *order)["waves"][0]["batches"]
    had = tale.drivers()
    tale.lab[canary].fault("hold-install")
    flow, followed = tale.start(*order)
    installing = tale.lab[canary].path("/run/gpu-stub/installing")
    tale.until(installing.exists, WITHIN_S)
    tale.freeze()
    tale.lab[canary].mend("hold-install")
    ended(followed.result(WITHIN_S * 2), code=5)
    refused = tale.scale()
    assert refused.returncode != 0
    assert FREEZE in refused.stderr
    report = tale.report(flow)
    assert report.outcome == "rolled-back"
    outcome = report.hosts[canary]
    assert (outcome.state, outcome.after) == (HostState.ROLLED_BACK, GOOD)
    assert set(report.hosts) == {canary}
    assert tale.drivers() == had
    assert not tale.is_cordoned(canary)
    tale.thaw()


def patched(tale: Tale, *order: str) -> PatchReport:
    """A patch of the second node group, that goes well."""
    _, followed = tale.start(*order, "--node-group=aux", "--soak=1s")
    done = followed.result(WITHIN_S * 2)
    ended(done)
    report = PatchReport.model_validate_json(done.stdout)
    assert {outcome.state for outcome in report.hosts.values()} == {HostState.DONE}
    assert report.hosts.keys() == {FIRST, SECOND}
    assert not any(tale.is_cordoned(host) for host in report.hosts)
    return report


def test_firmware_goes_the_same_way(tale: Tale) -> None:
    image = tale.lab.controllers.image("bmc", BMC)
    folder = tale.file.parent / "firmware"
    folder.mkdir()
    shutil.copy(image, folder)
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    (folder / f"{image.name}.sha256").write_text(f"{digest}  {image.name}\n")
    report = patched(tale, "--component=firmware", f"--to={BMC}")
    assert {(o.before, o.after) for o in report.hosts.values()} == {("1.00", BMC)}


def test_a_container_runtime_goes_the_same_way(tale: Tale) -> None:
    old, new = CONTAINERD
    report = patched(tale, "--component=runtime", f"--to={new}")
    assert {(o.before, o.after) for o in report.hosts.values()} == {(old, new)}
    for host in (FIRST, SECOND):
        asked = tale.lab[host].run("dpkg-query", "-W", "-f=${Version}", "containerd")
        assert asked.stdout == new


def test_a_patch_that_nobody_else_approves_touches_nothing(tale: Tale, tmp_path: Path) -> None:
    declared: dict[str, Any] = {}
    for name in ("ada", "mara"):
        key = tmp_path / name
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)]
        subprocess.run(command, check=True)
        public = key.with_suffix(".pub").read_text().strip()
        declared[name] = {**tale.lab.fleet()["identities"]["ada"], "ssh_keys": [public]}
    governance = {"calendar_required": False, "approvals_required": 1}
    tale.change(identities=declared, governance=governance)
    order = ("--component=driver", f"--to={CURRENT}", "--node-group=aux", "--apply")
    assert "1 approvals" in tale.json("patch.start", *order, code=2)["error"]
    had, who = tale.drivers(), ("--identity=ada", f"--key={tmp_path / 'ada'}")
    flow = tale.json("patch.start", *order, *who, "--detach")["flow"]
    tale.until(lambda: "approvals: waiting" in tale.json("flows.show", flow)["step"], WITHIN_S)
    told = tale.json("approve.sign", flow, *who, "--apply", code=3)
    assert "ada" in told["error"] + told["where"]
    assert tale.report(flow).waves == []
    tale.fleet("flows.cancel", flow)
    tale.until(lambda: tale.report(flow).outcome == "cancelled", WITHIN_S)
    assert tale.drivers() == had
