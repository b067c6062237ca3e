"""The gateways that are measured beside each other, each with its processes."""

import contextlib
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from gpufleet.core.gateway.keys import written
from gpufleet.core.gateway.routes import routes_of
from gpufleet.edges.gateway_files import publish
from gpufleet.spec import load_fleet
from gpufleet.spec.gateway import KEYS_FILE, ROUTES_FILE, Key, Keys

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / "benchmarks" / "gateway_parts"
MODEL = "answers"
SMALL = "small"
PORT = 8000
START_WITHIN_S = 300
Pools = dict[str, list[str]]


@dataclass
class Side:
    """A gateway that runs."""

    name: str
    url: str
    key: str
    process: subprocess.Popen[bytes]
    log: Path

    def memory_bytes(self) -> int:
        """Of its processes together."""
        return sum(each.memory_info().rss for each in self._processes())

    def cpu_s(self) -> float:
        """Processor time of its processes so far."""
        return sum(sum(each.cpu_times()[:2]) for each in self._processes())

    def _processes(self) -> list[psutil.Process]:
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]


class Engines:
    """The simulated engines, in one process."""

    def __init__(self, pools: Pools) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", PARTS / "engines.py", *_told(pools)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._heard("ready")

    def tell(self, verb: str, address: str) -> None:
        """`hang` or `heal` one."""
        assert self._process.stdin  # noqa: S101 - a pipe
        self._process.stdin.write(f"{verb} {address}\n")
        self._process.stdin.flush()
        self._heard("done")

    def _heard(self, word: str) -> None:
        assert self._process.stdout  # noqa: S101 - a pipe
        if self._process.stdout.readline().strip() != word:
            sys.exit("the engines did not start")

    def stop(self) -> None:
        """End them."""
        self._process.terminate()
        self._process.wait()


@contextmanager
def plain(python: Path, folder: Path, pools: Pools, workers: int) -> Iterator[Side]:
    """LiteLLM's proxy as its documentation has it: least busy, retries, a fallback model."""
    folder.mkdir()
    deployments = [
        {
            "model_name": pool,
            "litellm_params": {
                "model": f"hosted_vllm/{pool}",
                "api_base": f"http://{address}:{PORT}/v1",
                "api_key": "none",
            },
        }
        for pool, addresses in pools.items()
        for address in addresses
    ]
    router: dict[str, Any] = {
        "routing_strategy": "least-busy",
        "num_retries": 2,
        "timeout": 30,
        "allowed_fails": 3,
        "cooldown_time": 30,
    }
    if SMALL in pools:
        router["fallbacks"] = [{MODEL: [SMALL]}]
    configuration = {"model_list": deployments, "router_settings": router}
    file = folder / "litellm.yaml"
    # JSON is YAML.
    file.write_text(json.dumps(configuration))
    key, port = f"sk-{secrets.token_urlsafe(24)}", _free_port()
    command = [
        str(python.with_name("litellm")),
        *("--config", str(file), "--host", "127.0.0.1", "--port", str(port)),
        *("--num_workers", str(workers), "--telemetry", "False"),
        *("--timeout_worker_healthcheck", "120"),
    ]
    more = {"LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with _running("LiteLLM", command, more, port, key, folder) as side:
        yield side


@contextmanager
def ours(python: Path, folder: Path, pools: Pools, workers: int) -> Iterator[Side]:
    """The gateway with its plugin, and a control process that polls the engines."""
    folder.mkdir()
    fleet = load_fleet(ROOT / "fleets" / "article" / "production.yaml")
    routes = routes_of(fleet)
    route, pool = routes.use_cases[MODEL], routes.pools[MODEL]
    more = {SMALL: pool.model_copy(update={"model": SMALL})} if SMALL in pools else {}
    routes = routes.model_copy(
        update={
            "use_cases": {MODEL: route.model_copy(update={"fallback": SMALL if more else None})},
            "pools": {MODEL: pool.model_copy(update={"model": MODEL}), **more},
        }
    )
    publish(folder / ROUTES_FILE, routes.model_dump_json(by_alias=True))
    text = written("bench0000001", secrets.token_urlsafe(32))
    key = Key(
        id="bench0000001",
        hash=hashlib.sha256(text.encode()).hexdigest(),
        team=route.team,
        use_cases=[MODEL],
        rate_rpm=None,
        concurrency_limit=None,
        expires_at=None,
    )
    publish(folder / KEYS_FILE, Keys(at=time.time(), keys=[key]).model_dump_json())
    control = subprocess.Popen([sys.executable, "-P", PARTS / "control.py", folder, *_told(pools)])
    port = _free_port()
    command = [
        *(str(python), "-P", "-m", "gpufleet_gateway", "--folder", str(folder)),
        *("--port", str(port), "--workers", str(workers)),
    ]
    paths = {"PYTHONPATH": f"{ROOT / 'modules'}:{ROOT / 'gateway'}"}
    try:
        with _running("ours", command, paths, port, text, folder) as side:
            yield side
    finally:
        control.terminate()
        control.wait()


@contextmanager
def _running(  # noqa: PLR0913, PLR0917 - a process has that many parts
    name: str, command: list[str], more: dict[str, str], port: int, key: str, folder: Path
) -> Iterator[Side]:
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, **more},
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
        )
    side = Side(name, f"http://127.0.0.1:{port}/v1", key, process, log)
    try:
        _await(side)
        yield side
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _await(side: Side) -> None:
    """Until it has answered a request."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 2,
    }
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{side.url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {side.key}"},
    )
    deadline, said = time.monotonic() + START_WITHIN_S, ""
    while time.monotonic() < deadline and side.process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
                answer.read()
                return
        except urllib.error.HTTPError as error:
            said = f"{error}: {error.read()[:300]!r}"
        except OSError as error:
            said = str(error)
        time.sleep(0.2)
    sys.exit(f"{side.name} does not answer: {said}\n{side.log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _told(pools: Pools) -> list[str]:
    return [f"{pool}={','.join(addresses)}" for pool, addresses in pools.items()]
