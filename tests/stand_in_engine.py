"""An OpenAI-compatible server that does what a test tells it to, in a thread of its own."""

import asyncio
import json
import threading
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

TEXT = "one two three four five six seven eight nine ten"


@dataclass
class StandIn:
    """One engine; its answers change with `mode`: ok, errors, refuses, hangs, truncates, ends,
    floods, stands."""

    port: int = 0
    mode: str = "ok"
    gap_s: float = 0.01
    """Between the parts of a stream; an answer takes as long as all of them."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    cancelled: int = 0
    finished: int = 0

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        self.mode, self.gap_s, self.cancelled, self.finished = "ok", 0.01, 0, 0
        self.asked.clear()
        self.headers.clear()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._ready.set()
        self._loop.run_forever()

    async def _serve(self) -> None:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self._answer)
        application.router.add_post("/v1/completions", self._answer)
        runner = web.AppRunner(application, handler_cancellation=True, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = runner.addresses[0][1]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        try:
            if self.mode == "errors":
                return web.json_response({"error": {"message": "out of memory"}}, status=500)
            if self.mode == "refuses":
                error = {"message": "longer than the context", "type": "BadRequestError"}
                return web.json_response({"error": error}, status=400)
            if self.mode == "hangs":
                await asyncio.sleep(3600)
            if body.get("stream"):
                return await self._stream(request)
            await asyncio.sleep(self.gap_s * 10)
            self.finished += 1
            return web.json_response(_whole(chat=request.path.endswith("chat/completions")))
        except (asyncio.CancelledError, ConnectionResetError):
            self.cancelled += 1
            raise

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number, word in enumerate(TEXT.split(" ") * (20 if self.mode == "floods" else 1)):
            await asyncio.sleep(self.gap_s)
            said = {"role": "assistant", "content": word if number == 0 else f" {word}"}
            if self.mode == "floods":
                said["content"] = "x" * 2**20
            await response.write(_event([{"index": 0, "delta": said, "finish_reason": None}]))
            if number == 3 and self.mode == "truncates" and request.transport is not None:
                request.transport.abort()
                return response
            if number == 3 and self.mode == "ends":
                return response
            if number == 3 and self.mode == "stands":
                await asyncio.sleep(3600)
        await response.write(_event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
        await response.write(_event([], usage=_USAGE))
        await response.write(b"data: [DONE]\n\n")
        self.finished += 1
        return response


_USAGE = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}


def _event(choices: list[dict[str, Any]], **more: object) -> bytes:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "large-1"}
    return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"


def _whole(*, chat: bool) -> dict[str, Any]:
    said: dict[str, Any] = (
        {"message": {"role": "assistant", "content": TEXT}} if chat else {"text": TEXT}
    )
    return {
        "id": "x",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1,
        "model": "large-1",
        "choices": [{"index": 0, "finish_reason": "stop", **said}],
        "usage": _USAGE,
    }
