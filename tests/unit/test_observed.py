"""Pool rows and drift, from what a cluster shows."""

from typing import Any

import pytest

from gpufleet.core.inventory import expand_site
from gpufleet.core.observed import node_drift, pool_rows, rolling, state_drift, workload_drift
from gpufleet.core.serving import pools_at
from gpufleet.core.vocabulary import GPU_RESOURCE, NODE_GROUP, POOL, REVISION_DIGEST
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet

Thing = dict[str, Any]
GROUP_INDEX = "leaderworkerset.sigs.k8s.io/group-index"


@pytest.fixture(scope="module")
def article() -> Fleet:
    return load_fleet(PROJECT_ROOT / "fleets/article/production.yaml")


@pytest.fixture(scope="module")
def sample() -> Fleet:
    return load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")


def pod(
    fleet: Fleet, pool: str, node: str | None, group: str = "0", *, ready: bool = True
) -> Thing:
    digest = fleet.models[fleet.pools[pool].model].digest
    gpus = next(iter(fleet.pools[pool].placements.values())).gpus_per_node
    return {
        "metadata": {
            "labels": {POOL: pool, GROUP_INDEX: group},
            "annotations": {REVISION_DIGEST: digest},
        },
        "spec": {
            "nodeName": node,
            "containers": [{"resources": {"requests": {GPU_RESOURCE: str(gpus)}}}],
        },
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def node(fleet: Fleet, site: str, index: int, **change: Any) -> Thing:  # noqa: ANN401 - plain data
    declared = expand_site(fleet, site)[index]
    return {
        "metadata": {"name": declared.name, "labels": {NODE_GROUP: declared.group}},
        "status": {
            "allocatable": {GPU_RESOURCE: "8"},
            "conditions": [{"type": "Ready", "status": "True"}],
            **change,
        },
    }


def test_only_ready_pods_of_the_declared_revision_count(article: Fleet) -> None:
    old = pod(article, "answers", "h100-001")
    old["metadata"]["annotations"][REVISION_DIGEST] = "sha256:" + "0" * 64
    leaving = pod(article, "answers", "h100-001")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    pods = [
        pod(article, "answers", "h100-001"),
        pod(article, "answers", "h100-002"),
        pod(article, "answers", "h100-002", ready=False),
        pod(article, "answers", None, ready=False),
        old,
        leaving,
    ]
    (row,) = pool_rows(article, "main", pods)
    assert (row.replicas_ready, row.replicas_wanted) == (2, 7)
    assert (row.gpus_used, row.gpus_free) == (5, 11)
    assert (row.nodes, row.racks) == (2, 2)
    assert not row.is_ready


def test_a_replica_over_nodes_is_ready_when_all_its_pods_are(sample: Fleet) -> None:
    pods = [
        pod(sample, "reasoning", "fra1-reasoning-001", "0"),
        pod(sample, "reasoning", "fra1-reasoning-002", "0"),
        pod(sample, "reasoning", "fra1-reasoning-003", "1"),
        pod(sample, "reasoning", "fra1-reasoning-004", "1", ready=False),
    ]
    row = next(row for row in pool_rows(sample, "fra1", pods) if row.pool == "reasoning")
    assert row.replicas_ready == 1


def test_missing_unready_short_and_undeclared_nodes_are_drift(article: Fleet) -> None:
    declared = expand_site(article, "main")
    good = [node(article, "main", 0), node(article, "main", 1)]
    assert node_drift(declared, good, "main") == []

    lost = node_drift(declared, good[:1], "main")
    assert [(row.what, row.actual) for row in lost] == [("node h100-002", "missing")]

    sick = [good[0], node(article, "main", 1, conditions=[{"type": "Ready", "status": "Unknown"}])]
    assert [row.actual for row in node_drift(declared, sick, "main")] == ["not ready"]

    short = [good[0], node(article, "main", 1, allocatable={GPU_RESOURCE: "7"})]
    assert [row.actual for row in node_drift(declared, short, "main")] == ["7 GPUs"]

    guest = node(article, "main", 1)
    guest["metadata"]["name"] = "guest"
    assert [row.what for row in node_drift(declared, [*good, guest], "main")] == ["node guest"]


def test_a_node_that_is_not_ours_is_not_drift(article: Fleet) -> None:
    other = node(article, "main", 1)
    other["metadata"] = {"name": "control-plane-0", "labels": {}}
    good = [node(article, "main", 0), node(article, "main", 1)]
    assert node_drift(expand_site(article, "main"), [*good, other], "main") == []


def test_workloads_that_serve_something_else_are_drift(article: Fleet) -> None:
    (pool,) = pools_at(article, "main")

    def workload(replicas: int, digest: str, name: str = "answers") -> Thing:
        template = {"metadata": {"annotations": {REVISION_DIGEST: digest}}}
        return {"metadata": {"name": name}, "spec": {"replicas": replicas, "template": template}}

    good = workload(7, pool.model.digest)
    assert workload_drift(article, "main", [good]) == []
    assert workload_drift(article, "main", [workload(10, pool.model.digest)]) == []
    found = workload_drift(
        article, "main", [workload(2, "sha256:old"), workload(1, "sha256:x", "extra")]
    )
    assert [row.what for row in found] == [
        "pool answers replicas",
        "pool answers revision",
        "pool extra",
    ]
    assert [row.actual for row in workload_drift(article, "main", [])] == ["missing"]
    worker: Thing = {"metadata": {"name": "gpufleet-worker", "namespace": "gpufleet-system"}}
    assert workload_drift(article, "main", [good, worker]) == []


def test_an_object_that_is_gone_or_another_one_is_drift_from_the_state() -> None:
    recorded = [("/api/v1/a/1", "uid-1"), ("/api/v1/a/2", "uid-2"), ("/api/v1/a/3", "uid-3")]
    found = {"/api/v1/a/1": "uid-1", "/api/v1/a/2": "other"}
    rows = state_drift("main", recorded, found)
    assert [(row.what, row.actual) for row in rows] == [
        ("/api/v1/a/2", "other"),
        ("/api/v1/a/3", "missing"),
    ]


def deployment(**status: int) -> dict[str, Any]:
    about = {"name": "chat", "generation": 2}
    return {"metadata": about, "spec": {"replicas": 3}, "status": status}


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3},
        {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2},
        {"observedGeneration": 2, "replicas": 4, "updatedReplicas": 3},
    ],
    ids=["nothing seen", "change not seen", "one is old", "an old one is still there"],
)
def test_a_deployment_is_rolling_until_only_new_pods_are_left(status: dict[str, int]) -> None:
    assert rolling([deployment(**status)]) == ["chat"]


def test_a_deployment_with_its_new_pods_alone_is_through() -> None:
    through = deployment(observedGeneration=2, replicas=3, updatedReplicas=3)
    assert rolling([through]) == []
