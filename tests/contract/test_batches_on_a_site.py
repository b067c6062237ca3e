"""Batches on an embedded site: the stack's own queues, the real Kueue, simulated engines.

Everything that the platform and pools stacks declare for batch work is applied as they declare it,
with the admission policies.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pulumi
import pytest
from tests.conftest import Embedded, Until
from tests.contract.batch_worker import SITE, USE_CASE, batch_fleet, ground_in
from tests.recorded import Recorder, declare, recording

from gpufleet.components.serving_pool import PoolContext, ServingPool
from gpufleet.components.site_platform import SitePlatform
from gpufleet.core import admission, batch_jobs
from gpufleet.core import vocabulary as names
from gpufleet.core.quotas import SitePlan
from gpufleet.core.serving import pools_at
from gpufleet.edges.engines import Binaries
from gpufleet.edges.kube import Cluster, Object
from gpufleet.edges.kube_paths import collection_path, object_path
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir
from gpufleet.flows import batches, operations
from gpufleet.flows.batch_files import Caller, put_input, store_of, table_of
from gpufleet.flows.ground import Ground
from gpufleet.flows.node_volumes import free_volumes
from gpufleet.local.platform import Platform
from gpufleet.spec.batches import Batch, BatchState
from gpufleet.spec.errors import FleetError

pytestmark = pytest.mark.timeout(400)
JOBS = collection_path("batch/v1", "Job", names.BATCH_NAMESPACE)
PODS = collection_path("v1", "Pod", names.BATCH_NAMESPACE)
QUEUES = collection_path("kueue.x-k8s.io/v1beta1", "ClusterQueue", None)
DEPLOYMENT = f"{collection_path('apps/v1', 'Deployment', names.BATCH_NAMESPACE)}/nightly"
_DECLARED = (
    "Namespace",
    "PriorityClass",
    "RuntimeClass",
    "ResourceFlavor",
    "ClusterQueue",
    "LocalQueue",
    "WorkloadPriorityClass",
    "NetworkPolicy",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "ServiceAccount",
)
"""Kinds that are applied, in their order."""
Spawn = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def platform(binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """One running site."""
    state = EnvironmentDir(tmp_path_factory.mktemp("batches") / "site")
    made = Embedded(Platform(batch_fleet(), state, binaries))
    try:
        made.up()
        yield made
    finally:
        made.down(purge=True)


@pytest.fixture(scope="module")
def declared() -> Recorder:
    """What the stacks declare for the site."""
    fleet = batch_fleet()

    def program() -> None:
        SitePlatform(SitePlan.of(fleet, SITE))
        prometheus = pulumi.Output.from_input("http://prometheus")
        for pool in pools_at(fleet, SITE):
            ServingPool(pool, PoolContext(fleet, prometheus))

    with recording() as found:
        declare(program)
    return found


@pytest.fixture(scope="module")
def cluster(platform: Embedded, declared: Recorder) -> Iterator[Cluster]:
    """The site's API, with what the stacks declare but the pools' own replicas."""
    connected = platform.cluster(SITE)
    system = {"name": names.SYSTEM_NAMESPACE}
    connected.create(
        "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": system}
    )
    for kind in _DECLARED:
        for made in declared.of(kind):
            connected.apply(object_path(made.inputs), made.inputs)
    for thing in (admission.parameters(batch_fleet()), *admission.policies()):
        connected.apply(object_path(thing), thing)
    yield connected
    connected.close()


@pytest.fixture
def pool(cluster: Cluster, declared: Recorder) -> Iterator[Callable[[int], None]]:
    """Runs so many replicas of the batch pool, as the pools stack declares them."""
    [made] = [each for each in declared.of("Deployment") if each.name == "nightly"]

    def run(replicas: int) -> None:
        spec = {**made.inputs["spec"], "replicas": replicas}
        cluster.apply(DEPLOYMENT, {**made.inputs, "spec": spec})

    yield run
    cluster.delete(f"{DEPLOYMENT}?propagationPolicy=Background")


@pytest.fixture(scope="module")
def ground(platform: Embedded, cluster: Cluster) -> Iterator[Ground]:
    """The environment as tasks see it."""
    del cluster
    made = ground_in(platform.state.root)
    yield made
    made.close()


@pytest.fixture
def spawn(ground: Ground, until: Until) -> Iterator[Spawn]:
    """Starts a worker process, and waits until it works."""
    started: list[subprocess.Popen[bytes]] = []
    folder = ground.state.root

    def start() -> "subprocess.Popen[bytes]":
        log = (folder / "worker.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.batch_worker", str(folder)],
            cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ,
        )
        started.append(process)
        until((folder / f"ready-{process.pid}").exists)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def clean(cluster: Cluster, until: Until) -> Iterator[None]:
    """No test leaves anything that holds quota."""
    yield
    for found in cluster.items(JOBS):
        cluster.delete(f"{JOBS}/{found['metadata']['name']}?propagationPolicy=Background")
    until(lambda: not cluster.items(PODS))
    # Quota is given back a moment later; a batch that is admitted before has fewer pods for good.
    until(lambda: not any(reserving(queue) for queue in cluster.items(QUEUES)))


def reserving(queue: Object) -> int:
    """Workloads that have quota of a queue."""
    return int(queue.get("status", {}).get("reservingWorkloads", 0))


def requests(count: int, tokens: int = 8) -> bytes:
    messages = [{"role": "user", "content": "What is in this invoice?"}]
    body = {"messages": messages, "max_tokens": tokens, "min_tokens": tokens}
    return b"".join(
        json.dumps(
            {
                "custom_id": f"r-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
        ).encode()
        + b"\n"
        for number in range(count)
    )


def submitted(ground: Ground, content: bytes) -> str:
    return batches.submit_content(ground, batches.Wish(USE_CASE), content, "r.jsonl").id


def ended(ground: Ground, batch: str) -> Batch:
    return Batch.model_validate(operations.attach(ground, batch, lambda _: None))


def ids(content: bytes) -> list[str]:
    return [json.loads(line)["custom_id"] for line in content.splitlines()]


def told(ground: Ground, batch: str) -> str:
    return operations.shown(ground, batch).step


def at_work(cluster: Cluster) -> list[Object]:
    found = cluster.items(PODS, labels=names.BATCH_JOB)
    return [pod for pod in found if pod["status"]["phase"] == "Running"]


@pytest.mark.parametrize("namespace", [names.INTERACTIVE_NAMESPACE, names.BATCH_NAMESPACE])
def test_the_claim_for_a_node_s_cache_is_bound_and_a_pod_that_has_it_finds_a_node(
    cluster: Cluster, pool: Callable[[int], None], until: Until, namespace: str
) -> None:
    path = f"{collection_path('v1', 'PersistentVolumeClaim', namespace)}/{names.NODE_CACHE}"
    until(lambda: is_bound(cluster.get(path)))
    claim = cluster.get(path) or {}
    volume = cluster.get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
    assert volume is not None
    assert is_bound(volume)
    assert volume["spec"]["hostPath"]["path"] == names.CACHE_FOLDER
    if namespace == names.BATCH_NAMESPACE:
        pool(1)
        replica = until(lambda: next(iter(cluster.items(PODS, labels=names.POOL)), None))
        claims = [each.get("persistentVolumeClaim") for each in replica["spec"]["volumes"]]
        assert {"claimName": names.NODE_CACHE, "readOnly": True} in claims
        until(lambda: [each for each in cluster.items(PODS, labels=names.POOL) if is_on_node(each)])


def test_a_lost_claim_for_a_node_s_cache_can_be_made_again(
    cluster: Cluster, declared: Recorder, until: Until
) -> None:
    namespace = names.INTERACTIVE_NAMESPACE
    path = f"{collection_path('v1', 'PersistentVolumeClaim', namespace)}/{names.NODE_CACHE}"
    until(lambda: is_bound(cluster.get(path)))
    volume = f"/api/v1/persistentvolumes/{(cluster.get(path) or {})['spec']['volumeName']}"
    cluster.delete(path)
    until(lambda: (cluster.get(volume) or {}).get("status", {}).get("phase") == "Released")
    [made] = [
        each.inputs
        for each in declared.of("PersistentVolumeClaim")
        if each.inputs["metadata"]["namespace"] == namespace
    ]
    free_volumes(cluster)
    cluster.apply(path, made)
    until(lambda: is_bound(cluster.get(path)))


def is_bound(thing: Object | None) -> bool:
    return thing is not None and thing.get("status", {}).get("phase") == "Bound"


def is_on_node(pod: Object) -> bool:
    return bool(pod["spec"].get("nodeName"))


def test_a_batch_is_answered_in_order_and_leaves_nothing_behind(
    ground: Ground, cluster: Cluster, spawn: Spawn, until: Until
) -> None:
    spawn()
    batch = submitted(ground, requests(100))
    done = ended(ground, batch)
    assert (done.state, done.site, done.shards) == (BatchState.COMPLETED, SITE, 3)
    assert (done.completed, done.failed) == (100, 0)
    _, answers, errors = batches.results(ground, batch)
    assert ids(answers) == ids(requests(100))
    assert errors == b""
    first: dict[str, Any] = json.loads(answers.splitlines()[0])["response"]
    assert first["status_code"] == 200
    assert first["body"]["usage"]["completion_tokens"] == 8
    assert cluster.get(f"{JOBS}/{batch}") is None
    until(lambda: not cluster.items(PODS))
    store, bucket = store_of(ground, SITE), batch_jobs.bucket_of(ground.fleet)
    assert store.keys(bucket, batch_jobs.shards_prefix(batch)) == []
    facts = [record for record in ground.journal.records() if record.flow == batch]
    assert [fact.event for fact in facts] == ["batch.submitted", "batch.placed", "batch.ended"]
    # No replica's place was taken: nothing that serves has the label of replicas.
    assert not cluster.items(PODS, labels=names.POOL)


def test_a_replica_takes_its_gpus_back_and_the_batch_goes_on_when_they_are_idle(
    ground: Ground,
    cluster: Cluster,
    spawn: Spawn,
    pool: Callable[[int], None],
    until: Until,
) -> None:
    spawn()
    batch = submitted(ground, requests(120, tokens=400))
    until(lambda: len(at_work(cluster)) == 2, within_s=120)
    pool(2)
    until(
        lambda: (cluster.get(DEPLOYMENT) or {}).get("status", {}).get("readyReplicas") == 2,
        within_s=120,
    )
    until(lambda: "waits for idle GPUs" in told(ground, batch))
    assert at_work(cluster) == []
    pool(0)
    done = ended(ground, batch)
    assert (done.state, done.completed, done.failed) == (BatchState.COMPLETED, 120, 0)
    _, answers, _ = batches.results(ground, batch)
    assert ids(answers) == ids(requests(120))


def test_a_batch_takes_the_gpus_that_are_left(
    ground: Ground,
    cluster: Cluster,
    spawn: Spawn,
    pool: Callable[[int], None],
    until: Until,
) -> None:
    pool(1)
    until(
        lambda: (cluster.get(DEPLOYMENT) or {}).get("status", {}).get("readyReplicas") == 1,
        within_s=120,
    )

    def idle() -> list[tuple[str, int]]:
        plan = batches.plan(ground, batches.Wish(USE_CASE), requests(80), "r")
        return [(site.site, site.gpus) for site in plan.sites]

    # A cluster queue's status follows the admission of a replica a moment later.
    until(lambda: idle() == [(SITE, 4)])
    spawn()
    batch = submitted(ground, requests(80))
    most = 0
    while not batches.shown(ground, batch).state.is_final:
        most = max(most, len(at_work(cluster)))
    assert most == 1
    assert ended(ground, batch).completed == 80


def test_a_cancelled_batch_gives_its_gpus_back_and_keeps_its_answers(
    ground: Ground, cluster: Cluster, spawn: Spawn, until: Until
) -> None:
    spawn()
    batch = submitted(ground, requests(120, tokens=400))
    until(lambda: batches.shown(ground, batch).completed >= 40, within_s=180)
    batches.cancel(ground, batch, "mara")
    done = ended(ground, batch)
    assert done.state is BatchState.CANCELLED
    assert (done.completed >= 40, done.completed + done.failed) == (True, 120)
    _, answers, errors = batches.results(ground, batch)
    assert sorted([*ids(answers), *ids(errors)]) == sorted(ids(requests(120)))
    assert {json.loads(line)["error"]["code"] for line in errors.splitlines()} == {
        "batch_cancelled"
    }
    until(lambda: not cluster.items(PODS))


def test_a_batch_whose_window_is_over_ends_with_what_it_has(
    ground: Ground, spawn: Spawn, pool: Callable[[int], None], cluster: Cluster, until: Until
) -> None:
    pool(2)
    until(
        lambda: (cluster.get(DEPLOYMENT) or {}).get("status", {}).get("readyReplicas") == 2,
        within_s=120,
    )
    content = requests(3)
    caller = Caller("mara", "support", frozenset({USE_CASE}))
    file = put_input(ground, caller, "file-short", "r.jsonl", content)
    batch = batches.submit_file(ground, caller, batches.Wish(USE_CASE, window_s=5), file, content)
    spawn()
    done = ended(ground, batch.id)
    assert (done.state, done.completed, done.failed) == (BatchState.EXPIRED, 0, 3)
    assert done.expires_at - done.created_at == timedelta(seconds=5)
    assert cluster.get(f"{JOBS}/{batch.id}") is None


def test_a_killed_worker_and_a_deleted_job_cost_a_batch_nothing(
    ground: Ground, cluster: Cluster, spawn: Spawn, until: Until
) -> None:
    first = spawn()
    batch = submitted(ground, requests(120, tokens=200))
    until(lambda: at_work(cluster), within_s=120)
    first.send_signal(signal.SIGKILL)
    first.wait()
    cluster.delete(f"{JOBS}/{batch}?propagationPolicy=Background")
    until(lambda: not cluster.items(PODS))
    spawn()
    done = ended(ground, batch)
    assert (done.state, done.completed, done.failed) == (BatchState.COMPLETED, 120, 0)
    assert ids(batches.results(ground, batch)[1]) == ids(requests(120))


def test_a_batchs_pod_passes_admission_and_one_with_other_weights_does_not(
    ground: Ground, cluster: Cluster, spawn: Spawn, pool: Callable[[int], None], until: Until
) -> None:
    pool(2)
    spawn()
    batch = submitted(ground, requests(3))
    job = until(lambda: cluster.get(f"{JOBS}/{batch}"))
    batches.cancel(ground, batch, "mara")
    about = {key: job["metadata"][key] for key in ("namespace", "labels")}
    template = job["spec"]["template"]
    made: Object = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**about, "name": "other"},
        "spec": {
            "suspend": True,
            "template": {
                "metadata": {
                    "labels": {
                        key: value
                        for key, value in template["metadata"]["labels"].items()
                        if key.startswith(names.GROUP)
                    },
                    "annotations": {names.REVISION_DIGEST: "sha256:" + "0" * 64},
                },
                "spec": template["spec"],
            },
        },
    }
    with pytest.raises(FleetError, match="serves a revision that the fleet file declares"):
        cluster.create(JOBS, made)
    digest = template["metadata"]["annotations"][names.REVISION_DIGEST]
    made["spec"]["template"]["metadata"]["annotations"] = {names.REVISION_DIGEST: digest}
    assert cluster.create(JOBS, made)
    ended(ground, batch)
    assert table_of(ground).listed()[0].state is BatchState.CANCELLED
