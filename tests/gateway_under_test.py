"""The real gateway in its own environment, in front of engines that stand in."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from tests import gateway_situations as declared
from tests.stand_in_engine import StandIn

from gpufleet.edges.gateway_environment import gateway_python
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec.gateway import Gateway, Key, PoolRoute, Replica, Route

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hello"}]


@dataclass
class UnderTest:
    """One gateway with its folder, its engines and what it was told."""

    folder: Path
    port: int
    large: list[StandIn]
    small: StandIn
    api: StandIn
    process: "subprocess.Popen[bytes] | None" = None
    log: Path = field(default_factory=Path)
    use_cases: dict[str, Route] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    gateway: Gateway = field(default_factory=lambda: Gateway(workers=2))
    variables: dict[str, str] = field(default_factory=dict)
    """Further ones of its environment."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tell_routes(self) -> None:
        pools: dict[str, PoolRoute] = {
            "chat": declared.pool_route(time_in_service_s=0.5),
            "small": declared.pool_route(model="small-1", time_in_service_s=0.5),
        }
        routes = declared.routes(self.use_cases, pools, self.gateway)
        self._write("routes.json", routes.model_dump_json(by_alias=True))

    def tell_replicas(self, offset_s: float = 0, **waiting: int) -> None:
        """Who serves; with so many requests waiting at each replica of a pool.

        `offset_s` is how far the clock of whoever tells it is off.
        """

        def seen(pool: str, name: str, engine: StandIn) -> Replica:
            busy = pool in waiting
            return declared.replica(
                name,
                url=engine.url,
                answering=busy,
                running=8 if busy else 0,
                waiting=waiting.get(pool, 0),
                finished_rps=1 if busy else 0,
                seen_at=time.time() + offset_s,
            )

        known = declared.replicas(
            chat=[seen("chat", f"large{n}", engine) for n, engine in enumerate(self.large)],
            small=[seen("small", "small0", self.small)],
        )
        self._write("replicas.json", known.model_dump_json())

    @contextmanager
    def overload(self, offset_s: float = 0, **waiting: int) -> Iterator[None]:
        """Pools that say again and again how many requests wait at each of their replicas."""
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(0.5):
                self.tell_replicas(offset_s, **waiting)

        self.tell_replicas(offset_s, **waiting)
        thread = threading.Thread(target=go_on)
        thread.start()
        # Workers look at their files a few times a second.
        time.sleep(0.3)
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def tell_keys(self) -> None:
        known = declared.keys(*self.keys.values())
        self._write("keys.json", known.model_dump_json())

    def new_key(self, name: str, team: str = "support", **limits: object) -> str:
        """A key for all use cases of a team."""
        text = f"gf-{name:0<12}-{hashlib.sha256(name.encode()).hexdigest()[:43]}"
        self.keys[name] = Key.model_validate(
            {
                "id": f"{name:0<12}",
                "hash": hashlib.sha256(text.encode()).hexdigest(),
                "team": team,
                "use_cases": [n for n, route in self.use_cases.items() if route.team == team],
                "rate_rpm": None,
                "concurrency_limit": None,
                "expires_at": None,
                **limits,
            }
        )
        self.tell_keys()
        return text

    def ask(self, key: str, use_case: str = "assist", **more: Any) -> httpx.Response:  # noqa: ANN401 - fields of a request
        body = {"model": use_case, "messages": MESSAGES, **more}
        return httpx.post(
            f"{self.url}{CHAT}", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60
        )

    def records(self) -> list[dict[str, Any]]:
        """Every audit record, by time."""
        found = []
        for file in self.folder.glob("audit/*.*"):
            # One that is sealed meanwhile is found under its other name the next time.
            with contextlib.suppress(FileNotFoundError):
                if file.suffix in {".open", ".sealed"}:
                    lines = file.read_bytes().split(b"\0")[0].splitlines()
                    found += [json.loads(line) for line in lines]
        return sorted(found, key=lambda record: str(record["at"]))

    def counted(self, name: str, **labels: str) -> float | None:
        """What its workers have counted together; None for a series that nobody tells."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self.folder / "metrics"))
        return registry.get_sample_value(name, labels)

    def record_of(self, answer: httpx.Response) -> dict[str, Any]:
        """The one record of an answer; it is written when the answer was sent."""
        name = answer.headers["x-gpufleet-request-id"]

        def found() -> list[dict[str, Any]]:
            return [record for record in self.records() if record["request_id"] == name]

        self.wait(lambda: bool(found()))
        (record,) = found()
        return record

    def wait(self, condition: Callable[[], bool], within_s: float = 15) -> None:
        deadline_s = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline_s, self.log.read_text()[-2000:]
            time.sleep(0.05)

    def start(self) -> None:
        environment = {
            name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}
        }
        environment["PYTHONPATH"] = f"{PROJECT_ROOT / 'modules'}:{PROJECT_ROOT / 'gateway'}"
        environment["GPUFLEET_HOSTED_KEY"] = "sk-hosted"
        environment |= self.variables
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(gateway_python(lambda _: None)),
                    *("-P", "-m", "gpufleet_gateway", "--folder", str(self.folder)),
                    *("--port", str(self.port)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.folder,
            )
        self.wait(self._is_ready, 120)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            return httpx.get(f"{self.url}/health/readiness").is_success
        except httpx.TransportError:
            return False

    def _write(self, name: str, text: str) -> None:
        hidden = self.folder / f".{name}"
        hidden.write_text(text)
        hidden.replace(self.folder / name)


@contextmanager
def gateway_under_test(
    folder: Path, variables: dict[str, str] | None = None
) -> Iterator[UnderTest]:
    """A gateway that runs, with use cases of two teams."""
    made = UnderTest(
        folder=folder / "gateway",
        port=_free_port(),
        large=[StandIn(), StandIn()],
        small=StandIn(),
        api=StandIn(),
        log=folder / "gateway.log",
        variables=variables or {},
    )
    made.folder.mkdir()
    hosted = declared.hosted(f"{made.api.url}/v1")
    made.use_cases = {
        "assist": declared.route(fallback="small"),
        "open": declared.route(data_class="public", hosted=hosted, summary_tokens=20),
        "capped": declared.route(
            data_class="public", hosted=declared.hosted(f"{made.api.url}/v1", cap="0.0001")
        ),
        "secret": declared.route(data_class="restricted", hosted=hosted, summary_tokens=None),
        "brief": declared.route(summary_tokens=20),
        "repeated": declared.route(cache_ttl_s=60),
        "narrow": declared.route(concurrency_limit=3),
        "quick": declared.route(timeout_s=1.0),
        "hurried": declared.route(
            data_class="public", hosted=hosted, summary_tokens=20, timeout_s=4.0
        ),
        "sales-chat": declared.route(team="sales"),
    }
    made.gateway = Gateway(workers=2, body_limit_bytes=100_000, body_time_limit_s=1.5)
    made.tell_routes()
    made.tell_replicas()
    made.tell_keys()
    made.start()
    try:
        yield made
    finally:
        made.stop()
        for engine in (*made.large, made.small, made.api):
            engine.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
