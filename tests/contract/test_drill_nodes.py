"""A node that is lost in a drill: its object stays, and nothing of production ever runs there."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.conftest import small_fleet
from tests.contract.stand_in_cluster import StandIn

from gpufleet.core.drills.own_node import own_node
from gpufleet.core.drills.scenarios import NODE_LOST
from gpufleet.core.drills.stage import DRILL, NAMESPACE
from gpufleet.core.inventory import expand_site
from gpufleet.core.observed import is_ready
from gpufleet.core.serving import pools_at
from gpufleet.edges.kube import Cluster
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.drills import node_lost, pool_plans
from gpufleet.flows.drills import stage as stages
from gpufleet.flows.drills.node_lost import NodeLost
from gpufleet.flows.drills.objects import Where
from gpufleet.flows.drills.pool_plans import node_lost as planned
from gpufleet.flows.drills.stage import Stage
from gpufleet.flows.ground import Ground
from gpufleet.local.agent_client import AgentClient
from gpufleet.local.nodes import FAKE, apply_nodes, create_node, stop_heartbeat
from gpufleet.spec.drills import DrillPlan, Outlook, Phase, Placed
from gpufleet.spec.errors import BadInput, Failed, Retryable
from gpufleet.spec.simulation import Fault, FaultKind

if TYPE_CHECKING:
    from tests.conftest import Embedded, Until

FLOW = "drill-1"
NODE = "/api/v1/nodes/east-h100-drill"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/east-h100-drill"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
UNREACHABLE = "node.kubernetes.io/unreachable"


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    opened = Ground.open(Workspace(tmp_path), PROJECT_ROOT / "fleets/article/production.yaml")
    yield replace(opened, fleet=small_fleet("east"))
    opened.close()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setattr(stages, "cluster_of", lambda *_: made)
    for name in ("_READY_WITHIN_S", "_UNREACHABLE_WITHIN_S", "_GIVEN_UP_WITHIN_S"):
        monkeypatch.setattr(node_lost, name, 0.0)
    return made


@pytest.fixture
def script(ground: Ground, cluster: StandIn) -> NodeLost:
    lost = Placed(
        pool="answers",
        site="east",
        node_group="east-h100",
        replicas=1,
        nodes_per_replica=1,
        gpus_per_node=4,
    )
    plan = DrillPlan(
        fleet=ground.fleet.fleet,
        environment=ground.fleet.environment,
        fleet_digest=f"sha256:{'0' * 64}",
        scenario=NODE_LOST.name,
        target="answers@east",
        use_cases=["answers"],
        lost=[lost],
        placed=[lost],
        unheld={},
        notes=[],
        outlook=Outlook(phases=[], recovered_s=1, rto_s=60, source="", remedies=[]),
    )
    assert cluster.objects == {}
    return NodeLost(ground, plan, Stage(ground, FLOW, NODE_LOST.name))


def heard_of(cluster: StandIn, *, ready: bool) -> None:
    """What kwok, or the node controller, says of the drill's node."""
    cluster.objects[NODE]["status"]["conditions"] = [{"type": "Ready", "status": str(ready)}]
    taints = cluster.objects[NODE]["spec"]["taints"]
    lost = [{"key": UNREACHABLE, "effect": each} for each in ("NoSchedule", "NoExecute")]
    cluster.objects[NODE]["spec"]["taints"] = taints if ready else [*taints, *lost]


def made(script: NodeLost, cluster: StandIn) -> None:
    """The drill's node, which is ready."""
    with pytest.raises(Retryable, match="does not get ready"):
        script.prepare()
    heard_of(cluster, ready=True)
    script.prepare()


def runs(cluster: StandIn, name: str, node: str, *, gone: bool = False) -> None:
    """A pod of the stage."""
    about: dict[str, Any] = {"name": name, "uid": name, "labels": {DRILL: FLOW}}
    if gone:
        about["deletionTimestamp"] = "2026-03-01T10:00:00Z"
    cluster.objects[f"{PODS}/{name}"] = {"metadata": about, "spec": {"nodeName": node}}


def test_the_node_that_is_lost_is_one_of_the_drills_own(
    script: NodeLost, cluster: StandIn, ground: Ground
) -> None:
    made(script, cluster)
    assert list(cluster.objects) == [NODE]
    node = cluster.objects[NODE]
    assert {"key": DRILL, "value": FLOW, "effect": "NoSchedule"} in node["spec"]["taints"]
    assert node["metadata"]["labels"][DRILL] == FLOW
    where = Where(only="east-h100-drill", gpus_beside=4)
    assert script.where("") == where
    assert script.where("lost") == Where(avoid="east-h100-drill", gpus_beside=4)
    other = NodeLost(ground, script.plan, Stage(ground, "drill-2", NODE_LOST.name))
    with pytest.raises(Retryable, match="another drill is still there"):
        other.prepare()


def test_nobody_hears_of_the_node_any_more_and_its_object_stays(
    script: NodeLost, cluster: StandIn
) -> None:
    made(script, cluster)
    with pytest.raises(Retryable, match="no stand-in runs on the node of the drill"):
        script.fail()
    runs(cluster, "one", "east-h100-001")
    with pytest.raises(Retryable, match="no stand-in runs on the node of the drill"):
        script.fail()
    runs(cluster, "one", "east-h100-drill")
    assert LEASE not in cluster.objects
    assert json.loads(script.fail()) == ["one"]
    assert cluster.objects[LEASE]["spec"]["holderIdentity"] == FLOW
    assert NODE in cluster.objects


def test_a_node_that_is_still_heard_of_is_no_lost_one(script: NodeLost, cluster: StandIn) -> None:
    made(script, cluster)
    with pytest.raises(Failed, match="was heard of"):
        script.decide("[]")
    heard_of(cluster, ready=False)
    assert script.decide("[]") == []


def test_the_cluster_has_to_give_the_pod_up_by_itself(script: NodeLost, cluster: StandIn) -> None:
    made(script, cluster)
    runs(cluster, "one", "east-h100-drill")
    fact = script.fail()
    with pytest.raises(Failed, match="does not give its pod up"):
        script.make_room(fact)
    runs(cluster, "one", "east-h100-drill", gone=True)
    with pytest.raises(Failed, match="does not give its pod up"):
        script.make_room(fact)
    runs(cluster, "two", "")
    assert "1 of 1 lost pods are still there; nothing is scheduled" in script.make_room(fact)
    runs(cluster, "three", "east-h100-drill")
    with pytest.raises(Failed, match="something was scheduled on the lost node"):
        script.make_room(fact)


def test_a_plan_counts_how_long_the_cluster_waits_for_a_lost_node(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {"east-h100": [8, 8]}
    told = {
        each.phase: each.seconds for each in planned(ground, "answers@east", free).outlook.phases
    }
    assert told[Phase.DECIDE] >= 50
    assert told[Phase.PROVISION] >= 10
    (pool,) = pools_at(ground.fleet, "east")
    wide = replace(pool, nodes_per_replica=2)
    monkeypatch.setattr(pool_plans, "pools_at", lambda *_: [wide])
    with pytest.raises(BadInput, match="spans nodes"):
        planned(ground, "answers@east", free)


def test_what_up_declares_leaves_a_drills_node_alone(ground: Ground) -> None:
    cluster, nodes = StandIn(), expand_site(ground.fleet, "east")
    real: Any = cluster
    apply_nodes(real, nodes)
    create_node(real, own_node(ground.fleet, "east-h100", FLOW))
    assert cluster.objects[NODE]["metadata"]["annotations"].items() >= FAKE.items()
    assert apply_nodes(real, nodes) == 0
    assert apply_nodes(real, nodes[:1]) == 1
    assert set(cluster.objects) == {NODE, f"/api/v1/nodes/{nodes[0].name}"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_cluster_notices_that_a_node_is_lost_and_its_pod_stays(
    embedded: "Embedded", until: "Until"
) -> None:
    real, agent = embedded.cluster("east"), AgentClient(embedded.state, "east")
    pods, name = "/api/v1/namespaces/default/pods", "on-lost"
    node = own_node(embedded.platform.fleet, "east-h100", FLOW)
    tolerations: list[dict[str, Any]] = [
        *({"key": key, "operator": "Exists"} for key in ("nvidia.com/gpu", DRILL)),
        {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1},
    ]
    engine = {
        "name": "engine",
        "image": "example/engine:1",
        "args": ["--served-model-name=small", "--max-num-seqs=4", "--max-model-len=4096"],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
        "ports": [{"containerPort": 8000}],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"gpufleet.dev/pool": "answers"}},
        "spec": {
            "nodeSelector": {DRILL: FLOW},
            "tolerations": tolerations,
            "terminationGracePeriodSeconds": 1,
            "containers": [engine],
        },
    }

    def state() -> dict[str, Any]:
        return real.get(f"{pods}/{name}") or {}

    def effects() -> set[str]:
        taints = (real.get(NODE) or {})["spec"]["taints"]
        return {each["effect"] for each in taints if each["key"] == UNREACHABLE}

    try:
        create_node(real, node)
        until(lambda: is_ready(real.get(NODE) or {}))
        real.create(pods, pod)
        until(lambda: is_ready(state()))
        agent.inject(Fault(kind=FaultKind.POWER, pod=name))
        stop_heartbeat(real, node.name, FLOW)
        until(lambda: effects() == {"NoSchedule", "NoExecute"}, within_s=120)
        # No kubelet has told of the end of its process.
        assert state()["status"]["phase"] == "Running"
        assert state()["status"]["containerStatuses"][0]["restartCount"] == 0
        assert not is_ready(state())
        until(lambda: state()["metadata"].get("deletionTimestamp"), within_s=30)
        until(lambda: agent.replicas() == [])
        assert state()["spec"]["nodeName"] == node.name
    finally:
        real.delete(f"{pods}/{name}", at_once=True)
        real.delete(NODE)
    assert state() == {}
    # kwok lets go of it: nobody makes its lease again.
    until(lambda: real.get(LEASE) is None)
    assert isinstance(real, Cluster)
    real.close()
