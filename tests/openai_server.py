"""A small OpenAI-compatible server with times and faults of its own, for clients under test.

    .venv/bin/python tests/openai_server.py PORT [TTFT_S TPOT_S]

The model's name asks for a fault: `truncated`, `error-in-stream`, `busy`, `broken`, `hangs`.
"""

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

CHUNK_S = 0.05


@contextmanager
def served(application: web.Application, port: int = 0) -> Iterator[int]:
    """Serve an application on loopback in a thread of its own; the port."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    ports = []

    async def start() -> web.AppRunner:
        runner = web.AppRunner(application, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        ports.append(runner.addresses[0][1])
        return runner

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


@dataclass
class OpenAiServer:
    """Answers on loopback; each token takes its time, whoever else is served."""

    ttft_s: float = 0.02
    tpot_s: float = 0.0
    slots: int | None = None
    """Requests that are worked on at a time; more wait."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keeps: bool = True
    """Whether `asked` grows; not where millions come."""
    cancelled: int = 0
    port: int = 0

    @contextmanager
    def serving(self, port: int = 0) -> Iterator["OpenAiServer"]:
        """Serve in the background."""
        with served(self.application(), port) as self.port:
            yield self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def application(self) -> web.Application:
        made = web.Application(client_max_size=64 * 2**20)
        made.router.add_post("/v1/chat/completions", self._chat)
        made.router.add_post("/v1/completions", self._completion)
        made.router.add_get("/v1/models", self._models)
        self._places = asyncio.Semaphore(self.slots) if self.slots else None
        return made

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "model", "object": "model"}]})

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        """As much of the older endpoint as a probe needs."""
        asked = await request.json()
        self.asked.append(asked)
        message = {"role": "user", "content": asked["prompt"]}
        return await self._answer(request, {**asked, "messages": [message]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        if self.keeps:
            self.asked.append({**asked, "authorization": request.headers.get("Authorization", "")})
        try:
            if self._places is None:
                return await self._answer(request, asked)
            async with self._places:
                return await self._answer(request, asked)
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            raise

    async def _answer(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        model = asked["model"]
        if model == "busy":
            return web.json_response({"error": {"message": "busy", "type": "busy"}}, status=429)
        if model == "broken":
            return web.Response(text="not JSON")
        if model == "hangs":
            await asyncio.sleep(3600)
        tokens = int(asked.get("max_tokens") or asked.get("max_completion_tokens") or 16)
        prompt = len(asked["messages"][-1]["content"].split())
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "total_tokens": prompt + tokens,
        }
        await asyncio.sleep(self.ttft_s)
        if not asked.get("stream"):
            await asyncio.sleep((tokens - 1) * self.tpot_s)
            message = {"role": "assistant", "content": " token" * tokens}
            choice = {"index": 0, "message": message, "finish_reason": "length"}
            return web.json_response(_head(model, "chat.completion", [choice], usage))
        return await self._stream(request, asked, tokens, usage)

    async def _stream(
        self, request: web.Request, asked: dict[str, Any], tokens: int, usage: dict[str, int]
    ) -> web.StreamResponse:
        model = asked["model"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        kind = "chat.completion.chunk"
        first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        await response.write(_event(_head(model, kind, [first])))
        each = max(1, int(CHUNK_S / self.tpot_s)) if self.tpot_s else tokens
        sent = 0
        while sent < tokens:
            count = 1 if sent == 0 else min(each, tokens - sent)
            if sent:
                await asyncio.sleep(count * self.tpot_s)
            sent += count
            delta = {"index": 0, "delta": {"content": " token" * count}, "finish_reason": None}
            await response.write(_event(_head(model, kind, [delta])))
            if model == "truncated" and sent >= tokens // 2:
                return response
            if model == "error-in-stream":
                await response.write(_event({"error": {"message": "gone", "type": "internal"}}))
                return response
        last = {"index": 0, "delta": {}, "finish_reason": "length"}
        await response.write(_event(_head(model, kind, [last])))
        if (asked.get("stream_options") or {}).get("include_usage"):
            await response.write(_event(_head(model, kind, [], usage)))
        await response.write(b"data: [DONE]\n\n")
        return response


def _head(
    model: str, kind: str, choices: list[dict[str, Any]], usage: dict[str, int] | None = None
) -> dict[str, Any]:
    more = {"usage": usage} if usage else {}
    return {"id": "r", "object": kind, "created": 1, "model": model, "choices": choices, **more}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


if __name__ == "__main__":
    ttft, tpot = sys.argv[2:4] if len(sys.argv) > 3 else ("0.02", "0")
    web.run_app(
        OpenAiServer(float(ttft), float(tpot), keeps=False).application(),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
    )
