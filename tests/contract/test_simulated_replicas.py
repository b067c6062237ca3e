"""Simulated replicas on the embedded platform: what a pod's status says is what its engine does."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from gpufleet.core.serving import ENGINE_PORT
from gpufleet.edges.kube import Cluster
from gpufleet.local.agent_client import AgentClient
from gpufleet.spec.simulation import Fault, FaultKind

if TYPE_CHECKING:
    from tests.conftest import Embedded, Until

SITE = "east"
NAMESPACE = "simulated"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
SETS = f"/apis/leaderworkerset.x-k8s.io/v1/namespaces/{NAMESPACE}/leaderworkersets"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def cluster(embedded: "Embedded") -> Iterator[Cluster]:
    connected = embedded.cluster(SITE)
    connected.create(
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
    )
    yield connected
    connected.close()


@pytest.fixture
def agent(embedded: "Embedded") -> Iterator[AgentClient]:
    client = AgentClient(embedded.state, SITE)
    yield client
    client.clear()


@pytest.fixture(autouse=True)
def clean(cluster: Cluster, agent: AgentClient, until: "Until") -> Iterator[None]:
    """No test leaves pods or engines behind."""
    yield
    for path in (SETS, PODS):
        for found in cluster.items(path):
            cluster.delete(f"{path}/{found['metadata']['name']}")
    until(lambda: not cluster.items(PODS))
    until(lambda: all(each.namespace != NAMESPACE for each in agent.replicas()))


def spec(*, serves: bool = True) -> dict[str, Any]:
    engine: dict[str, Any] = {
        "name": "engine",
        "image": "example/engine:1",
        "args": ["--served-model-name=small", "--max-num-seqs=4", "--max-model-len=4096"],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    if serves:
        engine["ports"] = [{"containerPort": ENGINE_PORT}]
    return {
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "terminationGracePeriodSeconds": 60,
        "containers": [engine],
    }


def pod(name: str) -> dict[str, Any]:
    labels = {"gpufleet.dev/pool": "answers"}
    about = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec()}


def seen(cluster: Cluster, name: str, *, ready: bool, restarts: int = 0) -> dict[str, Any] | None:
    """A pod's status, if it says just that."""
    status = (cluster.get(f"{PODS}/{name}") or {}).get("status", {})
    (engine,) = status.get("containerStatuses") or [{}]
    conditions = {each["type"]: each["status"] for each in status.get("conditions") or []}
    same = (engine.get("ready"), conditions.get("Ready")) == (ready, str(ready))
    return status if same and engine.get("restartCount") == restarts else None


def url(status: dict[str, Any]) -> str:
    return f"http://{status['podIP']}:{ENGINE_PORT}"


def complete(at: str, tokens: int) -> httpx.Response:
    body = {"model": "small", "prompt": "1", "max_tokens": tokens, "ignore_eos": True}
    return httpx.post(f"{at}/v1/completions", json=body, timeout=60, trust_env=False)


def test_a_ready_pod_s_engine_has_produced_a_token(
    cluster: Cluster, agent: AgentClient, until: "Until"
) -> None:
    cluster.create(PODS, pod("one"))
    status = until(lambda: seen(cluster, "one", ready=True))
    assert status["containerStatuses"][0]["started"]
    metrics = httpx.get(f"{url(status)}/metrics", trust_env=False).text
    assert 'vllm:generation_tokens_total{model_name="small"} 1' in metrics
    assert complete(url(status), 3).json()["usage"]["completion_tokens"] == 3
    (replica,) = (each for each in agent.replicas() if each.pod == "one")
    assert (replica.site, replica.state, replica.address) == (SITE, "ready", url(status))


@pytest.mark.parametrize(
    ("kind", "reason", "code"),
    [(FaultKind.OOM, "OOMKilled", 137), (FaultKind.CRASH, "Error", 1)],
)
def test_a_dead_engine_s_pod_is_not_ready_and_tells_why_until_it_serves_again(
    cluster: Cluster, agent: AgentClient, until: "Until", kind: FaultKind, reason: str, code: int
) -> None:
    cluster.create(PODS, pod("one"))
    before = until(lambda: seen(cluster, "one", ready=True))
    agent.inject(Fault(kind=kind, pod="one", for_s=3600))
    status = until(lambda: seen(cluster, "one", ready=False, restarts=1))
    ended = status["containerStatuses"][0]["lastState"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == (reason, code)
    assert status["phase"] == "Running"
    agent.clear()
    after = until(lambda: seen(cluster, "one", ready=True, restarts=1))
    assert after["podIP"] == before["podIP"]
    assert complete(url(after), 1).status_code == 200


def test_replicas_come_back_at_their_addresses_when_the_agent_was_killed(
    embedded: "Embedded", cluster: Cluster, until: "Until"
) -> None:
    cluster.create(PODS, pod("one"))
    before = until(lambda: seen(cluster, "one", ready=True))
    killed = embedded.processes()[SITE, "agent"].pid
    os.kill(killed, signal.SIGKILL)
    after = until(lambda: seen(cluster, "one", ready=True, restarts=1))
    assert after["podIP"] == before["podIP"]
    assert after["containerStatuses"][0]["lastState"]["terminated"]["reason"] == "Unknown"
    assert complete(url(after), 1).status_code == 200


def test_a_deleted_pod_s_engine_ends_what_it_has_begun_and_keeps_its_address_meanwhile(
    embedded: "Embedded", cluster: Cluster, agent: AgentClient, until: "Until"
) -> None:
    cluster.create(PODS, pod("one"))
    status = until(lambda: seen(cluster, "one", ready=True))
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(complete(url(status), 300)))
    asking.start()

    def replica(state: str) -> bool:
        return any((each.pod, each.state) == ("one", state) for each in agent.replicas())

    until(lambda: any(each.running for each in agent.replicas() if each.pod == "one"))
    cluster.delete(f"{PODS}/one")
    until(lambda: replica("draining"))
    assert cluster.get(f"{PODS}/one") is None
    assert complete(url(status), 1).status_code == 503
    assert status["podIP"] in (embedded.state.site(SITE) / "addresses.json").read_text()
    asking.join()
    assert answers[0].json()["usage"]["completion_tokens"] == 300
    book = embedded.state.site(SITE) / "addresses.json"
    until(lambda: status["podIP"] not in book.read_text())


def test_a_deleted_pod_that_somebody_holds_has_ended_when_its_engine_has(
    cluster: Cluster, agent: AgentClient, until: "Until"
) -> None:
    held = pod("one")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    cluster.create(PODS, held)
    until(lambda: seen(cluster, "one", ready=True))
    cluster.delete(f"{PODS}/one")

    def ended() -> dict[str, Any] | None:
        status: dict[str, Any] = (cluster.get(f"{PODS}/one") or {}).get("status", {})
        return status if status.get("phase") == "Succeeded" else None

    after = until(ended)
    assert after["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    assert all(each.pod != "one" for each in agent.replicas())
    let_go = {"$deleteFromPrimitiveList/finalizers": held["metadata"]["finalizers"]}
    cluster.merge(f"{PODS}/one", {"metadata": let_go})
    until(lambda: cluster.get(f"{PODS}/one") is None)


def test_the_pods_of_a_replica_over_nodes_are_ready_with_the_one_that_serves(
    cluster: Cluster, agent: AgentClient, until: "Until"
) -> None:
    labels = {"gpufleet.dev/pool": "answers"}
    template = {
        "size": 2,
        "restartPolicy": "None",
        "leaderTemplate": {"metadata": {"labels": labels}, "spec": spec()},
        "workerTemplate": {"metadata": {"labels": labels}, "spec": spec(serves=False)},
    }
    cluster.create(
        SETS,
        {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": {"name": "wide", "namespace": NAMESPACE},
            "spec": {"replicas": 1, "leaderWorkerTemplate": template},
        },
    )
    until(lambda: seen(cluster, "wide-0", ready=True))
    until(lambda: seen(cluster, "wide-0-1", ready=True))
    assert [each.pod for each in agent.replicas() if each.namespace == NAMESPACE] == ["wide-0"]
    agent.inject(Fault(kind=FaultKind.CRASH, pod="wide-0", for_s=3600))
    until(lambda: seen(cluster, "wide-0", ready=False, restarts=1))
    until(lambda: seen(cluster, "wide-0-1", ready=False))
    agent.clear()
    until(lambda: seen(cluster, "wide-0", ready=True, restarts=1))
    until(lambda: seen(cluster, "wide-0-1", ready=True))


def test_a_pod_without_an_engine_of_ours_is_ready_and_nothing_listens(
    cluster: Cluster, until: "Until"
) -> None:
    plain = pod("one")
    plain["spec"]["containers"][0]["args"] = []
    cluster.create(PODS, plain)
    status = until(lambda: seen(cluster, "one", ready=True))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url(status)}/health", trust_env=False)
