"""What pods and node agents ask of a simulated engine: their own scripts, and the agent's port."""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from tests.engines import SETTINGS, address, slower

from gpufleet.components.pod_template import pod_spec
from gpufleet.core.serving import ENGINE_PORT, Probe, pools_at
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.local.agent_api import AgentApi
from gpufleet.local.agent_metrics import AgentMetrics
from gpufleet.local.engine.asked import asked_of
from gpufleet.local.engine.engine import Engine
from gpufleet.local.engine.faults import Faults
from gpufleet.local.engine.host import Host, Start
from gpufleet.local.engine.replica import Identity
from gpufleet.local.engine.server import EngineServer
from gpufleet.local.engine.settings import EngineSettings, Probes
from gpufleet.local.gpu_board import GpuBoard
from gpufleet.spec import load_fleet

POOL = pools_at(load_fleet(PROJECT_ROOT / "fleets/article/production.yaml"), "main")[0]
CONTAINER = pod_spec(POOL, "restore@sha256:1")["containers"][0]
PROBES = Probes(Probe(1, 1, 30), Probe(5, 4, 2), Probe(20, 10, 6))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def run(command: list[str], port: int) -> int:
    """A pod's script, which asks its own pod, with this engine's port in place of the pod's."""
    here = [str(port) if word == str(ENGINE_PORT) else word for word in command]
    ended = await asyncio.create_subprocess_exec(
        sys.executable,
        *here[1:],
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await ended.wait()


def on_loopback(
    promise: Callable[[Engine, int], Awaitable[None]], settings: EngineSettings
) -> None:
    async def serve() -> None:
        engine = Engine(settings, Faults())
        server = EngineServer(engine)
        port = free_port()
        await server.open("127.0.0.1", port)
        await promise(engine, port)
        engine.end()
        await server.close()

    asyncio.run(serve())


def test_the_pods_startup_probe_passes_once_the_engine_gives_a_token() -> None:
    command = CONTAINER["startupProbe"]["exec"]["command"]
    served = ["small" if word == POOL.model_name else word for word in command]

    async def promise(engine: Engine, port: int) -> None:
        assert await run(served, port) == 0
        assert engine.series.finished["length"] == 1
        # Another model than the one that is served gives none.
        assert await run(command, port) == 1

    on_loopback(promise, SETTINGS)


def test_the_pods_drain_ends_when_the_engine_has_nothing_left() -> None:
    command = list(CONTAINER["lifecycle"]["preStop"]["exec"]["command"])
    # Without the time until every proxy knows.
    command[-2] = "0"

    async def promise(engine: Engine, port: int) -> None:
        body = b'{"prompt": "1", "max_tokens": 50, "ignore_eos": true}'
        asked = asked_of(body, is_chat=False, model="small", context_tokens=4096)
        ticket = engine.submit(asked)
        assert await run(command, port) == 0
        assert ticket.is_over

    on_loopback(promise, slower(0.02))


def test_an_agents_port_tells_replicas_and_takes_faults(tmp_path: Path) -> None:
    metrics = AgentMetrics(lambda: 1)
    host = Host(metrics.engine_changed)
    host.start()
    port, alive = free_port(), [False]
    gpus = GpuBoard(tmp_path, list, host.seen)
    api = AgentApi(host, metrics, gpus, lambda: alive[0])
    asyncio.run_coroutine_threadsafe(api.open("127.0.0.1", port), host.loop).result(10)
    host.begin(Identity("u", "ns", "chat-0", "chat", address()), Start(lambda: SETTINGS, PROBES))

    async def ask() -> None:
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(10)) as client:

            async def state() -> tuple[str, list[str]]:
                async with client.get("/replicas") as response:
                    (replica,) = await response.json()
                    return replica["state"], replica["faults"]

            async with asyncio.timeout(10):
                while await state() != ("ready", []):  # noqa: ASYNC110 - over HTTP
                    await asyncio.sleep(0.01)
            async with client.get("/readyz") as response:
                assert response.status == 503
            alive[0] = True
            async with client.get("/readyz") as response:
                assert response.status == 200
            hang = {"pool": "chat", "kind": "hang"}
            async with client.post("/faults", json=hang) as response:
                assert [each["pod"] for each in await response.json()] == ["chat-0"]
            assert await state() == ("ready", ["hang"])
            async with client.post("/faults", json={"pool": "other", "kind": "hang"}) as response:
                assert await response.json() == []
            async with client.delete("/faults") as response:
                assert response.status == 200
            assert await state() == ("ready", [])
            for wrong in (
                {"kind": "moon"},
                {"kind": "slow", "factor": 0.5},
                {"kind": "oom", "x": 1},
            ):
                async with client.post("/faults", json=wrong) as response:
                    assert response.status == 400
                    assert "error" in await response.json()
            async with client.post("/faults", data=b'{"kind": "oom"}') as response:
                assert response.status == 400
            async with client.get("/metrics") as response:
                assert "gpufleet_agent_engines" in await response.text()

    asyncio.run(ask())
