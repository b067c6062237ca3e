"""Engines' metrics over real connections: both generations of names, and engines that fail."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.unit.test_gateway_discovery import EARLIER, TODAY, TOKENS

from gpufleet.core.gateway.discovery import Reading, reading_of
from gpufleet.edges.engine_poll import EnginePoller

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextmanager
def dark() -> Iterator[str]:
    """A socket that listens and never accepts, whose queue is full: packets to it are dropped."""
    with socket.socket() as listening, ExitStack() as filling:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(8):
            client = filling.enter_context(socket.socket())
            client.settimeout(0)
            client.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


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
        async with EnginePoller(timeout_s=60) as poller:
            found = await poller.read_all({str(index): url for index in range(300)}, 60)
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


def test_a_dark_site_does_not_starve_the_engines_that_live() -> None:
    """Many drop what is sent to them: their connections are never made."""

    async def run() -> None:
        good = await started(says(TODAY))
        url = str(good.make_url("")).rstrip("/")
        with dark() as dead:
            urls = {f"dead-{index}": dead for index in range(150)} | {"good": url}
            async with EnginePoller(timeout_s=2.5) as poller:
                until = time.monotonic() + 30
                while "good" not in await poller.read_all(urls, 0.2):
                    assert time.monotonic() < until
                # By then each was asked, and none of them has answered: they wait for their turn.
                while not all(f"dead-{index}" in poller.silent for index in range(150)):
                    await poller.read_all(urls, 0.2)
                    assert time.monotonic() < until
                for _ in range(5):
                    assert "good" in await poller.read_all(urls, 1)
        await good.close()

    asyncio.run(run())


def test_an_engine_that_answers_again_is_asked_as_often_as_before() -> None:
    async def run() -> None:
        fails = True

        async def answer(_: web.Request) -> web.Response:
            return web.Response(status=500 if fails else 200, text=TODAY)

        server = await started(answer)
        urls = {"one": str(server.make_url("")).rstrip("/")}
        async with EnginePoller(timeout_s=5) as poller:
            assert await poller.read_all(urls, 5) == {}
            assert poller.silent == {"one"}
            fails = False
            until = time.monotonic() + 20
            while not await poller.read_all(urls, 5):
                assert time.monotonic() < until
                await asyncio.sleep(0.01)
            assert poller.silent == set()
            assert await poller.read_all(urls, 5)
        await server.close()

    asyncio.run(run())
