"""A site is lost in a drill: service is back at the other one, production never notices."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.cloned import Clone
from tests.e2e.two_sites import FLEET, LEFT, LOST, fleet

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
NAMESPACE = "gpufleet-drill"
PHASES = ["detect", "decide", "provision", "artifacts", "load", "first-token"]
DRILL = ("dr.drill", "--fleet", FLEET, "--scenario", "site-lost", "--target", LOST)


@pytest.fixture(scope="module")
def there(clone: Clone) -> Clone:
    """The environment, which stands."""
    declare(clone, fleet())
    clone.use(FLEET)
    return clone


def declare(clone: Clone, content: dict[str, Any]) -> None:
    """Write the fleet file, and make what it declares."""
    file = clone.root / FLEET
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")
    clone.fleet("up", "--fleet", FLEET)


def pods(clone: Clone) -> dict[str, str]:
    """Every pod of production by its uid, with its restarts."""
    return {
        pod["metadata"]["uid"]: f"{pod['metadata']['name']} {pod['status'].get('phase')}"
        for site in (LOST, LEFT)
        for pod in clone.kubectl(site, "get", "pods", "-A")["items"]
        if pod["metadata"]["namespace"] != NAMESPACE
    }


def stages(clone: Clone) -> list[str]:
    """Sites at which the stage of a drill stands."""
    return [
        site
        for site in (LOST, LEFT)
        if clone.run("kubectl", f"--context={site}", "get", "ns", NAMESPACE).returncode == 0
    ]


def engines(clone: Clone) -> list[str]:
    """Pools that simulated replicas are known of."""
    files = (clone.root / ".fleet").glob("drills/production/sites/*/engines.json")
    return [row["pool"] for file in files for row in json.loads(file.read_text())]


def until(look: Callable[[], bool], within_s: float) -> None:
    """Wait for something."""
    end = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < end
        time.sleep(0.5)


def nothing_is_left(clone: Clone) -> None:
    """No object, key, engine or file of a drill is there any more."""
    assert stages(clone) == []
    for site in (LOST, LEFT):
        classes = clone.kubectl(site, "get", "priorityclass")["items"]
        assert NAMESPACE not in {each["metadata"]["name"] for each in classes}
        nodes = clone.kubectl(site, "get", "nodes")["items"]
        assert not [each for each in nodes if "gpufleet.dev/drill" in each["metadata"]["labels"]]
    keys = clone.json("access.list", "--fleet", FLEET)
    open_keys = [key for key in keys if not key["revoked_at"]]
    assert not [key for key in open_keys if key["use_cases"][0].startswith("drill-")]
    assert not [pool for pool in engines(clone) if pool.startswith("drill-")]
    assert not list((clone.root / ".fleet/drills/production/drills").glob("drill-*"))


def test_a_plan_says_what_comes_up_where_and_changes_nothing(there: Clone) -> None:
    plan = there.json(*DRILL)
    assert plan["use_cases"] == ["answers", "search"]
    assert {(each["pool"], each["node_group"]) for each in plan["placed"]} == {
        ("chat", "west-chat"),
        ("search", "west-spare"),
    }
    assert plan["outlook"]["recovered_s"] <= plan["outlook"]["rto_s"]
    assert stages(there) == []


def test_a_lost_site_is_back_within_its_objective_and_production_is_as_it_was(
    there: Clone, tmp_path: Path
) -> None:
    before = pods(there)
    report = there.json(*DRILL, "--why", "the quarter's drill", "--apply")
    assert report["scenario"] == "site-lost"
    assert report["met"] is True
    assert report["recovered_s"] <= report["rto_s"]
    assert [each["phase"] for each in report["phases"]] == PHASES
    assert all(each["seconds"] >= 0 for each in report["phases"])
    assert sum(each["seconds"] for each in report["phases"]) >= report["recovered_s"] - 1
    models = {row["use_case"]: row["model"] for row in report["use_cases"]}
    assert models == {"answers": "large-8b", "search": "small-1b"}
    assert {each["site"] for each in report["placed"]} == {LEFT}
    assert pods(there) == before
    assert there.json("status", "--fleet", FLEET)["drift"] == []
    nothing_is_left(there)
    facts = [fact["event"] for fact in there.json("journal.list", "--fleet", FLEET)]
    assert {"drill.announced", "drill.failed", "drill.ended"} <= set(facts)
    page = tmp_path / "drill.html"
    told = there.json("dr.report", "--fleet", FLEET, "--page", str(page))
    assert told["flow"] == report["flow"]
    assert "<td>first-token</td>" in page.read_text()


@pytest.mark.slow
def test_what_no_other_site_may_process_is_missed_and_the_reason_is_told(there: Clone) -> None:
    declare(there, fleet(restricted=True))
    report = there.json(*DRILL, "--apply", code=5)
    rows = {row["use_case"]: row for row in report["use_cases"]}
    assert report["met"] is False
    assert report["recovered_s"] is None
    assert rows["answers"]["met"]
    assert rows["search"]["met"]
    assert not rows["contracts"]["met"]
    assert "residency" in rows["contracts"]["why_not"]
    nothing_is_left(there)
    # It is not served at the other site, and loses nothing with that.
    other = there.json("dr.drill", "--fleet", FLEET, "--scenario", "site-lost", "--target", LEFT)
    assert other["use_cases"] == ["answers"]
    assert other["unheld"] == {}


@pytest.fixture(scope="module")
def snapshot(there: Clone, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A snapshot of the weights of `chat` at the site that is left."""
    source = tmp_path_factory.mktemp("weights")
    (source / "model.bin").write_bytes(os.urandom(32 * 2**20))
    at = ("--fleet", FLEET, "--site", LEFT, "--revision", "large-8b")
    taken = there.json("snapshot.take", *at, "--source", str(source), "--apply")
    return str(taken["snapshot"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "target", "proof"),
    [
        ("gpu-lost", f"chat@{LEFT}", "32 of 32 MiB fetched"),
        ("cache-corrupted", f"chat@{LEFT}", "of 32 MiB fetched"),
        ("store-lost", f"chat@{LOST}", f"from {LEFT}"),
        ("bad-snapshot", f"chat@{LEFT}", "is damaged"),
    ],
)
def test_weights_come_back_in_each_scenario(
    there: Clone, snapshot: str, scenario: str, target: str, proof: str
) -> None:
    ask = ("dr.drill", "--fleet", FLEET, "--scenario", scenario, "--target", target)
    report = there.json(*ask, "--apply")
    assert report["met"] is True
    (artifacts,) = (e["detail"] for e in report["phases"] if e["phase"] == "artifacts")
    assert proof in artifacts
    assert snapshot in artifacts or scenario == "bad-snapshot"
    nothing_is_left(there)


def detail_of(report: dict[str, Any], phase: str) -> str:
    """What a phase of a drill was made of."""
    (found,) = (each["detail"] for each in report["phases"] if each["phase"] == phase)
    return str(found)


@pytest.mark.slow
def test_a_lost_node_s_replica_comes_up_elsewhere_though_its_pod_stays(there: Clone) -> None:
    before = pods(there)
    ask = ("dr.drill", "--fleet", FLEET, "--scenario", "node-lost", "--target", f"chat@{LEFT}")
    report = there.json(*ask, "--apply")
    assert report["met"] is True
    room = detail_of(report, "provision")
    assert "1 of 1 lost pods are still there; nothing is scheduled on west-chat-drill" in room
    assert pods(there) == before
    nothing_is_left(there)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "target", "proof"),
    [
        ("state-lost", f"pools@{LEFT}", "beside the cluster:"),
        ("database-lost", "database", "records of the journal verify to"),
    ],
)
def test_what_gpufleet_knows_comes_back_while_service_goes_on(
    there: Clone, scenario: str, target: str, proof: str
) -> None:
    before = pods(there)
    there.fleet("dr.protect", "--fleet", FLEET, "--apply")
    ask = ("dr.drill", "--fleet", FLEET, "--scenario", scenario, "--target", target)
    report = there.json(*ask, "--apply")
    assert report["met"] is True
    assert report["lost_s"] <= report["rpo_s"]
    assert proof in detail_of(report, "artifacts")
    assert "were answered meanwhile" in detail_of(report, "first-token")
    assert pods(there) == before
    nothing_is_left(there)


def test_a_restore_that_is_due_is_proven_by_the_worker(there: Clone, snapshot: str) -> None:
    def restored() -> bool:
        rows = json.loads(there.run("./fleet", "dr.schedule", "--fleet", FLEET, "--json").stdout)
        return any(
            row["target"] == f"large-8b@{LEFT}" and row["proven_at"] and not row["overdue_s"]
            for row in rows
        )

    assert snapshot
    until(restored, 300)


def worker(clone: Clone) -> int:
    """The process of the environment's worker."""
    rows = clone.json("status", "--fleet", FLEET, code=0)["processes"]
    (found,) = (row["pid"] for row in rows if row["process"] == "worker")
    return int(found)


def told(clone: Clone, flow: str) -> dict[str, Any]:
    """The story of a drill so far."""
    found: dict[str, Any] = clone.json("dr.report", "--fleet", FLEET, "--id", flow)
    return found


@pytest.mark.slow
def test_a_drill_whose_worker_is_killed_goes_on_and_cleans_up(there: Clone) -> None:
    flow = there.json(*DRILL, "--apply", "--detach")["flow"]
    until(lambda: bool(stages(there)), 120)
    os.kill(worker(there), signal.SIGKILL)
    until(lambda: bool(told(there, flow)["ended_at"]), 600)
    report = told(there, flow)
    assert report["workers"] > 1
    assert report["cleaned"]
    assert {row["use_case"] for row in report["use_cases"] if row["met"]} >= {"answers", "search"}
    nothing_is_left(there)


@pytest.mark.slow
def test_a_drill_that_is_cancelled_leaves_nothing(there: Clone) -> None:
    flow = there.json(*DRILL, "--apply", "--detach")["flow"]
    until(lambda: bool(stages(there)), 120)
    there.fleet("flows.cancel", flow, "--fleet", FLEET)
    until(lambda: told(there, flow)["cleaned"], 300)
    assert told(there, flow)["state"] == "cancelled"
    nothing_is_left(there)
