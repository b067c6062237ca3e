"""A worker's first request, before any client's: LiteLLM imports much when it is used first."""

import asyncio
import contextlib
import json
from typing import Any, Final

from gpufleet.spec.gateway import Routes
from gpufleet_gateway.answers import Client, Message
from gpufleet_gateway.configuration import pool_deployment
from gpufleet_gateway.exchange import Application, Exchange
from gpufleet_gateway.proxy import TARGET

_WITHIN_S: Final = 30.0
_PATH: Final = "/v1/chat/completions"
_QUESTION: Final = {"messages": [{"role": "user", "content": "ready?"}], "max_tokens": 1}
_USAGE: Final = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
_SAID: Final = {"role": "assistant", "content": "yes"}
_HEAD: Final = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: "


async def warm(application: Application, routes: Routes) -> None:
    """Send LiteLLM a request and a streamed one, to a server of this process that answers at once.

    A failure delays the first clients, and nothing else: it is left to them to see it.

    Args:
        application: LiteLLM's.
        routes: the first use case stands for all.
    """
    use_case, route = next(iter(routes.use_cases.items()))
    if route.pool not in routes.pools:
        return
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        target = pool_deployment(use_case, route, routes.pools[route.pool], url, chat=True)
        for stream in (False, True):
            exchange = Exchange(
                application,
                Client(_nobody, "warm"),
                stream=stream,
                usage_wanted=True,
                on_byte=lambda: None,
            )
            token = TARGET.set(target)
            asked = exchange.run(
                {"asgi": {"version": "3.0"}, "path": _PATH},
                {**_QUESTION, "model": use_case, "stream": stream},
            )
            # What LiteLLM's application lets through would end the worker.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(asked, _WITHIN_S)
            TARGET.reset(token)


async def _nobody(_: Message) -> None:
    """A client that does not listen."""


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    body = await reader.readexactly(int(lengths[0].partition(b":")[2])) if lengths else b"{}"
    if json.loads(body).get("stream"):
        writer.write(_HEAD + b"text/event-stream\r\n\r\n" + b"".join(map(_event, _EVENTS)))
        writer.write(b"data: [DONE]\n\n")
    else:
        writer.write(_HEAD + b"application/json\r\n\r\n" + json.dumps(_WHOLE).encode())
    await writer.drain()
    writer.close()


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


_ABOUT: Final = {"id": "warm", "created": 1, "model": "warm"}
_WHOLE: Final = {
    **_ABOUT,
    "object": "chat.completion",
    "choices": [{"index": 0, "message": _SAID, "finish_reason": "stop"}],
    "usage": _USAGE,
}
_EVENTS: Final[list[dict[str, Any]]] = [
    {**_ABOUT, "object": "chat.completion.chunk", "choices": choices, **more}
    for choices, more in (
        ([{"index": 0, "delta": _SAID, "finish_reason": None}], {}),
        ([{"index": 0, "delta": {}, "finish_reason": "stop"}], {}),
        ([], {"usage": _USAGE}),
    )
]
