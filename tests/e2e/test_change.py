"""A change through the worker: approvals, windows, kills at every step, two kinds of database."""

import json
import signal
import sqlite3
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tests.conftest import Until
from tests.e2e.cloned import Clone
from tests.e2e.test_provision import freeze_now, replace, start
from tests.postgresql import Server

from gpufleet.local.orphans import MARK

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
TRIAL = "fleets/trial/production.yaml"
APPROVALS = ("approvals: deadline", "approvals")
KILL_PLAN = "kill-plan.json"
KILLER = f'''
"""Kills a worker of this clone at the points that a test has listed, each once."""
import json, os, signal, sys
from pathlib import Path

PLAN = Path(__file__).with_name("{KILL_PLAN}")

def die(point):
    points = json.loads(PLAN.read_text()) if PLAN.exists() else []
    if point in points:
        points.remove(point)
        PLAN.with_suffix(".new").write_text(json.dumps(points))
        PLAN.with_suffix(".new").replace(PLAN)
        os.kill(os.getpid(), signal.SIGKILL)

if "worker" in sys.orig_argv and PLAN.exists():
    from gpufleet.flows.durable import Run

    undisturbed = Run.step

    def step(self, name, work, **more):
        def then_die():
            result = work()
            die(f"in {{name}}")
            return result

        die(f"before {{name}}")
        result = undisturbed(self, name, then_die, **more)
        die(f"after {{name}}")
        return result

    Run.step = step
'''


def steps(site: str) -> list[str]:
    """The steps of a change that needs no approval, at one site."""
    before = ["window: deadline", "window", "begun"]
    return [*before, f"update {site}", "every replica ready", "time", "state kept"]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A key for each of two people."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("jonas", "mara"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name]
        subprocess.run([*command, "-f", str(folder / name)], check=True)
    return {name: folder / name for name in ("jonas", "mara")}


@pytest.fixture(scope="module")
def trial(clone: Clone, keys: dict[str, Path]) -> Clone:
    """A fleet of one site, up, whose changes need one approval."""
    article = clone.root / "fleets" / "article"
    folder = clone.root / "fleets" / "trial"
    (folder / "calendars").mkdir(parents=True)
    for file in (article / "calendars").glob("*.ics"):
        (folder / "calendars" / file.name).write_bytes(file.read_bytes())
    fleet: dict[str, Any] = yaml.safe_load((article / "production.yaml").read_text())
    fleet["fleet"] = "trial"
    fleet["governance"] = {"approvals_required": 1}
    for name, key in keys.items():
        fleet["identities"][name] = {
            "name": name,
            "email": f"{name}@example.com",
            "roles": ["platform"],
            "ssh_keys": [key.with_suffix(".pub").read_text().strip()],
        }
    (clone.root / TRIAL).write_text(yaml.safe_dump(fleet, sort_keys=False))
    clone.fleet("up", "--fleet", TRIAL)
    return clone


@pytest.fixture
def fleet_file(trial: Clone) -> Path:
    """The trial's fleet file."""
    return trial.root / TRIAL


@pytest.fixture
def refused(fleet_file: Path) -> Iterator[None]:
    """Nothing comes of the test's change: the fleet file is again what it was before."""
    before = fleet_file.read_text()
    yield
    fleet_file.write_text(before)


@pytest.fixture
def kill_plan(trial: Clone) -> Iterator[Path]:
    """Where the points are listed at which workers die."""
    [packages] = (trial.root / ".venv" / "lib").glob("python3*/site-packages")
    (packages / "zz_kill.pth").write_text("import kill_at_steps\n")
    (packages / "kill_at_steps.py").write_text(KILLER)
    plan = packages / KILL_PLAN
    plan.write_text("[]")
    yield plan
    for name in ("zz_kill.pth", "kill_at_steps.py", KILL_PLAN):
        (packages / name).unlink()


def set_replicas(file: Path, count: int) -> None:
    fleet = yaml.safe_load(file.read_text())
    fleet["pools"]["answers"]["placements"]["h100"]["replicas"] = count
    file.write_text(yaml.safe_dump(fleet, sort_keys=False))


def change(clone: Clone, keys: dict[str, Path]) -> str:
    """Ask for a change as jonas; the flow's id."""
    who = ("--identity", "jonas", "--key", str(keys["jonas"]))
    done = clone.run("./fleet", "change", "--fleet", TRIAL, "--apply", "--detach", *who, "--json")
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["flow"])


def sign(clone: Clone, keys: dict[str, Path], flow: str, name: str = "mara", code: int = 0) -> None:
    who = ("--identity", name, "--key", str(keys[name]))
    clone.fleet("approve.sign", flow, "--fleet", TRIAL, "--apply", *who, code=code)


def worker_of(clone: Clone) -> psutil.Process | None:
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            is_worker = "worker" in line and any(part.endswith(TRIAL) for part in line)
            mark = process.environ().get(MARK, "") if is_worker else ""
            if mark.startswith(str(clone.root)):
                return process
        except psutil.Error:
            continue
    return None


def test_a_change_survives_a_kill_at_every_step(
    trial: Clone, fleet_file: Path, keys: dict[str, Path], kill_plan: Path, until: Until
) -> None:
    points = [f"in {step}" for step in (*APPROVALS, *steps("main"))]
    points += ["before update main", "after update main"]
    worker = worker_of(trial)
    assert worker is not None
    kill_plan.write_text(json.dumps(points))
    worker.kill()
    set_replicas(fleet_file, 8)
    flow = change(trial, keys)
    sign(trial, keys, flow)
    result = trial.json("flows.attach", flow, "--fleet", TRIAL)
    assert json.loads(kill_plan.read_text()) == []
    assert [pool["replicas_ready"] for pool in result["pools"]] == [8]
    records = trial.json("journal.list", "--fleet", TRIAL, "--flow", flow)
    # Killed after it, the update is looked at again, and finds that nothing is left to do.
    assert sum(record["body"].get("updated", 0) for record in records) > 0
    assert sum(stack["updated"] for stack in result["stacks"]) == 0
    assert Counter(record["event"] for record in records) == {
        "change.requested": 1,
        "change.approved": 1,
        "stack.updated": 2,
        "change.ended": 1,
    }
    assert trial.json("journal.verify", "--fleet", TRIAL)["findings"] == []
    assert trial.json("change", "--fleet", TRIAL)["stacks"][1]["changes"] == []
    until(lambda: trial.run("./fleet", "status", "--fleet", TRIAL).returncode == 0)


@pytest.mark.slow
def test_a_worker_that_is_killed_while_pulumi_updates_lets_it_end_and_goes_on(
    trial: Clone, fleet_file: Path, keys: dict[str, Path], until: Until
) -> None:
    set_replicas(fleet_file, 9)
    flow = change(trial, keys)
    sign(trial, keys, flow)

    def pulumi_runs() -> bool:
        return any(
            process.info["name"] == "pulumi"
            and (process.info["cwd"] or "").startswith(str(trial.root / "stacks" / "pools"))
            for process in psutil.process_iter(["name", "cwd"])
        )

    until(pulumi_runs)
    worker = worker_of(trial)
    assert worker is not None
    worker.kill()
    result = trial.json("flows.attach", flow, "--fleet", TRIAL)
    assert [pool["replicas_ready"] for pool in result["pools"]] == [9]
    assert trial.json("change", "--fleet", TRIAL)["stacks"][1]["changes"] == []


@pytest.mark.usefixtures("refused")
def test_nobody_approves_a_change_of_their_own(
    trial: Clone, fleet_file: Path, keys: dict[str, Path]
) -> None:
    set_replicas(fleet_file, 7)
    flow = change(trial, keys)
    sign(trial, keys, flow, "jonas", code=3)
    assert trial.json("flows.show", flow, "--fleet", TRIAL)["state"] in {"queued", "running"}
    trial.fleet("flows.cancel", flow, "--fleet", TRIAL)


@pytest.mark.usefixtures("refused")
def test_a_fleet_file_that_changed_after_the_plan_is_refused(
    trial: Clone, fleet_file: Path, keys: dict[str, Path]
) -> None:
    before = fleet_file.read_text()
    set_replicas(fleet_file, 6)
    flow = change(trial, keys)
    set_replicas(fleet_file, 5)
    sign(trial, keys, flow)
    told = trial.json("flows.attach", flow, "--fleet", TRIAL, code=3)
    assert "is not the one that was planned" in told["error"]
    fleet_file.write_text(before)
    assert trial.json("change", "--fleet", TRIAL)["stacks"][1]["changes"] == []


def test_a_change_of_nothing_asks_nobody(trial: Clone) -> None:
    told = trial.json("change", "--fleet", TRIAL, "--apply")
    assert told == {"flow": "", "stacks": [], "pools": [], "seconds": 0}


@pytest.mark.usefixtures("refused")
def test_up_does_not_go_round_the_approvals(trial: Clone, fleet_file: Path) -> None:
    before = fleet_file.read_text()
    set_replicas(fleet_file, 6)
    told = trial.json("up", "--fleet", TRIAL, code=3)
    assert "needs 1 approvals" in told["error"]
    fleet_file.write_text(before)
    trial.fleet("up", "--fleet", TRIAL)


def test_a_change_waits_for_the_window_and_goes_on_when_it_opens(
    trial: Clone, fleet_file: Path, keys: dict[str, Path], until: Until
) -> None:
    before = fleet_file.read_text()
    freeze_now(fleet_file)
    set_replicas(fleet_file, 7)
    plan = trial.json("change", "--fleet", TRIAL)
    assert not plan["openings"][0]["open"]
    assert "Audit week" in plan["openings"][0]["reason"]
    flow = change(trial, keys)
    sign(trial, keys, flow)

    def waits() -> bool:
        step = trial.json("flows.show", flow, "--fleet", TRIAL)["step"]
        return step.startswith("window: waiting") and "Audit week" in step

    until(waits)
    frozen = fleet_file.parent / "calendars" / "now.ics"
    frozen.write_bytes((fleet_file.parent / "calendars" / "company.ics").read_bytes())
    result = trial.json("flows.attach", flow, "--fleet", TRIAL)
    # More may stay: the autoscaler takes none away while no replica tells its load.
    assert [pool["replicas_wanted"] for pool in result["pools"]] == [7]
    assert all(pool["replicas_ready"] >= 7 for pool in result["pools"])
    fleet_file.write_text(before)


@pytest.mark.slow
def test_ctrl_c_lets_go_of_a_flow_and_it_goes_on(
    trial: Clone, fleet_file: Path, keys: dict[str, Path], until: Until
) -> None:
    set_replicas(fleet_file, 6)
    who = ("--identity", "jonas", "--key", str(keys["jonas"]))
    task = start(trial, "change", "--fleet", TRIAL, "--apply", *who)

    def waiting() -> list[dict[str, Any]]:
        return [
            row
            for row in trial.json("flows.list", "--fleet", TRIAL, "--open")
            if row["step"].startswith("approvals: waiting")
        ]

    [row] = until(waiting)
    [child] = [each for each in [psutil.Process(task.pid)] if each.is_running()]
    child.send_signal(signal.SIGINT)
    output, _ = task.communicate(timeout=60)
    assert task.returncode == 130, output
    assert f"detached; {row['id']} goes on" in output
    sign(trial, keys, row["id"])
    trial.fleet("flows.attach", row["id"], "--fleet", TRIAL)


def test_states_were_kept_and_hold_no_secret(trial: Clone) -> None:
    kept = trial.json("state.list", "--fleet", TRIAL)
    assert {row["stack"] for row in kept} == {"platform main", "pools main"}
    secrets = json.loads(
        (trial.root / ".fleet" / "trial" / "production" / "sites" / "main" / "s3.json").read_text()
    )
    folder = trial.root / ".fleet" / "trial" / "production"
    for file in [*(folder / "pulumi" / "state").rglob("*"), *(folder / "logs").glob("*")]:
        if file.is_file():
            text = file.read_text(errors="replace")
            assert secrets["secret_key"] not in text, file
            assert "PRIVATE KEY" not in text, file


def test_a_tampered_journal_is_found(trial: Clone) -> None:
    database = trial.root / ".fleet" / "trial" / "production" / "fleet.db"
    with sqlite3.connect(database, timeout=30) as connection:
        [actor] = connection.execute("SELECT actor FROM fleet_journal WHERE sequence=2").fetchone()
        connection.execute("UPDATE fleet_journal SET actor='eve' WHERE sequence=2")
    connection.close()
    report = trial.json("journal.verify", "--fleet", TRIAL, code=5)
    assert [found["fault"] for found in report["findings"]] == ["changed"]
    with sqlite3.connect(database, timeout=30) as connection:
        connection.execute("UPDATE fleet_journal SET actor=? WHERE sequence=2", [actor])
    connection.close()
    trial.fleet("journal.verify", "--fleet", TRIAL)


@pytest.mark.slow
def test_a_change_on_postgresql_survives_a_kill_at_every_step(
    trial: Clone, postgresql: Server, kill_plan: Path
) -> None:
    staging = "fleets/sample/staging.yaml"
    url = postgresql.new_database(f"staging-{uuid.uuid4().hex[:8]}")
    trial.variables = {"GPUFLEET_DATABASE_URL": url}
    try:
        trial.fleet("up", "--fleet", staging)
    finally:
        trial.variables = {}
    file = trial.root / staging
    replace(file, "fra0-small: {replicas: 2", "fra0-small: {replicas: 3")
    kill_plan.write_text(json.dumps([f"in {step}" for step in steps("fra0")]))
    result = trial.json("change", "--fleet", staging, "--apply")
    assert json.loads(kill_plan.read_text()) == []
    assert {pool["pool"]: pool["replicas_ready"] for pool in result["pools"]}["small"] == 3
    assert trial.json("journal.verify", "--fleet", staging)["findings"] == []
    assert not (trial.root / ".fleet" / "sample" / "staging" / "fleet.db").exists()
    kept = trial.root / ".fleet" / "sample" / "staging" / "database.url"
    assert kept.stat().st_mode & 0o77 == 0
