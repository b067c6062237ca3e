"""The client that `up` and `gateway.ask` use, over real connections."""

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest
from aiohttp import web

from gpufleet.edges.gateway_client import GatewayClient
from gpufleet.spec.errors import BadInput, Failed, FleetError, Retryable

HEADERS = {
    "x-gpufleet-route": "fallback",
    "x-gpufleet-reason": "queue",
    "x-gpufleet-model": "llama-3.1-8b",
    "x-gpufleet-request-id": "r-7",
}


class Gateway:
    """Answers with what a test has put in."""

    def __init__(self) -> None:
        self.status = 200
        self.events: list[str] = []
        self.asked: list[tuple[str, dict[str, object]]] = []

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.headers["Authorization"], await request.json()))
        if self.status != 200:
            error = {"error": {"message": "no room now", "type": "overloaded"}}
            return web.json_response(error, status=self.status)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", **HEADERS})
        await answer.prepare(request)
        for event in self.events:
            await answer.write(f"data: {event}\n\n".encode())
        return answer


@pytest.fixture
def gateway() -> Iterator[tuple[Gateway, str]]:
    loop, made = asyncio.new_event_loop(), Gateway()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", made.complete)
    runner = web.AppRunner(app)

    async def start() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port: int = runner.addresses[0][1]
        return port

    threading.Thread(target=loop.run_forever, daemon=True).start()
    port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    yield made, f"http://127.0.0.1:{port}"
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    loop.call_soon_threadsafe(loop.stop)


def said(text: str) -> str:
    return json.dumps({"choices": [{"delta": {"content": text}}]})


def test_an_answer_is_put_together_and_told_with_its_way(gateway: tuple[Gateway, str]) -> None:
    made, url = gateway
    role = json.dumps({"choices": [{"delta": {"role": "assistant"}}]})
    usage = json.dumps({"choices": [], "usage": {"completion_tokens": 2}})
    made.events = [role, said("Hel"), said("lo"), usage, "[DONE]"]
    client = GatewayClient(url, None, 5)
    answer = client.ask("answers", "Hi", "gf-key", most_tokens=16)
    client.close()
    assert (answer.text, answer.route, answer.reason) == ("Hello", "fallback", "queue")
    assert (answer.model, answer.request_id) == ("llama-3.1-8b", "r-7")
    assert 0 < answer.ttft_s <= answer.seconds
    ((key, body),) = made.asked
    assert key == "Bearer gf-key"
    assert (body["model"], body["max_tokens"], body["stream"]) == ("answers", 16, True)


@pytest.mark.parametrize(
    "events",
    [
        [said("Hel")],
        ["[DONE]"],
        [said("Hel"), json.dumps({"error": {"message": "out of memory"}})],
        ["not json", "[DONE]"],
        ["[1]", "[DONE]"],
    ],
)
def test_an_answer_that_breaks_off_is_no_answer(
    gateway: tuple[Gateway, str], events: list[str]
) -> None:
    made, url = gateway
    made.events = events
    with pytest.raises(Failed) as failed:
        GatewayClient(url, None, 5).ask("answers", "Hi", "gf-key")
    assert failed.value.where == "use case answers"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Failed), (403, Failed), (429, Retryable), (503, Retryable), (400, BadInput)],
)
def test_a_refusal_is_told_in_the_gateway_s_words(
    gateway: tuple[Gateway, str], status: int, kind: type[FleetError]
) -> None:
    made, url = gateway
    made.status = status
    with pytest.raises(kind, match=f"the gateway says {status}: no room now"):
        GatewayClient(url, None, 5).ask("answers", "Hi", "gf-key")


def test_a_gateway_that_is_not_there_is_told_so() -> None:
    with pytest.raises(Retryable, match="does not answer"):
        GatewayClient("http://127.0.0.1:9", None, 5).ask("answers", "Hi", "gf-key")
