"""A real Prometheus reads what is told: GPUs of node agents, dashboards, promises to users."""

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import prometheus_client
import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gpufleet.core.engine_metrics import REQUEST_BOUNDS_S, TTFT_BOUNDS_S
from gpufleet.core.gateway import series
from gpufleet.core.monitoring.dashboards import dashboard_objects
from gpufleet.core.monitoring.site_rules import rules_file
from gpufleet.edges.engines import resolve
from gpufleet.edges.prometheus import Prometheus
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.flows.slo import check_rules, standing
from gpufleet.local.agent_api import AgentApi
from gpufleet.local.agent_metrics import AgentMetrics
from gpufleet.local.engine.host import Host
from gpufleet.local.gpu_board import GpuBoard, write_gpus
from gpufleet.local.pool_pod import PoolPod
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.slo_reports import SloReport, SloState

FLEET = load_fleet(PROJECT_ROOT / "fleets/article/production.yaml")
BODY = {
    "metadata": {
        "uid": "1",
        "namespace": "gpufleet-interactive",
        "name": "answers-0",
        "labels": {"gpufleet.dev/pool": "answers", "gpufleet.dev/model": "llama-3.1-8b"},
    },
    "spec": {
        "nodeName": "n1",
        "nodeSelector": {"gpufleet.dev/node-group": "h100"},
        "containers": [{"name": "engine"}],
    },
    "status": {"phase": "Running"},
}
T = TypeVar("T")
WITHIN_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(found: Callable[[], T]) -> T:
    deadline = time.monotonic() + WITHIN_S
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


@pytest.fixture
def agent(tmp_path: Path) -> str:
    """The address of a node agent with one pod that holds a GPU."""
    write_gpus(tmp_path, FLEET, "main")
    host = Host(lambda *_: None)
    host.start()
    board = GpuBoard(tmp_path, lambda: [PoolPod(BODY)], host.seen)
    port = free_port()
    api = AgentApi(host, AgentMetrics(lambda: 1), board, lambda: True)
    asyncio.run_coroutine_threadsafe(api.open("127.0.0.1", port), host.loop).result()
    return f"127.0.0.1:{port}"


@pytest.fixture
def gateway() -> Iterator[tuple[str, CollectorRegistry]]:
    """Where a gateway tells its series, and they themselves."""
    registry = CollectorRegistry()
    port = free_port()
    server, thread = prometheus_client.start_http_server(port, "127.0.0.1", registry)
    yield f"127.0.0.1:{port}", registry
    server.shutdown()
    thread.join()


@pytest.fixture
def server(
    agent: str, gateway: tuple[str, CollectorRegistry], tmp_path: Path
) -> Iterator[Prometheus]:
    """A Prometheus that reads both each second, and evaluates every rule as often."""
    rules = rules_file(FLEET, "main")
    for group in rules["groups"]:
        group["interval"] = "1s"
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    gpus = {"metrics_path": "/gpu-metrics", "honor_labels": True}
    jobs = [
        {"job_name": name, "static_configs": [{"targets": [target]}], **more}
        for name, target, more in (("dcgm", agent, gpus), ("gateway", gateway[0], {}))
    ]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": jobs,
    }
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            resolve(lambda _: None, ["prometheus"]).path("prometheus"),
            f"--config.file={tmp_path / 'prometheus.yaml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=warn",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    asked = Prometheus(f"http://{address}")

    def is_ready() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(f"http://{address}/-/ready").is_success
        except httpx.HTTPError:
            return False

    try:
        until(is_ready)
        yield asked
    finally:
        asked.close()
        process.terminate()
        process.wait()


def firing(server: Prometheus, name: str) -> list[dict[str, str]]:
    query = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
    return [dict(found.labels) for found in server.now(query)]


def test_a_gpu_s_fault_at_the_node_agent_is_an_alert_that_names_the_model(
    server: Prometheus, agent: str
) -> None:
    until(lambda: server.now("model:gpufleet_gpus:count"))
    assert firing(server, "GpuFatalXid") == []
    url = f"http://{agent}/gpu-faults"
    refused = httpx.post(url, json={"kind": "xid", "xid": "many"})
    assert refused.status_code == 400
    assert httpx.post(url, json={"kind": "xid", "pod": "answers-0", "xid": 79}).is_success
    (labels,) = until(lambda: firing(server, "GpuFatalXid"))
    assert labels["gpufleet_dev_model"] == "llama-3.1-8b"
    assert (labels["Hostname"], labels["gpu"], labels["pod"]) == ("n1", "0", "answers-0")
    assert labels["severity"] == "page"
    assert httpx.delete(url).is_success
    until(lambda: not firing(server, "GpuFatalXid"))


def test_every_panel_of_every_dashboard_asks_what_prometheus_understands(
    server: Prometheus,
) -> None:
    for thing in dashboard_objects(FLEET):
        (text,) = thing["data"].values()
        for panel in json.loads(text)["panels"]:
            for target in panel["targets"]:
                server.now(target["expr"])


def test_promises_are_told_as_they_stand(
    server: Prometheus, gateway: tuple[str, CollectorRegistry]
) -> None:
    registry = gateway[1]
    requests = Counter(
        series.REQUESTS.removesuffix("_total"),
        "",
        ["use_case", "team", "route", "outcome"],
        registry=registry,
    )
    seen = Gauge(series.WORKER_SEEN_AT, "", registry=registry)
    seen.set_function(time.time)
    whole = Histogram(
        series.REQUEST_S, "", ["use_case"], buckets=REQUEST_BOUNDS_S, registry=registry
    )
    first = Histogram(series.TTFT_S, "", ["use_case"], buckets=TTFT_BOUNDS_S, registry=registry)
    ok, error = (
        requests.labels("answers", "support", "primary", outcome) for outcome in ("ok", "error")
    )
    latency, ttft = whole.labels("answers"), first.labels("answers")
    until(lambda: server.now(f"{series.TTFT_S}_count"))
    for number in range(100):
        (error if number % 10 == 0 else ok).inc()
        latency.observe(1.2)
        ttft.observe(1.2 if number % 2 else 0.2)
    until(lambda: server.now(f"{series.TTFT_S}_count == 100"))
    kept_s = 86400

    def told() -> SloReport | None:
        found = standing(FLEET, server, kept_s)
        return None if SloState.UNKNOWN in {row.state for row in found.rows} else found

    report = until(told)
    assert report is not None
    rows = {row.slo: row for row in report.rows}
    assert rows["latency"].state is SloState.KEPT
    assert rows["latency"].left == pytest.approx(1)
    assert rows["ttft"].state is SloState.SPENT
    assert rows["ttft"].bad == pytest.approx(0.5)
    assert rows["errors"].state is SloState.SPENT
    assert rows["errors"].burn_1h == pytest.approx(100)
    assert rows["availability"].state is SloState.KEPT
    assert not report.is_good
    with pytest.raises(BadInput, match="no such use case"):
        standing(FLEET, server, kept_s, "nobody")


@pytest.mark.parametrize("path", sorted(PROJECT_ROOT.glob("fleets/*/*.yaml")), ids=str)
def test_the_rules_of_every_fleet_here_are_sound(path: Path) -> None:
    assert check_rules(load_fleet(path), lambda _: None) > 50
