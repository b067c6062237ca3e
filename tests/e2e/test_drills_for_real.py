"""A site of production is lost in a drill, once somebody else has signed; all of it comes back."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.cloned import Clone
from tests.e2e.two_sites import FLEET, LEFT, LOST, fleet

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]
NAMESPACE = "gpufleet-drill"
DRILL = (
    *("dr.drill", "--fleet", FLEET, "--scenario", "site-lost", "--target", LOST),
    "--for-real",
)
SIGN = ("--fleet", FLEET, "--apply")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A key of each of two people."""
    folder = tmp_path_factory.mktemp("keys")
    made = {}
    for name in ("mara", "jonas"):
        made[name] = folder / name
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", made[name]]
        subprocess.run(command, check=True)
    return made


@pytest.fixture(scope="module")
def there(clone: Clone, keys: dict[str, Path]) -> Clone:
    """The environment, which stands: what comes up at the other site needs GPUs of batch."""
    public = {name: key.with_suffix(".pub").read_text().strip() for name, key in keys.items()}
    content = fleet(crowded=True, signers=public)
    file = clone.root / FLEET
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")
    clone.fleet("up", "--fleet", FLEET)
    clone.use(FLEET)
    return clone


def signed(keys: dict[str, Path], name: str) -> tuple[str, ...]:
    return ("--identity", name, "--key", str(keys[name]))


def until(look: Callable[[], object], within_s: float) -> None:
    """Wait for something."""
    end = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < end
        time.sleep(0.5)


def workloads(clone: Clone) -> dict[str, dict[str, Any]]:
    """Every workload of a pool, by site and name."""
    found = {}
    for site in (LOST, LEFT):
        for item in clone.kubectl(site, "get", "deployments", "-A")["items"]:
            if item["metadata"]["namespace"] != NAMESPACE:
                found[f"{site}/{item['metadata']['name']}"] = item
    return found


def replicas(clone: Clone) -> dict[str, int]:
    """Replicas that each workload is told to have."""
    return {name: int(item["spec"]["replicas"]) for name, item in workloads(clone).items()}


def told(clone: Clone, flow: str) -> dict[str, Any]:
    """The story of a drill so far; nothing before it has begun."""
    done = clone.run("./fleet", "dr.report", "--fleet", FLEET, "--id", flow, "--json")
    return json.loads(done.stdout) if done.returncode == 0 else {}


def worker(clone: Clone) -> int:
    """The process of the environment's worker."""
    rows = clone.json("status", "--fleet", FLEET, code=0)["processes"]
    (found,) = (row["pid"] for row in rows if row["process"] == "worker")
    return int(found)


def as_before(clone: Clone, before: dict[str, int]) -> None:
    """Production is what it was, and nothing of a drill is left."""
    assert replicas(clone) == before
    for item in workloads(clone).values():
        assert "gpufleet.dev/drilled-by" not in item["metadata"].get("annotations", {})
    for site in (LOST, LEFT):
        scalers = clone.kubectl(site, "get", "scaledobjects", "-A")["items"]
        for item in scalers:
            annotations = item["metadata"].get("annotations", {})
            assert "autoscaling.keda.sh/paused-replicas" not in annotations
        stage = clone.run("kubectl", f"--context={site}", "get", "ns", NAMESPACE)
        assert stage.returncode != 0
    status = clone.run("./fleet", "status", "--fleet", FLEET, "--json")
    assert json.loads(status.stdout)["drift"] == []


def test_a_plan_in_words_changes_nothing_and_one_alone_cannot_begin_it(
    there: Clone, keys: dict[str, Path]
) -> None:
    before = replicas(there)
    plan = there.json(*DRILL)
    rows = {(row["pool"], row["reason"]): row for row in plan["for_real"]["scaled"]}
    assert rows["chat", "lost"]["before"] == 2
    assert rows["search", "lost"]["before"] == 1
    assert (rows["mail", "yields"]["before"], rows["mail", "yields"]["left"]) == (2, 1)
    assert plan["unheld"] == {}
    words = there.fleet(*DRILL)
    assert "FOR REAL: production is hit" in words
    assert "1 of 2 replicas of batch pool mail" in words
    there.fleet(*DRILL, "--apply", code=2)
    flow = there.json(*DRILL, "--apply", "--detach", *signed(keys, "mara"))["flow"]
    there.fleet("approve.sign", flow, *signed(keys, "mara"), *SIGN, code=3)
    there.fleet("flows.cancel", flow, "--fleet", FLEET)
    assert told(there, flow) == {}
    as_before(there, before)


def test_a_site_of_production_is_back_elsewhere_though_the_worker_is_killed_and_comes_back(
    there: Clone, keys: dict[str, Path], tmp_path: Path
) -> None:
    before = replicas(there)
    process = worker(there)
    why = ("--why", "the yearly one")
    flow = there.json(*DRILL, *why, "--apply", "--detach", *signed(keys, "mara"))["flow"]
    there.fleet("approve.sign", flow, *signed(keys, "jonas"), *SIGN)
    until(lambda: replicas(there)[f"{LOST}/chat"] == 0, 180)
    os.kill(process, signal.SIGKILL)
    until(lambda: replicas(there)[f"{LEFT}/mail"] == 1, 180)
    until(lambda: told(there, flow).get("cleaned"), 900)
    report = told(there, flow)
    assert report["workers"] > 1
    assert report["approved_by"] == ["jonas"]
    models = {row["use_case"]: row["model"] for row in report["use_cases"]}
    assert models == {"answers": "large-8b", "search": "small-1b"}
    assert {row["site"] for row in report["placed"]} == {LEFT}
    assert report["given_back_at"]
    assert report["cleaned"]
    as_before(there, before)
    answer = there.json("gateway.ask", "--use-case", "search", "--fleet", FLEET, "Hello")
    assert answer["model"] == "small-1b"
    held = there.json("access.list", "--fleet", FLEET)
    assert all(key["revoked_at"] for key in held if key["id"] in report["keys"])
    facts = [fact["event"] for fact in there.json("journal.list", "--fleet", FLEET)]
    wanted = ("requested", "approved", "announced", "failed", "taken", "given_back", "ended")
    assert {f"drill.{event}" for event in wanted} <= set(facts)
    page = tmp_path / "drill.html"
    there.fleet("dr.report", "--fleet", FLEET, "--id", flow, "--page", str(page))
    assert "as signed by jonas" in page.read_text()


def test_a_drill_for_real_that_is_cancelled_gives_everything_back(
    there: Clone, keys: dict[str, Path]
) -> None:
    before = replicas(there)
    flow = there.json(*DRILL, "--apply", "--detach", *signed(keys, "mara"))["flow"]
    there.fleet("approve.sign", flow, *signed(keys, "jonas"), *SIGN)
    until(lambda: replicas(there)[f"{LOST}/chat"] == 0, 180)
    there.fleet("flows.cancel", flow, "--fleet", FLEET)
    until(lambda: told(there, flow).get("cleaned"), 600)
    assert told(there, flow)["state"] == "cancelled"
    as_before(there, before)


def test_a_lost_gpu_of_production_is_made_up_for_on_another_node(
    there: Clone, keys: dict[str, Path]
) -> None:
    before = replicas(there)
    ask = ("dr.drill", "--fleet", FLEET, "--scenario", "gpu-lost", "--for-real")
    # Its node group has no other node.
    alone = there.run("./fleet", *ask, "--target", f"chat@{LEFT}", "--apply", *signed(keys, "mara"))
    assert alone.returncode == 3
    assert "--accept-loss answers" in alone.stderr
    target = ("--target", f"chat@{LOST}")
    lost = there.json(*ask, *target)["for_real"]["cordoned"]
    flow = there.json(*ask, *target, "--apply", "--detach", *signed(keys, "mara"))["flow"]
    there.fleet("approve.sign", flow, *signed(keys, "jonas"), *SIGN)
    until(lambda: told(there, flow).get("cleaned"), 600)
    report = told(there, flow)
    assert report["met"] is True
    assert report["given_back_at"]
    pods = there.kubectl(LOST, "get", "pods", "-n", lost["namespace"])["items"]
    assert lost["pod"] not in {pod["metadata"]["name"] for pod in pods}
    nodes = there.kubectl(LOST, "get", "nodes")["items"]
    assert not [node for node in nodes if node["spec"].get("unschedulable")]
    as_before(there, before)
