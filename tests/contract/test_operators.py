"""Batch work waits for quota by the real Kueue; interactive work never meets it."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from gpufleet.core import vocabulary as names
from gpufleet.edges.kube import Cluster
from gpufleet.edges.kube_paths import collection_path
from gpufleet.spec.errors import Failed

if TYPE_CHECKING:
    from tests.conftest import Embedded, Until

SITE = "east"
QUOTA_GPUS = 8
QUEUE = "documents"
BATCH = names.BATCH_NAMESPACE
JOBS = collection_path("batch/v1", "Job", BATCH)
DEPLOYMENTS = collection_path("apps/v1", "Deployment", BATCH)
SETS = collection_path("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", BATCH)
PODS = collection_path("v1", "Pod", BATCH)
WORKLOADS = collection_path("kueue.x-k8s.io/v1beta1", "Workload", BATCH)
CLUSTER_QUEUES = collection_path("kueue.x-k8s.io/v1beta1", "ClusterQueue", None)
FLAVORS = collection_path("kueue.x-k8s.io/v1beta1", "ResourceFlavor", None)
QUEUES = collection_path("kueue.x-k8s.io/v1beta1", "LocalQueue", BATCH)

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def cluster(embedded: "Embedded") -> Iterator[Cluster]:
    """The site's cluster with a quota of `QUOTA_GPUS` for one queue."""
    connected = embedded.cluster(SITE)
    for name in (BATCH, names.INTERACTIVE_NAMESPACE):
        connected.create(
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        )
    connected.create(FLAVORS, kueue("ResourceFlavor", "h100", {}))
    connected.create(CLUSTER_QUEUES, cluster_queue(names.CLUSTER_QUEUE))
    connected.create(QUEUES, kueue("LocalQueue", QUEUE, {"clusterQueue": names.CLUSTER_QUEUE}))
    yield connected
    for path, name in (
        (QUEUES, QUEUE),
        (CLUSTER_QUEUES, names.CLUSTER_QUEUE),
        (FLAVORS, "h100"),
    ):
        connected.delete(f"{path}/{name}")
    connected.close()


@pytest.fixture(autouse=True)
def clean(cluster: Cluster, until: "Until") -> Iterator[None]:
    """No test leaves anything that holds quota or GPUs."""
    yield
    for path in (SETS, DEPLOYMENTS, JOBS, PODS):
        for found in cluster.items(path):
            cluster.delete(f"{path}/{found['metadata']['name']}?propagationPolicy=Background")
    until(lambda: not cluster.items(PODS) and not cluster.items(WORKLOADS))


def kueue(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def cluster_queue(name: str) -> dict[str, Any]:
    quota = [
        {"name": resource, "nominalQuota": amount}
        for resource, amount in (
            ("cpu", "64"),
            ("memory", "64Gi"),
            (names.GPU_RESOURCE, str(QUOTA_GPUS)),
        )
    ]
    return kueue(
        "ClusterQueue",
        name,
        {
            "namespaceSelector": {"matchLabels": {names.NAMESPACE: BATCH}},
            "resourceGroups": [
                {
                    "coveredResources": [each["name"] for each in quota],
                    "flavors": [{"name": "h100", "resources": quota}],
                }
            ],
        },
    )


def template(pool: str, gpus: int) -> dict[str, Any]:
    amount = {names.GPU_RESOURCE: str(gpus)}
    return {
        "metadata": {"labels": {names.POOL: pool}},
        "spec": {
            "tolerations": [{"key": names.GPU_RESOURCE, "operator": "Exists"}],
            "containers": [
                {"name": "engine", "image": "example/engine:1", "resources": {"limits": amount}}
            ],
        },
    }


def about(name: str) -> dict[str, Any]:
    return {"name": name, "labels": {names.QUEUE: QUEUE}}


def deployment(name: str, *, replicas: int, gpus: int) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": about(name),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {names.POOL: name}},
            "template": template(name, gpus),
        },
    }


def job(name: str, *, gpus: int) -> dict[str, Any]:
    body = template(name, gpus)
    body["metadata"] = {}
    body["spec"]["restartPolicy"] = "Never"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": about(name),
        "spec": {"template": body},
    }


def leader_worker_set(name: str, *, size: int, gpus: int) -> dict[str, Any]:
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": about(name),
        "spec": {
            "replicas": 1,
            "leaderWorkerTemplate": {"size": size, "workerTemplate": template(name, gpus)},
        },
    }


def gated(cluster: Cluster, pool: str) -> list[str]:
    """Pods of a pool that wait for quota."""
    return [
        pod["metadata"]["name"]
        for pod in cluster.items(PODS, labels=f"{names.POOL}={pool}")
        if pod["spec"].get("schedulingGates")
    ]


def ready(cluster: Cluster, path: str) -> int:
    """Ready replicas of a workload."""
    return int(((cluster.get(path) or {}).get("status") or {}).get("readyReplicas", 0))


@pytest.fixture
def full(cluster: Cluster, until: "Until") -> Callable[[], None]:
    """A batch pool that uses the whole quota; calling it frees the quota."""
    holder = f"{DEPLOYMENTS}/holder"
    cluster.create(DEPLOYMENTS, deployment("holder", replicas=2, gpus=QUOTA_GPUS // 2))
    until(lambda: ready(cluster, holder) == 2)
    return lambda: cluster.delete(f"{holder}?propagationPolicy=Background")


def test_a_job_waits_for_quota_and_runs_when_some_is_freed(
    cluster: Cluster, full: Callable[[], None], until: "Until"
) -> None:
    cluster.create(JOBS, job("extract", gpus=QUOTA_GPUS))
    until(lambda: any(reserved(each) == "False" for each in workloads_of(cluster, "job-extract")))
    assert cluster.get(f"{JOBS}/extract")["spec"]["suspend"] is True  # type: ignore[index]
    full()
    until(lambda: (cluster.get(f"{JOBS}/extract") or {})["status"].get("succeeded") == 1)


def workloads_of(cluster: Cluster, prefix: str) -> list[dict[str, Any]]:
    return [
        each for each in cluster.items(WORKLOADS) if each["metadata"]["name"].startswith(prefix)
    ]


def reserved(workload: dict[str, Any]) -> str:
    conditions = workload.get("status", {}).get("conditions") or []
    return next((each["status"] for each in conditions if each["type"] == "QuotaReserved"), "")


def test_replicas_of_a_batch_pool_wait_for_quota_and_serve_when_some_is_freed(
    cluster: Cluster, full: Callable[[], None], until: "Until"
) -> None:
    cluster.create(DEPLOYMENTS, deployment("mail", replicas=2, gpus=4))
    until(lambda: len(gated(cluster, "mail")) == 2)
    full()
    until(lambda: ready(cluster, f"{DEPLOYMENTS}/mail") == 2)
    assert not gated(cluster, "mail")


def test_a_batch_replica_over_nodes_gets_quota_for_all_of_its_pods_or_none(
    cluster: Cluster, full: Callable[[], None], until: "Until"
) -> None:
    cluster.create(SETS, leader_worker_set("large", size=2, gpus=4))
    until(lambda: gated(cluster, "large"))
    assert ready(cluster, f"{SETS}/large") == 0
    full()
    until(lambda: ready(cluster, f"{SETS}/large") == 1)


def test_nothing_in_the_batch_namespace_gets_around_the_quota(
    cluster: Cluster, until: "Until"
) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", **template("loose", 1)}
    pod["metadata"] = {"name": "loose", "labels": {names.POOL: "loose"}}
    cluster.create(PODS, pod)
    assert gated(cluster, "loose") == ["loose"]
    unqueued = deployment("unqueued", replicas=1, gpus=1)
    unqueued["metadata"]["labels"] = {}
    cluster.create(DEPLOYMENTS, unqueued)
    until(lambda: gated(cluster, "unqueued"))


def test_interactive_work_never_waits_for_quota(cluster: Cluster, until: "Until") -> None:
    path = collection_path("apps/v1", "Deployment", names.INTERACTIVE_NAMESPACE)
    try:
        # More than the quota, and even with a queue's label.
        cluster.create(path, deployment("answers", replicas=QUOTA_GPUS + 1, gpus=1))
        until(lambda: ready(cluster, f"{path}/answers") == QUOTA_GPUS + 1)
    finally:
        cluster.delete(f"{path}/answers?propagationPolicy=Background")
    until(lambda: not cluster.items("/api/v1/pods", labels=f"{names.POOL}=answers"))


def test_kueue_refuses_what_is_wrong(cluster: Cluster, until: "Until") -> None:
    wrong = cluster_queue("wrong")
    near = {"key": "team", "operator": "Near", "values": ["a"]}
    wrong["spec"]["namespaceSelector"] = {"matchExpressions": [near]}
    with pytest.raises(Failed, match="not a valid selector operator"):
        cluster.create(CLUSTER_QUEUES, wrong)
    cluster.create(DEPLOYMENTS, deployment("moved", replicas=1, gpus=1))
    until(lambda: ready(cluster, f"{DEPLOYMENTS}/moved") == 1)
    with pytest.raises(Failed, match="field is immutable"):
        cluster.merge(f"{DEPLOYMENTS}/moved", {"metadata": {"labels": {names.QUEUE: "other"}}})
