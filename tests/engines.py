"""Simulated engines and replicas for tests, at loopback addresses of this process's own."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp

from gpufleet.core.capacity.replica import Evidence, ReplicaSpeed
from gpufleet.local.engine.answers import Lengths
from gpufleet.local.engine.engine import Engine
from gpufleet.local.engine.faults import Faults
from gpufleet.local.engine.server import EngineServer
from gpufleet.local.engine.settings import EngineSettings, EngineSpec

_HOSTS = itertools.count(1)
FAST = ReplicaSpeed(
    decode_s=(0.002,) * 9,
    kv_token_s=0.0,
    prefill_token_s=1e-6,
    attention_s=0.0,
    first_token_s=0.0,
    kv_capacity_tokens=100_000,
    chunk_tokens=8192,
    evidence=Evidence.ROOFLINE,
    source="a test",
)
"""2 ms a token, up to 8 requests at once."""
SETTINGS = EngineSettings(
    model="small",
    digest="sha256:1",
    concurrency_limit=8,
    context_tokens=4096,
    spec=EngineSpec(FAST, 0.01, Lengths(40, 80)),
)


def slower(step_s: float) -> EngineSettings:
    """The same with another time for each token."""
    speed = replace(FAST, decode_s=(step_s,) * len(FAST.decode_s))
    return replace(SETTINGS, spec=replace(SETTINGS.spec, speed=speed))


def address() -> str:
    """A loopback address that nobody else uses."""
    host = next(_HOSTS)
    return f"127.{os.getpid() % 200 + 10}.{host // 250}.{host % 250 + 1}"


async def until(is_true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.005)


class Served:
    """An engine, and a client of it."""

    def __init__(self, engine: Engine, url: str, client: aiohttp.ClientSession) -> None:
        self.engine = engine
        self.url = url
        self.client = client

    async def chat(self, text: str = "hello", **more: object) -> aiohttp.ClientResponse:
        """Ask; the answer is not read yet."""
        messages = [{"role": "user", "content": text}]
        body = {"model": "small", "messages": messages, **more}
        return await self.client.post(f"{self.url}/v1/chat/completions", json=body)

    async def metrics(self) -> str:
        """Its series."""
        async with self.client.get(f"{self.url}/metrics") as response:
            return await response.text()


@asynccontextmanager
async def served(
    settings: EngineSettings = SETTINGS, make: Callable[[], Faults] = Faults
) -> AsyncIterator[Served]:
    """An engine that listens."""
    engine = Engine(settings, make())
    server = EngineServer(engine)
    at = address()
    await server.open(at)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as client:
        yield Served(engine, f"http://{at}:8000", client)
    engine.end()
    await server.close()
