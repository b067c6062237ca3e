"""The gateway's control process against an API server, engines and a database that come and go.

The API server is a small one that speaks list, watch and get; the real one is in the end-to-end
tests.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import yaml
from aiohttp import web
from tests.audit import CLOSING, OPENING
from tests.object_stores import StoreServer
from tests.unit.test_gateway_discovery import TODAY

from gpufleet.core.gateway.routes import routes_text
from gpufleet.edges.audit_files import SEALED, segments
from gpufleet.edges.audit_log import AuditLog
from gpufleet.edges.engines import Binaries
from gpufleet.edges.exposition import scraped
from gpufleet.edges.gateway_files import read_published, written_at
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.access import issue, revoke
from gpufleet.flows.ground import Ground
from gpufleet.local.ports import is_free
from gpufleet.spec import load_fleet
from gpufleet.spec.access import KeyRequest
from gpufleet.spec.gateway import Keys, Replica, Replicas, Routes

ARTICLE = PROJECT_ROOT / "fleets/article/production.yaml"
NAME = "control-test"
ENGINE = "127.77.3.1"
T = TypeVar("T")


def until(look: Callable[[], T], within_s: float = 20) -> T:
    """The first answer that is true."""
    end = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < end, look
        time.sleep(0.05)
    return found


@dataclass
class Server:
    """Web applications in a thread, each at an address of its own, that can be taken away."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    runners: dict[tuple[str, int], web.AppRunner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def start(self, app: web.Application, host: str, port: int) -> int:
        async def run() -> int:
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, host, port)
            await site.start()
            bound: int = runner.addresses[0][1]
            self.runners[host, bound] = runner
            return bound

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result()

    def stop(self, host: str, port: int) -> None:
        runner = self.runners.pop((host, port))
        asyncio.run_coroutine_threadsafe(runner.cleanup(), self.loop).result()


@dataclass
class Api:
    """What the API server holds."""

    routes: str | None = None
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    changed: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/v1/namespaces/{namespace}/pods", self._pods)
        app.router.add_get("/api/v1/namespaces/{namespace}/configmaps/{name}", self._config)
        return app

    def put(self, pod: dict[str, Any]) -> None:
        self.pods[pod["metadata"]["uid"]] = pod
        self.changed.append({"type": "MODIFIED", "object": pod})

    def remove(self, uid: str) -> None:
        self.changed.append({"type": "DELETED", "object": self.pods.pop(uid)})

    async def _pods(self, request: web.Request) -> web.StreamResponse:
        assert request.query["labelSelector"] == "gpufleet.dev/pool"
        ours = request.match_info["namespace"] == "gpufleet-interactive"
        if request.query.get("watch") != "true":
            version = {"resourceVersion": str(len(self.changed))}
            return web.json_response(
                {"metadata": version, "items": list(self.pods.values()) if ours else []}
            )
        told = int(request.query["resourceVersion"])
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            for event in self.changed[told:] if ours else []:
                await answer.write(json.dumps(event).encode() + b"\n")
            told = len(self.changed)
            await asyncio.sleep(0.02)

    async def _config(self, request: web.Request) -> web.Response:
        assert request.match_info["name"] == "gateway-routes"
        if self.routes is None:
            return web.json_response({"message": "not found"}, status=404)
        return web.json_response({"data": {"routes.json": self.routes}})


def pod(uid: str, address: str, *, ready: bool = True) -> dict[str, Any]:
    return {
        "metadata": {"name": uid, "uid": uid, "labels": {"gpufleet.dev/pool": "answers"}},
        "spec": {"containers": [{"name": "engine", "ports": [{"containerPort": 8000}]}]},
        "status": {
            "phase": "Running",
            "podIP": address,
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


@dataclass
class Running:
    """A control process and everything around it."""

    folder: Path
    fleet_file: Path
    port: int
    server: Server
    api: Api
    api_port: int
    process: "subprocess.Popen[bytes]"
    other: Api
    """Of the second site, which holds no routes."""

    def replica(self) -> Replica | None:
        told = read_published(self.folder / "replicas.json", Replicas)
        return told.pools["answers"][0] if told and told.pools.get("answers") else None

    def pools(self) -> set[str] | None:
        told = read_published(self.folder / "replicas.json", Replicas)
        return set(told.pools) if told else None

    def routes(self) -> Routes | None:
        return read_published(self.folder / "routes.json", Routes)

    def key_ids(self) -> set[str] | None:
        told = read_published(self.folder / "keys.json", Keys)
        return {key.id for key in told.keys} if told else None

    def value(self, name: str, **labels: str) -> float | None:
        found = [
            sample.value
            for sample in scraped(f"http://127.0.0.1:{self.port}/metrics")
            if sample.name == name and labels.items() <= dict(sample.labels).items()
        ]
        return found[0] if found else None

    def above(self, least: float, name: str, **labels: str) -> bool:
        return (self.value(name, **labels) or 0) > least


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Running]:
    fleet_file = tmp_path / "fleet" / "production.yaml"
    shutil.copytree(ARTICLE.parent, fleet_file.parent)
    text = fleet_file.read_text().replace("fleet: article", f"fleet: {NAME}")
    site = "main: {region: eu, "
    cluster = "cluster: {provider: existing, context: little}, "
    first, _, second = text.partition("  main: {region: eu, ")
    main, _, rest = second.partition("\n")
    spare = f"  spare: {{region: eu, {cluster.replace('little', 'spare')}{main}"
    fleet_file.write_text(f"{first}  {site}{cluster}{main}\n{spare}\n{rest}")
    server, api = Server(), Api(routes=routes_text(load_fleet(fleet_file)))
    api_port = server.start(api.app(), "127.0.0.1", 0)
    other = Api()
    other_port = server.start(other.app(), "127.0.0.1", 0)
    (tmp_path / "kubeconfig").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {"name": name, "cluster": {"server": f"http://127.0.0.1:{bound}"}}
                    for name, bound in (("little", api_port), ("spare", other_port))
                ],
                "users": [{"name": "u", "user": {}}],
                "contexts": [
                    {"name": name, "context": {"cluster": name, "user": "u"}}
                    for name in ("little", "spare")
                ],
                "current-context": "little",
            }
        )
    )
    port = next(port for port in range(31_000, 31_500) if is_free(port))
    folder = tmp_path / "gateway"
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "gpufleet.tasks", "gateway.control"),
            *(f"--fleet={fleet_file}", f"--port={port}", f"--folder={folder}"),
        ],
        env={**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig")},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        yield Running(folder, fleet_file, port, server, api, api_port, process, other)
    finally:
        process.terminate()
        process.wait(20)
        for host, bound in list(server.runners):
            server.stop(host, bound)
        shutil.rmtree(PROJECT_ROOT / ".fleet" / NAME, ignore_errors=True)


def engine(text: Callable[[], str]) -> web.Application:
    async def say(_: web.Request) -> web.Response:
        return web.Response(text=text())

    app = web.Application()
    app.router.add_get("/metrics", say)
    return app


def test_replicas_routes_and_keys_are_told_and_outlive_whatever_told_them(
    control: Running,
) -> None:
    finished = iter(range(0, 10**6, 3))
    first = 'finished_reason="stop",model_name="llama"} '

    def text() -> str:
        return TODAY.replace(f"{first}40.0", f"{first}{next(finished)}.0")

    control.server.start(engine(text), ENGINE, 8000)
    control.api.put(pod("u-1", ENGINE))
    until(lambda: (seen := control.replica()) and seen.finished_rps > 0)
    seen = control.replica()
    assert seen
    assert (seen.ready, seen.answering, seen.running, seen.waiting) == (True, True, 7, 3)
    assert (seen.site, seen.url) == ("main", f"http://{ENGINE}:8000")
    until(lambda: (told := control.routes()) and list(told.use_cases) == ["answers"])
    until(lambda: httpx.get(f"http://127.0.0.1:{control.port}/readyz").status_code == 200)
    assert until(lambda: control.key_ids() == set())

    ground = Ground.open(Workspace.here(), control.fleet_file)
    key = issue(ground, KeyRequest(team="support", use_cases=["answers"])).key
    until(lambda: control.key_ids() == {key.id}, within_s=5)
    revoke(ground, key.id)
    until(lambda: control.key_ids() == set(), within_s=5)
    ground.close()

    control.server.stop("127.0.0.1", control.api_port)
    before = control.replica()
    assert before
    until(lambda: (now := control.replica()) and now.seen_at > before.seen_at + 2)
    assert control.routes()
    until(partial(control.above, 3, "gpufleet_gateway_file_age_seconds", file="routes"))
    assert (control.value("gpufleet_gateway_file_age_seconds", file="replicas") or 9) < 3

    control.server.start(control.api.app(), "127.0.0.1", control.api_port)
    control.api.remove("u-1")
    until(lambda: control.replica() is None, within_s=40)
    until(lambda: (control.value("gpufleet_gateway_file_age_seconds", file="routes") or 9) < 3)


def test_an_engine_that_falls_silent_is_told_so_and_another_is_not(control: Running) -> None:
    port = control.server.start(engine(lambda: TODAY), ENGINE, 8000)
    control.api.put(pod("u-1", ENGINE))
    until(lambda: (seen := control.replica()) and seen.answering)
    control.server.stop(ENGINE, port)
    until(lambda: (seen := control.replica()) and not seen.answering)
    control.server.start(engine(lambda: TODAY), ENGINE, port)
    until(lambda: (seen := control.replica()) and seen.answering)
    control.api.put(pod("u-1", ENGINE, ready=False))
    until(lambda: (seen := control.replica()) and not seen.ready)


def test_routes_that_are_no_routes_or_of_another_fleet_are_not_taken(control: Running) -> None:
    good = until(control.routes)
    failed = "gpufleet_chore_failures_total"
    for bad in ("{", '{"fleet": "x"}', routes_text(load_fleet(ARTICLE))):
        failures = control.value(failed, chore="routes") or 0
        control.api.routes = bad
        until(partial(control.above, failures, failed, chore="routes"))
        assert control.routes() == good


def test_a_changed_fleet_file_is_followed_and_an_invalid_one_is_not(control: Running) -> None:
    until(lambda: control.pools() == {"answers"})
    text = control.fleet_file.read_text()
    head, _, pools = text.partition("\npools:\n")
    control.fleet_file.write_text(f"{head}\npools:\n{pools.replace('answers:', 'replies:', 1)}")
    until(lambda: control.pools() == {"replies"})
    control.fleet_file.write_text("nope: [")
    before = written_at(control.folder / "replicas.json")
    until(lambda: written_at(control.folder / "replicas.json") != before)
    assert control.pools() == {"replies"}


def test_what_workers_sealed_last_is_shipped_by_a_control_process_that_is_told_to_end(
    control: Running, binaries: Binaries, tmp_path: Path
) -> None:
    store = StoreServer(binaries.paths["versitygw"], tmp_path / "s3")
    store.start()
    state = Workspace.here().for_fleet(load_fleet(control.fleet_file))
    state.site("main").mkdir(parents=True, exist_ok=True)
    store.declare(state, "main")
    until(lambda: control.key_ids() is not None, within_s=60)
    # While it is held, its regular shipping sees nothing of the record.
    control.process.send_signal(signal.SIGSTOP)
    with closing(AuditLog(control.folder / "audit", "gateway")) as log:
        log.begin("r-1", OPENING)
        log.end("r-1", CLOSING)
        log.seal()
    assert segments(control.folder / "audit", SEALED)
    control.process.terminate()
    control.process.send_signal(signal.SIGCONT)
    control.process.wait(60)
    assert segments(control.folder / "audit", SEALED) == []
    store.stop()


def test_routes_never_go_back_to_another_sites_older_ones_when_the_first_is_lost(
    control: Running,
) -> None:
    good = until(control.routes)
    assert good
    old = good.model_copy(update={"use_cases": {}})
    control.other.routes = old.model_dump_json(by_alias=True)
    control.server.stop("127.0.0.1", control.api_port)
    failed = "gpufleet_chore_failures_total"
    failures = control.value(failed, chore="routes") or 0
    until(partial(control.above, failures, failed, chore="routes"), within_s=60)
    assert control.routes() == good


def test_series_of_all_workers_are_one_and_gauges_of_dead_ones_are_gone(control: Running) -> None:
    until(control.routes)
    metrics = control.folder / "metrics"
    metrics.mkdir(exist_ok=True)
    program = (
        "from prometheus_client import Counter, Gauge\n"
        "Counter('gpufleet_t', 't').inc(2)\n"
        "Gauge('gpufleet_g', 'g', multiprocess_mode='livemax').set(5)\n"
        "print('made', flush=True); input()"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(metrics)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == b"made\n"
    until(lambda: control.value("gpufleet_t_total") == 4)
    assert control.value("gpufleet_g") == 5
    for worker in workers:
        worker.communicate(b"\n")
    until(lambda: control.value("gpufleet_g") is None)
    assert control.value("gpufleet_t_total") == 4
