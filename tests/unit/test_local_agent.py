"""What the node agent reads in a pool's pod, and writes into its status."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpufleet.components.pod_template import metadata, pod_spec
from gpufleet.core import vocabulary as names
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.edges.kube import Cluster
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.local.addresses import AddressBook
from gpufleet.local.agent import Agent
from gpufleet.local.agent_metrics import AgentMetrics
from gpufleet.local.engine.host import Host
from gpufleet.local.engine.replica import Death, Identity, Phase, View
from gpufleet.local.engine.settings import EngineFile, write_engines
from gpufleet.local.engine_specs import engine_specs
from gpufleet.local.pod_status import (
    begun_status,
    ended_status,
    is_ready,
    lost_life,
    running_status,
    same_life,
    says_the_same,
    serving_status,
)
from gpufleet.local.pool_pod import PoolPod
from gpufleet.local.work_queue import WorkQueue
from gpufleet.spec import load_fleet

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
LATER = datetime(2026, 3, 1, 12, 45, tzinfo=UTC)
POD: dict[str, Any] = {
    "metadata": {"name": "replica", "uid": "u"},
    "spec": {
        "initContainers": [{"name": "weights", "image": "restore@sha256:1"}],
        "containers": [{"name": "engine", "image": "vllm@sha256:2"}],
    },
}
SAMPLE = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
POOLS = [pool for site in SAMPLE.sites for pool in pools_at(SAMPLE, site)]


def test_a_replica_serves_at_its_address_since_now() -> None:
    status = running_status(POD, "127.20.0.7", NOW)
    assert (status["phase"], status["podIP"]) == ("Running", "127.20.0.7")
    assert status["podIPs"] == [{"ip": "127.20.0.7"}]
    assert status["startTime"] == "2026-03-01T12:30:00Z"
    assert {each["type"] for each in status["conditions"] if each["status"] == "True"} == {
        "PodReadyToStartContainers",
        "Initialized",
        "ContainersReady",
        "Ready",
    }


def test_init_containers_have_ended_and_containers_run() -> None:
    status = running_status(POD, "127.20.0.7", NOW)
    (weights,), (engine,) = status["initContainerStatuses"], status["containerStatuses"]
    assert weights["state"]["terminated"]["exitCode"] == 0
    assert engine["state"]["running"]["startedAt"] == "2026-03-01T12:30:00Z"
    assert engine["ready"]
    assert engine["started"]
    assert (engine["imageID"], engine["restartCount"]) == ("vllm@sha256:2", 0)


def test_a_replica_that_loads_runs_and_is_not_ready() -> None:
    status = begun_status(POD, "127.20.0.7", NOW, is_ready=False)
    assert status["phase"] == "Running"
    assert not is_ready(status)
    assert not status["containerStatuses"][0]["ready"]


def test_a_replica_that_died_tells_how_and_how_often() -> None:
    death = Death("OOMKilled", 137, NOW, LATER)
    view = View(Phase.READY, 3, LATER, has_started=True, last_death=death)
    (engine,) = serving_status(POD, view, LATER)["containerStatuses"]
    assert (engine["restartCount"], engine["ready"]) == (3, True)
    assert engine["lastState"]["terminated"] == {
        "exitCode": 137,
        "reason": "OOMKilled",
        "startedAt": "2026-03-01T12:30:00Z",
        "finishedAt": "2026-03-01T12:45:00Z",
    }


def test_a_replica_whose_agent_ended_with_it_has_lived_until_now() -> None:
    death = lost_life({**POD, "status": running_status(POD, "127.20.0.7", NOW)}, LATER)
    assert (death.started, death.ended, death.exit_code) == (NOW, LATER, 255)


def test_a_status_is_written_once() -> None:
    wanted = begun_status(POD, "127.20.0.7", NOW)
    assert says_the_same(wanted, begun_status(POD, "127.20.0.7", NOW))
    view = View(Phase.NOT_READY, 0, NOW, has_started=True, last_death=None)
    assert not says_the_same(wanted, serving_status(POD, view, NOW))
    assert not says_the_same({"phase": "Pending"}, wanted)


def test_a_pod_without_an_engine_keeps_everything_but_its_readiness() -> None:
    running = running_status(POD, "127.20.0.7", NOW)
    status = same_life({**POD, "status": running}, is_ready=False, now=LATER)
    assert not is_ready(status)
    (before,), (after,) = running["containerStatuses"], status["containerStatuses"]
    assert after == {**before, "ready": False}


def test_a_replica_that_was_deleted_ends_as_it_was_told_to() -> None:
    running = {**POD, "status": running_status(POD, "127.20.0.7", NOW)}
    status = ended_status(running, LATER)
    assert status["phase"] == "Succeeded"
    assert {each["status"] for each in status["conditions"]} == {"False"}
    (engine,) = status["containerStatuses"]
    assert not engine["ready"]
    assert engine["state"]["terminated"]["startedAt"] == "2026-03-01T12:30:00Z"
    assert engine["state"]["terminated"]["finishedAt"] == "2026-03-01T12:45:00Z"


def pod_of(pool: PoolAtSite, *, leader: bool = True) -> PoolPod:
    about = {"name": pool.name, "namespace": pool.namespace, "uid": "u", **metadata(pool)}
    return PoolPod({"metadata": about, "spec": pod_spec(pool, "restore@sha256:1", leader=leader)})


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: f"{pool.site}-{pool.name}")
def test_every_declared_pool_s_pods_say_which_engine_they_run(
    pool: PoolAtSite, tmp_path: Path
) -> None:
    write_engines(tmp_path, engine_specs(SAMPLE, pool.site))
    pod = pod_of(pool)
    assert pod.serves
    settings = pod.settings(EngineFile(tmp_path), "0.11")
    assert (settings.model, settings.digest) == (pool.model_name, pool.model.digest)
    assert settings.concurrency_limit == pool.concurrency_limit
    assert 0 < settings.context_tokens <= pool.model.max_context_tokens
    assert settings.spec == engine_specs(SAMPLE, pool.site)[pool.name, pool.group_name]
    assert "stand-in" not in settings.spec.speed.source
    assert (pod.probes.startup, pod.probes.readiness, pod.probes.liveness) == (
        pool.startup,
        pool.readiness,
        pool.liveness,
    )
    assert pod.grace_s == pool.grace_s


def test_the_further_pods_of_a_replica_over_nodes_serve_nothing() -> None:
    wide = next(pool for pool in POOLS if pool.spans_nodes)
    assert pod_of(wide).serves
    assert not pod_of(wide, leader=False).serves


def test_loading_takes_the_declared_share_of_the_measured_time() -> None:
    for site in SAMPLE.sites.values():
        assert site.cluster.provider == "embedded"
        assert site.cluster.load_time_scale == 0.01
    for pool in POOLS:
        spec = engine_specs(SAMPLE, pool.site)[pool.name, pool.group_name]
        assert spec.load_s == pytest.approx(0.01 * pool.model.load_time_s)


def test_a_pool_whose_model_does_not_fit_has_stand_ins_that_say_so() -> None:
    chat = SAMPLE.pools["chat"]
    tight = chat.model_copy(update={"memory_utilization": 0.15})
    fleet = SAMPLE.model_copy(update={"pools": {"chat": tight}, "measurements": {}})
    speed = engine_specs(fleet, "fra1")["chat", "fra1-chat"].speed
    assert speed.source.startswith("a stand-in: ")
    assert speed.concurrency_limit == chat.concurrency_limit


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    engines = EngineFile(tmp_path)
    assert engines.of("chat", "fra1-chat") is None
    specs = engine_specs(SAMPLE, "fra1")
    write_engines(tmp_path, specs)
    assert engines.of("chat", "fra1-chat") == specs["chat", "fra1-chat"]
    write_engines(tmp_path, {("chat", "fra1-chat"): specs["small", "fra1-small"]})
    assert engines.of("chat", "fra1-chat") == specs["small", "fra1-small"]


def test_a_key_is_worked_on_by_one_at_a_time_and_again_when_it_was_named_meanwhile() -> None:
    queue = WorkQueue()
    for key in ("a", "b", "a"):
        queue.add(key)
    assert queue.take() == "a"
    queue.add("a")
    assert queue.take() == "b"
    queue.done("b")
    queue.done("a")
    taken: list[str] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take()))
    taker.start()
    taker.join(10)
    assert taken == ["a"]


def test_restarts_and_kills_are_counted_by_pool() -> None:
    metrics = AgentMetrics(lambda: 2)
    identity = Identity("u", "ns", "chat-0", "chat", "127.0.0.2")
    ready = View(Phase.READY, 0, NOW, has_started=True, last_death=None)
    metrics.engine_changed(identity, ready)
    for count, reason in enumerate(("OOMKilled", "Error"), start=1):
        death = Death(reason, 137, NOW, LATER)
        for phase in (Phase.LOADING, Phase.READY):
            view = View(phase, count, LATER, has_started=True, last_death=death)
            metrics.engine_changed(identity, view)
    labels = '{namespace="ns",pool="chat"}'
    told = metrics.text().decode()
    assert f"gpufleet_agent_restarts_total{labels} 2.0" in told
    assert f"gpufleet_agent_oom_kills_total{labels} 1.0" in told
    assert 'gpufleet_agent_engines{namespace="ns",phase="ready",pool="chat"} 1.0' in told
    assert "gpufleet_agent_pods 2.0" in told


def test_a_pod_that_was_deleted_at_once_has_no_grace() -> None:
    body = {
        "metadata": {"deletionGracePeriodSeconds": 0, "labels": {names.POOL: "chat"}},
        "spec": {"terminationGracePeriodSeconds": 60, "containers": []},
    }
    assert PoolPod(body).grace_s == 0


class Api(BaseHTTPRequestHandler):
    """As much of an API server as a node agent asks: pods, and one node."""

    pods: dict[str, dict[str, Any]]
    refuses: int
    """Times that it does not say which pods there are."""
    lists: int
    node_ready: bool
    asked_nodes: int
    written: list[dict[str, Any]]
    engine_changed: Callable[[Identity, View], None]
    """What its agent is told by."""

    def do_GET(self) -> None:
        """Pods, the watch of them, which ends at once, or the node."""
        state = type(self)
        if "/nodes/" in self.path:
            state.asked_nodes += 1
            ready = {"type": "Ready", "status": str(state.node_ready)}
            self._answer(200, {"status": {"conditions": [ready]}})
        elif "watch=" in self.path:
            self._answer(200, None)
        elif state.refuses:
            state.refuses -= 1
            self._answer(403, {"message": "not yet"})
        else:
            state.lists += 1
            items = list(state.pods.values())
            self._answer(200, {"metadata": {"resourceVersion": "1"}, "items": items})

    def do_PATCH(self) -> None:
        """A status that is merged."""
        state = type(self)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = self.path.split("/pods/")[1].split("/")[0]
        pod = state.pods[name]
        pod["status"] = {**pod["status"], **body["status"]}
        state.written.append({"pod": name, **body["status"]})
        self._answer(200, pod)

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _answer(self, status: int, body: object) -> None:
        told = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)


@contextmanager
def agent_of(folder: Path, pods: list[dict[str, Any]]) -> Iterator[tuple[Agent, type[Api]]]:
    """An agent that runs no engines, and its API server."""

    class Own(Api):
        refuses, lists, node_ready, asked_nodes = 0, 0, True, 0
        written: list[dict[str, Any]] = []  # noqa: RUF012 - this server's own

    Own.pods = {each["metadata"]["name"]: each for each in pods}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kubeconfig = folder / "kubeconfig"
    url = f"http://127.0.0.1:{server.server_port}"
    entries = {
        "clusters": [{"name": "site", "cluster": {"server": url}}],
        "users": [{"name": "site", "user": {"token": "t"}}],
        "contexts": [{"name": "site", "context": {"cluster": "site", "user": "site"}}],
    }
    kubeconfig.write_text(
        yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "site", **entries})
    )
    write_engines(folder, engine_specs(SAMPLE, POOLS[0].site))
    addresses = AddressBook(folder / "addresses.json", "127.20.0.0/24")
    metrics = AgentMetrics(lambda: addresses.in_use)
    cluster = Cluster(kubeconfig, "site")

    def host(changed: Callable[[Identity, View], None]) -> Host:
        Own.engine_changed = staticmethod(changed)
        return Host(changed)

    agent = Agent(cluster, addresses, EngineFile(folder), metrics, host=host)
    try:
        yield agent, Own
    finally:
        server.shutdown()
        server.server_close()


def pool_pod(name: str, status: dict[str, Any]) -> dict[str, Any]:
    body = deepcopy(pod_of(POOLS[0]).body)
    body["metadata"] |= {"name": name, "uid": name}
    body["spec"]["nodeName"] = "node-1"
    return {**body, "status": status}


def wait_for(is_true: Any) -> None:  # noqa: ANN401 - any question
    until = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_agent_outlives_an_api_server_that_refuses_while_it_starts(tmp_path: Path) -> None:
    with agent_of(tmp_path, []) as (agent, api):
        api.refuses = 2
        runs = threading.Thread(target=agent.run, daemon=True)
        runs.start()
        wait_for(lambda: api.lists)
        assert runs.is_alive()


def test_a_pod_that_cannot_be_written_does_not_keep_others_from_it(tmp_path: Path) -> None:
    strange = [pool_pod(f"strange-{at}", {"phase": "Running"}) for at in range(8)]
    for pod in strange:
        pod["spec"]["containers"] = [{}]
        pod["spec"]["initContainers"] = [{}]
    with agent_of(tmp_path, [*strange, pool_pod("good", {"phase": "Pending"})]) as (agent, api):
        threading.Thread(target=agent.run, daemon=True).start()
        wait_for(lambda: "good" in {each["pod"] for each in api.written})


def test_a_new_agent_does_not_call_ready_what_the_node_controller_has_taken_from_a_lost_node(
    tmp_path: Path,
) -> None:
    loading = begun_status(pod_of(POOLS[0]).body, "127.20.0.7", NOW, is_ready=False)
    with agent_of(tmp_path, [pool_pod("chat-0", loading)]) as (agent, api):
        api.node_ready = False
        agent.follow()
        identity = Identity("chat-0", POOLS[0].namespace, "chat-0", "chat", "127.20.0.7")
        view = View(Phase.READY, 1, NOW, has_started=True, last_death=None)
        api.engine_changed(identity, view)
        agent.settle("chat-0")
        assert (api.asked_nodes, api.written) == (1, [])
        api.node_ready = True
        agent.settle("chat-0")
        assert is_ready(api.written[-1])
