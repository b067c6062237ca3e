"""The stage of a drill: apart from production, no larger than planned, and below everything."""

from typing import Any

import pytest

from gpufleet.core import vocabulary as names
from gpufleet.core.drills.failover import free_gpus
from gpufleet.core.drills.own_node import own_node
from gpufleet.core.drills.stage import DRILL, NAMESPACE, PRIORITY_CLASS, stage_fleet
from gpufleet.core.inventory import expand_site
from gpufleet.core.observed import node_drift
from gpufleet.core.serving import pools_at
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.flows.drills.objects import ANYWHERE, Where, contents, namespace
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.drills import Placed
from gpufleet.spec.gateway import ROUTES_FILE, Routes

SAMPLE = load_fleet(PROJECT_ROOT / "fleets" / "sample" / "production.yaml")
FLOW = "drill-20260301-101500-a1b2c3"


def placed(pool: str, group: str, replicas: int) -> Placed:
    placement = next(iter(SAMPLE.pools[pool].placements.values()))
    return Placed(
        pool=pool,
        site="fra1",
        node_group=group,
        replicas=replicas,
        nodes_per_replica=placement.nodes_per_replica,
        gpus_per_node=placement.gpus_per_node,
    )


@pytest.fixture
def stage() -> Fleet:
    """Two places of one pool, and a pool whose replicas span nodes."""
    return stage_fleet(
        SAMPLE,
        [
            placed("chat", "fra1-chat", 3),
            placed("chat", "fra1-spare", 2),
            placed("reasoning", "fra1-reasoning", 1),
        ],
    )


def made(stage: Fleet, *, started: bool = True, where: Where = ANYWHERE) -> list[dict[str, Any]]:
    return list(contents(stage, "fra1", FLOW, started=started, where=where))


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] == kind]


def templates(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [each["spec"]["template"] for each in of_kind(objects, "Deployment")]
    for each in of_kind(objects, "LeaderWorkerSet"):
        group = each["spec"]["leaderWorkerTemplate"]
        found += [group["leaderTemplate"], group["workerTemplate"]]
    return found


def test_everything_is_in_the_namespace_of_drills_and_says_whose_it_is(stage: Fleet) -> None:
    for each in made(stage):
        assert each["metadata"]["namespace"] == NAMESPACE
        assert each["metadata"]["labels"][DRILL] == FLOW
        # What has this label is production's, and would count as drift.
        assert names.MANAGED not in each["metadata"]["labels"]
    assert all(each["metadata"]["labels"][DRILL] == FLOW for each in namespace(FLOW, "site-lost"))
    assert NAMESPACE not in names.GOVERNED_NAMESPACES


def test_no_more_gpus_than_planned_can_be_taken(stage: Fleet) -> None:
    (quota,) = of_kind(made(stage), "ResourceQuota")
    assert quota["spec"]["hard"] == {"requests.nvidia.com/gpu": str(5 * 4 + 16)}


def test_stand_ins_make_way_for_everything_else(stage: Fleet) -> None:
    _, priority = namespace(FLOW, "site-lost")
    assert priority["value"] < 0
    assert priority["preemptionPolicy"] == "Never"
    assert {each["spec"]["priorityClassName"] for each in templates(made(stage))} == {
        PRIORITY_CLASS
    }


def test_a_pool_on_two_node_groups_has_a_workload_on_each(stage: Fleet) -> None:
    deployments = of_kind(made(stage), "Deployment")
    assert {each["spec"]["replicas"] for each in deployments} == {3, 2}
    assert len({each["metadata"]["name"] for each in deployments}) == 2
    for each in deployments:
        wanted = each["spec"]["selector"]["matchLabels"]
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert wanted.items() <= labels.items()
    selectors = [str(each["spec"]["selector"]) for each in deployments]
    assert len(set(selectors)) == 2


def test_nothing_starts_before_its_weights_are_there(stage: Fleet) -> None:
    waiting = made(stage, started=False)
    workloads = [*of_kind(waiting, "Deployment"), *of_kind(waiting, "LeaderWorkerSet")]
    assert len(workloads) == len(pools_at(stage, "fra1"))
    assert {each["spec"]["replicas"] for each in workloads} == {0}


def test_a_node_that_is_lost_is_not_used_again(stage: Fleet) -> None:
    for template in templates(made(stage, where=Where(avoid="fra1-chat-001"))):
        rules = template["spec"]["affinity"]["nodeAffinity"]
        (term,) = rules["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        (rule,) = term["matchExpressions"]
        assert (rule["operator"], rule["values"]) == ("NotIn", ["fra1-chat-001"])
    assert not any("affinity" in each["spec"] for each in templates(made(stage)))


def test_what_runs_on_a_node_of_the_drills_own_runs_nowhere_else(stage: Fleet) -> None:
    for template in templates(made(stage, where=Where(only="fra1-chat-drill"))):
        rules = template["spec"]["affinity"]["nodeAffinity"]
        (term,) = rules["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        (rule,) = term["matchExpressions"]
        assert (rule["operator"], rule["values"]) == ("In", ["fra1-chat-drill"])
        own = {"key": DRILL, "operator": "Equal", "value": FLOW, "effect": "NoSchedule"}
        assert own in template["spec"]["tolerations"]
    tolerated = [each["spec"]["tolerations"] for each in templates(made(stage))]
    assert not any(each.get("key") == DRILL for some in tolerated for each in some)


def test_what_the_cluster_goes_on_counting_keeps_nothing_from_coming_up(stage: Fleet) -> None:
    (quota,) = of_kind(made(stage, where=Where(gpus_beside=4)), "ResourceQuota")
    assert quota["spec"]["hard"] == {"requests.nvidia.com/gpu": str(5 * 4 + 16 + 4)}


def test_a_node_of_a_drills_own_is_of_its_group_for_the_drill_alone() -> None:
    node = own_node(SAMPLE, "fra1-chat", FLOW)
    declared = {each.name: each for each in expand_site(SAMPLE, "fra1")}
    like = declared["fra1-chat-001"]
    assert node.name not in declared
    assert (node.capacity, node.group, node.gpus) == (like.capacity, like.group, like.gpus)
    assert node.labels[names.NODE_GROUP] == "fra1-chat"
    assert node.labels[DRILL] == FLOW
    assert node.labels["kubernetes.io/hostname"] == node.name
    assert {taint.key for taint in node.taints} - {taint.key for taint in like.taints} == {DRILL}


def test_a_node_of_a_drills_own_is_no_free_capacity_and_no_drift() -> None:
    node = own_node(SAMPLE, "fra1-chat", FLOW)
    ready = [{"type": "Ready", "status": "True"}]
    shown = {
        "metadata": {"name": node.name, "labels": dict(node.labels)},
        "spec": {},
        "status": {"conditions": ready, "allocatable": {names.GPU_RESOURCE: "8"}},
    }
    assert not any(free_gpus(SAMPLE, "fra1", [shown], [], {}).values())
    assert node_drift([], [shown], "fra1") == []
    stranger = {**shown, "metadata": {"name": "x", "labels": {names.NODE_GROUP: "fra1-chat"}}}
    assert [row.what for row in node_drift([], [stranger], "fra1")] == ["node x"]


def test_the_gateway_is_told_of_the_stand_ins_and_of_nothing_else(stage: Fleet) -> None:
    (config,) = of_kind(made(stage), "ConfigMap")
    routes = Routes.model_validate_json(config["data"][ROUTES_FILE])
    assert set(routes.use_cases) == {
        "drill-support-chat",
        "drill-agent-assist",
        "drill-research-analysis",
    }
    assert set(routes.pools) == {"drill-chat", "drill-reasoning"}
