"""The main job, from a fresh clone: `./fleet up`, and what an operator then does to it."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from tests.e2e.cloned import Clone, freeze_around_now

from gpufleet.local.orphans import MARK
from gpufleet.local.pool_pod import GROUP_NAME

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

T = TypeVar("T")
SAMPLE = "fleets/sample/production.yaml"
ARTICLE = "fleets/article/production.yaml"
SITES = ("fra1", "dub1")
KINDS = (
    "deployments,leaderworkersets,pods,nodes,services,poddisruptionbudgets,namespaces,"
    "persistentvolumes,persistentvolumeclaims"
)


@pytest.fixture(scope="module")
def sample(clone: Clone) -> Clone:
    """The sample fleet, up; its changes need nobody's approval here."""
    replace(clone.root / SAMPLE, "approvals_required: 2", "approvals_required: 0")
    clone.report = clone.json("up")
    clone.use(SAMPLE)
    return clone


@pytest.fixture
def fleet_file(sample: Clone) -> Iterator[Path]:
    """The sample's fleet file, to be changed; put back afterwards."""
    file = sample.root / SAMPLE
    before = file.read_text()
    yield file
    file.write_text(before)
    (file.parent / "calendars" / "now.ics").unlink(missing_ok=True)
    # The worker would tell the clusters within seconds.
    sample.fleet("freeze.sync")


def replace(file: Path, old: str, new: str) -> None:
    """Change one place of a file."""
    text = file.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
    file.write_text(text.replace(old, new))


def freeze_now(file: Path) -> None:
    """Let the fleet file's company calendar hold a freeze around now."""
    (file.parent / "calendars" / "now.ics").write_text(freeze_around_now("Audit week"))
    replace(file, "calendars/company.ics", "calendars/now.ics")


def uids(clone: Clone, *, without_groups: bool = False) -> dict[str, str]:
    """Every object's UID, by site, kind and name; on demand without pods of LeaderWorkerSets."""
    return {
        f"{site}/{thing['kind']}/{thing['metadata']['name']}": thing["metadata"]["uid"]
        for site in SITES
        for thing in clone.kubectl(site, "get", KINDS, "--all-namespaces")["items"]
        if not (without_groups and thing["kind"] == "Pod" and GROUP_NAME in labels(thing))
    }


def labels(thing: dict[str, Any]) -> dict[str, str]:
    """Of an object."""
    found: dict[str, str] = thing["metadata"].get("labels", {})
    return found


def wait_for(condition: Callable[[], T], within_s: float = 120) -> T:
    """Poll until a condition gives something true."""
    deadline = time.monotonic() + within_s
    pause = 0.02
    while time.monotonic() < deadline:
        if found := condition():
            return found
        # Poll gently: the machine is busy with what is waited for.
        signal.sigtimedwait([], pause)
        pause = min(2 * pause, 0.5)
    raise AssertionError(f"not within {within_s} s")


def platform_processes(clone: Clone) -> list[psutil.Process]:
    """Everything that the embedded platform of the sample started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(str(clone.root / ".fleet" / "sample")):
                found.append(process)
        except psutil.Error:
            continue
    return found


def start(clone: Clone, *arguments: str) -> subprocess.Popen[str]:
    """Start a task in the background."""
    return subprocess.Popen(
        ["./fleet", *arguments],
        cwd=clone.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **clone.variables},
    )


def updating(clone: Clone) -> psutil.Process | None:
    """A `pulumi up` of the clone that is under way."""
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if line[1:2] == ["up"] and process.cwd().startswith(str(clone.root / "stacks")):
                return process
        except psutil.Error:
            continue
    return None


def test_one_command_makes_every_replica_ready(sample: Clone) -> None:
    pools = sample.report["pools"]
    assert {pool["site"] for pool in pools} == set(SITES)
    assert {pool["pool"] for pool in pools} == {
        "chat", "code", "reasoning", "legal", "small", "documents", "mail",
    }  # fmt: skip
    assert all(pool["replicas_ready"] == pool["replicas_wanted"] > 0 for pool in pools)


def test_kubectl_shows_every_workload_ready_in_both_sites(sample: Clone) -> None:
    for site in SITES:
        listed = sample.kubectl(site, "get", "deployments,leaderworkersets", "--all-namespaces")
        assert {item["kind"] for item in listed["items"]} == {"Deployment", "LeaderWorkerSet"}
        for item in listed["items"]:
            assert item["status"]["readyReplicas"] == item["spec"]["replicas"], item["metadata"]


def test_pods_of_every_pool_have_the_claim_for_their_node_s_cache(sample: Clone) -> None:
    for site in SITES:
        claims = sample.kubectl(site, "get", "persistentvolumeclaims", "--all-namespaces")["items"]
        bound = {
            each["metadata"]["namespace"]: each["status"]["phase"]
            for each in claims
            if each["metadata"]["name"] == "node-cache"
        }
        assert bound == {"gpufleet-interactive": "Bound", "gpufleet-batch": "Bound"}
        pods = sample.kubectl(site, "get", "pods", "--all-namespaces", "-l", "gpufleet.dev/pool")
        assert pods["items"]
        assert all("node-cache" in json.dumps(each["spec"]) for each in pods["items"])


def test_the_scheduler_itself_counts_gpus(sample: Clone) -> None:
    for site in SITES:
        nodes = sample.kubectl(site, "get", "nodes")["items"]
        assert all(node["status"]["allocatable"]["nvidia.com/gpu"] == "8" for node in nodes)
        used: Counter[str] = Counter()
        for pod in sample.kubectl(site, "get", "pods", "--all-namespaces")["items"]:
            for container in pod["spec"]["containers"]:
                asked = container["resources"].get("requests", {}).get("nvidia.com/gpu", "0")
                used[pod["spec"]["nodeName"]] += int(asked)
        assert used.total() > 0
        assert max(used.values()) <= 8
    assert sum(len(sample.kubectl(site, "get", "nodes")["items"]) for site in SITES) == 64


def test_a_replica_over_two_nodes_stands_on_two_whole_nodes(sample: Clone) -> None:
    pods = sample.kubectl("fra1", "get", "pods", "-A", "-l", "gpufleet.dev/pool=reasoning")["items"]
    assert len({pod["spec"]["nodeName"] for pod in pods}) == len(pods) == 4


def test_each_replica_has_an_address_of_its_own(sample: Clone) -> None:
    addresses = [
        pod["status"]["podIP"]
        for site in SITES
        for pod in sample.kubectl(site, "get", "pods", "-A", "-l", "gpufleet.dev/pool")["items"]
    ]
    assert len(addresses) == len(set(addresses))
    assert all(address.startswith("127.") for address in addresses)


def test_plain_preview_of_every_stack_has_no_change(sample: Clone) -> None:
    for project in ("platform", "pools"):
        listed = sample.pulumi(project, "stack", "ls", "--json")
        stacks = [stack["name"] for stack in json.loads(listed.stdout)]
        assert len(stacks) == len(SITES)
        for stack in stacks:
            done = sample.pulumi(project, "preview", "--stack", stack, "--expect-no-changes")
            assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_control_planes_controllers_and_the_worker(sample: Clone) -> None:
    for site in SITES:
        file = sample.root / ".fleet/sample/production/sites" / site / "ports.json"
        port = json.loads(file.read_text())["prometheus"]

        def down(port: int = port) -> set[str]:
            url = f"http://127.0.0.1:{port}/api/v1/targets?state=active"
            with urllib.request.urlopen(url, timeout=10) as answer:
                targets = json.load(answer)["data"]["activeTargets"]
            jobs = {target["labels"]["job"] for target in targets if target["health"] != "up"}
            assert {"apiserver", "kueue", "keda", "worker"} <= {
                target["labels"]["job"] for target in targets
            }
            return jobs

        wait_for(lambda: not down())


def test_interactive_pools_that_may_burst_are_the_autoscalers(sample: Clone) -> None:
    for site in SITES:
        found = sample.kubectl(site, "get", "scaledobjects,hpa", "--all-namespaces")["items"]
        bounds = {
            item["metadata"]["name"]: (item["spec"]["minReplicas"], item["spec"]["maxReplicas"])
            for item in found
            if item["kind"] == "HorizontalPodAutoscaler"
        }
        assert len(bounds) == len(found) / 2
        assert bounds["keda-hpa-chat"] == {"fra1": (10, 14), "dub1": (6, 12)}[site]


def test_a_second_up_changes_nothing(sample: Clone) -> None:
    before = uids(sample)
    for stack in sample.json("up")["stacks"]:
        assert stack["created"] == stack["updated"] == stack["replaced"] == stack["deleted"] == 0
    assert uids(sample) == before


def test_a_changed_replica_count_changes_just_that(sample: Clone, fleet_file: Path) -> None:
    replace(fleet_file, "fra1-documents: {replicas: 4,", "fra1-documents: {replicas: 5,")
    changes = [
        (change["action"], change["kind"], change["name"], change["fields"])
        for stack in sample.json("preview")["stacks"]
        for change in stack["changes"]
    ]
    # The gateway's limits, told at both sites, and the pool's alerts follow from its replicas.
    assert ("update", "Deployment", "documents", ["spec.replicas"]) in changes
    assert sorted(change[:3] for change in changes) == [
        ("update", "ConfigMap", "gateway-routes"),
        ("update", "ConfigMap", "gateway-routes"),
        ("update", "Deployment", "documents"),
        ("update", "PrometheusRule", "prometheusrule-gpufleet-pools"),
    ]


def test_a_freeze_refuses_a_change_everywhere(sample: Clone, fleet_file: Path) -> None:
    before = uids(sample)
    replace(fleet_file, "fra1-documents: {replicas: 4,", "fra1-documents: {replicas: 5,")
    freeze_now(fleet_file)

    refused = sample.json("up", code=3)
    assert "Audit week" in refused["error"]
    assert "next opening" in refused["mend"]

    stack = "sample-production-fra1"
    plain = sample.pulumi("pools", "up", "--yes", "--skip-preview", "--stack", stack)
    assert plain.returncode != 0
    assert "Audit week" in plain.stdout
    assert uids(sample) == before


@pytest.mark.slow
def test_a_freeze_lets_an_update_without_changes_pass(sample: Clone, fleet_file: Path) -> None:
    freeze_now(fleet_file)
    sample.fleet("up")


def kubectl_refused(clone: Clone, *arguments: str) -> str:
    """What plain kubectl is told; it has to be refused."""
    done = clone.run("kubectl", "--context=fra1", "--namespace=gpufleet-interactive", *arguments)
    assert done.returncode != 0, done.stdout
    return done.stderr


def test_plain_kubectl_is_refused_an_image_that_is_not_ours(sample: Clone) -> None:
    by_tag = kubectl_refused(sample, "set", "image", "deployment/small", "engine=nginx:latest")
    assert "gpufleet: images by digest only" in by_tag
    elsewhere = f"engine=docker.io/library/nginx@sha256:{'0' * 64}"
    told = kubectl_refused(sample, "set", "image", "deployment/small", elsewhere)
    assert "gpufleet: not from a declared source" in told


def test_the_worker_lets_kubectl_change_nothing_in_a_freeze(
    sample: Clone, fleet_file: Path
) -> None:
    before = uids(sample)
    freeze_now(fleet_file)

    def frozen() -> bool:
        told = sample.kubectl(
            "fra1", "get", "configmap", "-n", "gpufleet-system", "gpufleet-freeze"
        )
        return "Audit week" in told["data"]["message"]

    wait_for(frozen)
    for command in (
        ("delete", "deployment", "small"),
        ("scale", "deployment", "small", "--replicas=1"),
        ("label", "service", "small", "a=b"),
        ("delete", "namespace", "gpufleet-interactive"),
    ):
        told = kubectl_refused(sample, *command)
        assert "gpufleet: frozen: freeze `Audit week`" in told
        assert "the next opening is" in told
    assert uids(sample) == before


def test_what_was_lost_is_healed_in_a_freeze_and_the_journal_says_so(
    sample: Clone, fleet_file: Path
) -> None:
    sample.fleet("freeze.sync")
    done = sample.run(
        "kubectl", "--context=fra1", "-n", "gpufleet-interactive", "delete", "service", "small"
    )
    assert done.returncode == 0, done.stderr
    freeze_now(fleet_file)
    sample.fleet("up")
    assert sample.json("status")["drift"] == []
    [*_, last] = sample.json("journal.list", "--event", "freeze.exempted")
    assert last["body"]["purpose"] == "self-healing"
    assert last["target"] == "fra1"


def test_an_unreadable_calendar_counts_as_frozen(sample: Clone, fleet_file: Path) -> None:
    replace(fleet_file, "fra1-documents: {replicas: 4,", "fra1-documents: {replicas: 5,")
    replace(fleet_file, "calendars/company.ics", "calendars/lost.ics")
    assert "cannot be read" in sample.json("up", code=3)["error"]


def test_a_deleted_workload_is_drift_and_the_next_up_makes_it_again(sample: Clone) -> None:
    done = sample.run(
        "kubectl", "--context=fra1", "-n", "gpufleet-interactive", "delete", "deployment", "legal"
    )
    assert done.returncode == 0, done.stderr
    drift = sample.json("status", code=5)["drift"]
    assert {row["between"] for row in drift} == {"fleet and cluster", "state and cluster"}
    sample.fleet("up")
    assert sample.json("status")["drift"] == []


def test_no_credential_is_in_any_stack_state(sample: Clone) -> None:
    kubeconfig = (sample.root / ".fleet/sample/production/kubeconfig").read_text()
    keys = [line.split(": ")[1] for line in kubeconfig.splitlines() if "client-key-data" in line]
    assert len(keys) == len(SITES)
    states = list((sample.root / ".fleet/sample/production/pulumi/state").rglob("*.json"))
    assert states
    for state in states:
        text = state.read_text()
        assert not any(key in text for key in keys), state


@pytest.mark.slow
def test_killing_each_process_and_then_all_loses_nothing(sample: Clone) -> None:
    # Engines end with their node agent; a replica over nodes is made anew when one of them does.
    before = uids(sample, without_groups=True)
    for process in platform_processes(sample):
        if process.is_running():
            process.kill()
    sample.fleet("up")
    assert uids(sample, without_groups=True) == before

    victims = platform_processes(sample)
    for process in sorted(victims, key=lambda process: process.pid):
        process.kill()
    psutil.wait_procs(victims, timeout=30)
    sample.fleet("up")
    assert uids(sample, without_groups=True) == before


@pytest.mark.slow
def test_the_lock_of_a_killed_update_is_released(sample: Clone, fleet_file: Path) -> None:
    replace(fleet_file, "fra1-documents: {replicas: 4,", "fra1-documents: {replicas: 5,")
    task = start(sample, "up")
    locks = sample.root / ".fleet/sample/production/pulumi/state/.pulumi/locks"

    def held() -> psutil.Process | None:
        """An update, suspended while it holds its lock: it cannot end before it is killed."""
        for lock in locks.rglob("*.json"):
            try:
                process = psutil.Process(json.loads(lock.read_text())["pid"])
                process.suspend()
            except (psutil.Error, OSError, ValueError):
                continue
            if lock.exists():
                return process
            process.resume()
        return None

    update = wait_for(held)
    assert update is not None
    task.kill()
    for process in [*update.children(recursive=True), update]:
        process.kill()
    task.communicate()
    wait_for(lambda: updating(sample) is None)
    assert list(locks.rglob("*.json"))
    sample.fleet("up")
    assert not list(locks.rglob("*.json"))


def test_a_living_update_is_not_disturbed(sample: Clone) -> None:
    locks = sample.root / ".fleet/sample/production/pulumi/state/.pulumi/locks"
    file = locks / "organization/gpufleet-pools/sample-production-fra1/held.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    holder = {"pid": 1, "username": "ada", "hostname": "elsewhere", "timestamp": "2026-01-01"}
    file.write_text(json.dumps(holder))
    try:
        refused = sample.json("up", code=4)
    finally:
        file.unlink()
    assert "ada on elsewhere" in refused["error"]


def test_ctrl_c_during_up_leaves_what_the_next_up_finishes(sample: Clone, fleet_file: Path) -> None:
    replace(fleet_file, "dub1-mail: {replicas: 12,", "dub1-mail: {replicas: 13,")
    task = start(sample, "up")
    wait_for(lambda: updating(sample))
    task.send_signal(signal.SIGINT)
    output, _ = task.communicate(timeout=300)
    assert task.returncode == 130, output
    assert "Traceback" not in output
    wait_for(lambda: updating(sample) is None)
    sample.fleet("up")


@pytest.mark.slow
def test_an_api_server_killed_during_up_is_no_harm(sample: Clone, fleet_file: Path) -> None:
    replace(fleet_file, "dub1-mail: {replicas: 12,", "dub1-mail: {replicas: 14,")
    task = start(sample, "up")
    wait_for(lambda: updating(sample))
    for process in platform_processes(sample):
        if "kube-apiserver" in process.name():
            process.kill()
    output, _ = task.communicate(timeout=600)
    assert task.returncode in {0, 1, 4}, output
    assert "Traceback" not in output
    sample.fleet("up")
    assert sample.json("status")["drift"] == []


@pytest.mark.slow
def test_two_ups_at_once_do_not_fight(sample: Clone) -> None:
    first, second = start(sample, "up"), start(sample, "up")
    outputs = [task.communicate(timeout=600)[0] for task in (first, second)]
    codes = sorted([first.returncode, second.returncode])
    assert codes in ([0, 0], [0, 4]), outputs


@pytest.mark.slow
def test_down_stops_everything_and_up_finds_it_again(sample: Clone) -> None:
    sample.fleet("up")
    before = uids(sample, without_groups=True)
    sample.fleet("down")
    assert platform_processes(sample) == []
    assert sample.json("status", code=5)["processes"][0]["state"] == "not running"
    sample.fleet("up")
    assert uids(sample, without_groups=True) == before


@pytest.mark.slow
def test_a_first_provisioning_passes_a_freeze(clone: Clone) -> None:
    file = clone.root / ARTICLE
    before = file.read_text()
    freeze_now(file)
    try:
        clone.fleet("up", "--fleet", ARTICLE)
    finally:
        file.write_text(before)
    clone.fleet("down", "--purge", "--fleet", ARTICLE)
    assert not (clone.root / ".fleet/article/production").exists()
