"""Engines' metrics over real connections: both generations of names, and engines that fail."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.unit.test_gateway_discovery import EARLIER, TODAY, TOKENS

from gpufleet.core.gateway.discovery import Reading, reading_of
from gpufleet.edges.engine_poll import EnginePoller

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def says(text: str, status: int = 200) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    return answer


async def hangs(_: web.Request) -> web.Response:
    await asyncio.sleep(3600)
    return web.Response()


async def ends_amid(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(TODAY[:100].encode())
    assert request.transport
    request.transport.close()
    return answer


async def started(handler: Handler) -> TestServer:
    app = web.Application()
    app.router.add_get("/metrics", handler)
    server = TestServer(app)
    await server.start_server()
    return server


def read(handlers: dict[str, Handler], gone: str | None = None) -> dict[str, str]:
    async def run() -> dict[str, str]:
        servers = {name: await started(handler) for name, handler in handlers.items()}
        urls = {name: str(server.make_url("")).rstrip("/") for name, server in servers.items()}
        if gone:
            urls[gone] = "http://127.0.0.1:9"
        async with EnginePoller(timeout_s=0.5) as poller:
            found = await poller.read_all(urls, 2)
        for server in servers.values():
            await server.close()
        return {name: each.text for name, each in found.items()}

    return asyncio.run(run())


def test_engines_of_both_generations_are_read_alike() -> None:
    texts = read({"today": says(TODAY), "earlier": says(EARLIER)})
    readings = {reading_of(text, 1.0) for text in texts.values()}
    assert readings == {Reading(1.0, 7, 3, 0.25, 42, 50, 12.5, TOKENS)}


def test_engines_that_hang_fail_break_off_or_are_gone_hold_up_nobody_else() -> None:
    found = read(
        {
            "good": says(TODAY),
            "hung": hangs,
            "failing": says("no", status=500),
            "broken": ends_amid,
            "endless": says("x" * (5 * 2**20)),
        },
        gone="gone",
    )
    assert found == {"good": TODAY}


def test_more_engines_than_are_asked_at_once_are_all_read() -> None:
    async def run() -> int:
        server = await started(says(TODAY))
        url = str(server.make_url("")).rstrip("/")
        async with EnginePoller(timeout_s=5) as poller:
            found = await poller.read_all({str(index): url for index in range(300)}, 5)
        await server.close()
        return len(found)

    assert asyncio.run(run()) == 300


def test_a_slow_engine_is_waited_for_once_and_its_answer_comes_later() -> None:
    async def run() -> None:
        asked, let_go = 0, asyncio.Event()

        async def slow(_: web.Request) -> web.Response:
            nonlocal asked
            asked += 1
            await let_go.wait()
            return web.Response(text=EARLIER)

        servers = {"good": await started(says(TODAY)), "slow": await started(slow)}
        urls = {name: str(server.make_url("")).rstrip("/") for name, server in servers.items()}
        async with EnginePoller(timeout_s=20) as poller:
            for _ in range(3):
                assert (await poller.read_all(urls, 0.2)).keys() == {"good"}
            assert asked == 1
            let_go.set()
            found = await poller.read_all(urls, 5)
            assert found["slow"].text == EARLIER
            assert await poller.read_all({}, 0) == {}
        for server in servers.values():
            await server.close()

    asyncio.run(run())
