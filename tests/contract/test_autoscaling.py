"""A pool follows what the real Prometheus scrapes from its replicas, by the real KEDA."""

import json
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import psutil
import pytest

from gpufleet.core import vocabulary as names
from gpufleet.core.autoscaling import full_replica, scaled_object
from gpufleet.core.serving import ENGINE_PORT, pools_at
from gpufleet.edges.engines import Binaries
from gpufleet.edges.kube import Cluster
from gpufleet.edges.kube_paths import collection_path
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import Failed

if TYPE_CHECKING:
    from tests.conftest import Embedded, Until

SITE = "east"
FLEET = load_fleet(PROJECT_ROOT / "fleets/article/production.yaml")
POOL = replace(pools_at(FLEET, "main")[0], site=SITE)
SPACE = names.INTERACTIVE_NAMESPACE
DEPLOYMENT = f"{collection_path('apps/v1', 'Deployment', SPACE)}/{POOL.name}"
SCALED_OBJECTS = collection_path("keda.sh/v1alpha1", "ScaledObject", SPACE)
AUTOSCALER = (
    f"{collection_path('autoscaling/v2', 'HorizontalPodAutoscaler', SPACE)}/keda-hpa-{POOL.name}"
)
EXTERNAL = "/apis/external.metrics.k8s.io/v1beta1"
ENOUGH_FOR_ALL = 10_000

pytestmark = pytest.mark.timeout(300)


@dataclass
class Engine:
    """What an engine tells of its load, at a replica's own loopback address."""

    address: str
    running: int = 0

    def serve(self) -> ThreadingHTTPServer:
        """Answer `/metrics` in the background, as vLLM names things."""
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = engine.exposition().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer((self.address, ENGINE_PORT), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def exposition(self) -> str:
        # Nothing has waited lately: a quantile of that is not a number.
        waited = "".join(
            f'vllm:request_queue_time_seconds_bucket{{le="{bound}"}} 3\n'
            for bound in ("0.5", "5", "+Inf")
        )
        return f"vllm:num_requests_running {self.running}\n{waited}"


@dataclass
class Prometheus:
    """The site's Prometheus, asked over HTTP."""

    port: int

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, query: str) -> list[dict[str, Any]]:
        return cast(
            "list[dict[str, Any]]", self.get(f"/api/v1/query?query={quote(query)}")["result"]
        )


@pytest.fixture(scope="module")
def cluster(embedded: "Embedded") -> Iterator[Cluster]:
    connected = embedded.cluster(SITE)
    connected.create(
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}},
    )
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def prometheus(embedded: "Embedded") -> Prometheus:
    return Prometheus(embedded.state.port(SITE, "prometheus"))


@pytest.fixture
def pool(cluster: Cluster, prometheus: Prometheus, until: "Until") -> Iterator[Cluster]:
    """The cluster with the pool and its ScaledObject, made with one replica."""
    cluster.create(DEPLOYMENT.rpartition("/")[0], deployment())
    cluster.create(SCALED_OBJECTS, scaling(prometheus))
    yield cluster
    cluster.delete(f"{SCALED_OBJECTS}/{POOL.name}")
    until(lambda: cluster.get(f"{SCALED_OBJECTS}/{POOL.name}") is None)
    cluster.delete(f"{DEPLOYMENT}?propagationPolicy=Background")
    until(lambda: not cluster.items("/api/v1/pods", labels=f"{names.POOL}={POOL.name}"))


@pytest.fixture
def engine(pool: Cluster, until: "Until") -> Iterator[Engine]:
    """An idle engine on one replica, which is the last to be taken away."""
    until(lambda: replicas(pool) == POOL.replicas)
    first = pool.items("/api/v1/pods", labels=f"{names.POOL}={POOL.name}")[0]
    cost = {"controller.kubernetes.io/pod-deletion-cost": "1000"}
    path = f"/api/v1/namespaces/{SPACE}/pods/{first['metadata']['name']}"
    pool.merge(path, {"metadata": {"annotations": cost}})
    made = Engine(first["status"]["podIP"])
    server = made.serve()
    yield made
    server.shutdown()
    server.server_close()


def deployment() -> dict[str, Any]:
    labels = dict(POOL.labels)
    amount = {names.GPU_RESOURCE: "1"}
    container = {
        "name": "engine",
        "image": "example/engine:1",
        "ports": [{"name": "http", "containerPort": ENGINE_PORT}],
        "resources": {"limits": amount},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": POOL.name, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {names.POOL: POOL.name}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "tolerations": [{"key": names.GPU_RESOURCE, "operator": "Exists"}],
                    "containers": [container],
                },
            },
        },
    }


def scaling(prometheus: Prometheus) -> dict[str, Any]:
    """The pool's own ScaledObject, but it does not wait before it scales in."""
    spec = scaled_object(POOL, full_replica(FLEET, POOL), f"http://127.0.0.1:{prometheus.port}")
    spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"] = {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 1}],
    }
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": POOL.name},
        "spec": spec,
    }


def replicas(cluster: Cluster) -> int:
    """Ready replicas, if that is how many are wanted."""
    found = cluster.get(DEPLOYMENT) or {}
    served = int(found.get("status", {}).get("readyReplicas", 0))
    return served if served == found["spec"]["replicas"] else 0


def test_a_pool_follows_its_load_between_its_bounds(
    cluster: Cluster, engine: Engine, until: "Until"
) -> None:
    engine.running = ENOUGH_FOR_ALL
    until(lambda: replicas(cluster) == POOL.max_replicas)
    engine.running = 0
    # What overflowed is looked at over a minute.
    until(lambda: replicas(cluster) == POOL.replicas, 180)


def test_losing_prometheus_never_scales_in(
    embedded: "Embedded", cluster: Cluster, engine: Engine, until: "Until"
) -> None:
    engine.running = ENOUGH_FOR_ALL
    until(lambda: replicas(cluster) == POOL.max_replicas)
    lost = psutil.Process(embedded.processes()[SITE, "prometheus"].pid)
    lost.suspend()
    try:
        # By the fallback each replica has just its target's load: that is what was acted on.
        until(lambda: per_replica(cluster) == pytest.approx(target(cluster), rel=0.01), 120)
        assert replicas(cluster) == POOL.max_replicas
    finally:
        lost.resume()


def target(cluster: Cluster) -> float:
    spec = (cluster.get(AUTOSCALER) or {})["spec"]["metrics"][0]
    return number(spec["external"]["target"]["averageValue"])


def per_replica(cluster: Cluster) -> float:
    """Load of each replica, as the autoscaler saw it last."""
    status = (cluster.get(AUTOSCALER) or {})["status"]["currentMetrics"][0]
    return number(status.get("external", {}).get("current", {}).get("averageValue", "0"))


def number(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def test_a_pool_without_any_metric_has_its_minimum(pool: Cluster, until: "Until") -> None:
    until(lambda: replicas(pool) == POOL.replicas)
    until(lambda: condition(pool, "Fallback") == "True", 120)
    assert replicas(pool) == POOL.replicas


def condition(cluster: Cluster, kind: str) -> str:
    found = (cluster.get(f"{SCALED_OBJECTS}/{POOL.name}") or {}).get("status", {})
    return next(
        (each["status"] for each in found.get("conditions", []) if each["type"] == kind), ""
    )


def test_series_of_replicas_are_named_as_autoscalers_ask_for_them(
    engine: Engine, prometheus: Prometheus, until: "Until"
) -> None:
    engine.running = 3
    selector = f'gpufleet_dev_pool="{POOL.name}",gpufleet_dev_site="{SITE}"'
    asked = f"vllm:num_requests_running{{{selector}}}"
    series = until(lambda: prometheus.query(f"{asked} == 3"))[0]["metric"]
    assert series["gpufleet_dev_model"] == POOL.model_name
    assert series["site"] == SITE
    assert series["fleet"] == "small-production"
    assert series["namespace"] == SPACE
    assert series["instance"] == f"{engine.address}:{ENGINE_PORT}"


def test_the_external_metrics_api_answers_through_the_api_server(
    cluster: Cluster, engine: Engine, until: "Until"
) -> None:
    engine.running = 5
    found = cluster.get(f"{SCALED_OBJECTS}/{POOL.name}") or {}
    name = found["status"]["externalMetricNames"][0]
    selector = quote(f"scaledobject.keda.sh/name={POOL.name}")
    path = f"{EXTERNAL}/namespaces/{SPACE}/{name}?labelSelector={selector}"

    def value() -> str:
        try:
            return str((cluster.get(path) or {})["items"][0]["value"])
        except Failed:
            return ""

    assert until(lambda: value() == "5")


def test_the_external_metrics_api_trusts_the_api_server_only(embedded: "Embedded") -> None:
    port = embedded.state.port(SITE, "keda-adapter")
    trust = ssl.create_default_context(cafile=embedded.state.site(SITE) / "pki" / "ca.crt")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"https://127.0.0.1:{port}{EXTERNAL}", context=trust, timeout=10)


def test_keda_refuses_what_is_wrong(cluster: Cluster, prometheus: Prometheus) -> None:
    wrong = scaling(prometheus)
    wrong["spec"]["maxReplicaCount"] = POOL.replicas - 1
    with pytest.raises(Failed, match="must be less than"):
        cluster.create(SCALED_OBJECTS, wrong)


def test_every_target_is_up(embedded: "Embedded", until: "Until") -> None:
    for site in embedded.platform.sites:
        prometheus = Prometheus(embedded.state.port(site, "prometheus"))

        def down(prometheus: Prometheus = prometheus) -> list[str]:
            targets = prometheus.get("/api/v1/targets?state=active")["activeTargets"]
            assert len(targets) >= 12
            return [
                f"{each['labels']['job']}: {each['lastError']}"
                for each in targets
                if each["health"] != "up" and each["labels"]["job"] != "replicas"
            ]

        until(lambda: down() == [])


def test_the_configuration_passes_promtool(embedded: "Embedded", binaries: Binaries) -> None:
    for site in embedded.platform.sites:
        file = embedded.state.site(site) / "prometheus" / "prometheus.yaml"
        done = subprocess.run(
            [binaries.path("promtool"), "check", "config", file],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
