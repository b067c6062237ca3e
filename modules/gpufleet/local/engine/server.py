"""The HTTP face of a simulated engine: OpenAI's completions, and vLLM's health and metrics."""

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from gpufleet.core.serving import ENGINE_PORT
from gpufleet.local.engine.answers import END_OF_STREAM
from gpufleet.local.engine.asked import Asked, Refused, asked_of
from gpufleet.local.engine.engine import Engine, Ticket
from gpufleet.local.engine.series import CONTENT_TYPE
from gpufleet.spec.simulation import FaultKind

SERVER: Final = "gpufleet-simulated-engine"
CHUNK_S: Final = 0.05
"""Parts of a stream are at least so far apart."""
BODY_LIMIT_BYTES: Final = 64 * 2**20
_BACKLOG: Final = 1024
_AT_ONCE_S: Final = 0.01
"""aiohttp takes 0 for without end."""
_HEADERS: Final = {"Server": SERVER}
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for no time, so that closing resets."""
Answer = Awaitable[web.StreamResponse]


class EngineServer:
    """Serves one engine at one loopback address."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._routes: dict[tuple[str, str], Callable[[web.BaseRequest], Answer]] = {
            ("GET", "/health"): self._health,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/version"): self._version,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completion,
        }
        self._http = web.Server(
            self._answer,
            request_factory=_request,
            # A client that is gone cancels its request.
            handler_cancellation=True,
            access_log=None,
        )
        self._listener: asyncio.Server | None = None
        self._closed = False

    async def open(self, address: str, port: int = ENGINE_PORT) -> None:
        """Listen.

        Raises:
            OSError: somebody else does.
        """
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            self._http, address, port, backlog=_BACKLOG, reuse_address=True
        )

    async def close(self) -> None:
        """Stop to listen, and end every connection."""
        self._closed = True
        if self._listener:
            self._listener.close()
        await self._http.shutdown(_AT_ONCE_S)

    def reset(self) -> None:
        """As when the process dies: every connection is reset."""
        self._closed = True
        if self._listener:
            self._listener.close()
        for connection in self._http.connections:
            if transport := connection.transport:
                if sock := transport.get_extra_info("socket"):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                transport.abort()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._closed and request.transport:
            # It was on its way when the listener was closed.
            request.transport.abort()
        handler = self._routes.get((request.method, request.path))
        if handler is None:
            known = {path for _, path in self._routes}
            status = (
                HTTPStatus.METHOD_NOT_ALLOWED if request.path in known else HTTPStatus.NOT_FOUND
            )
            return _json({"detail": status.phrase}, status)
        try:
            return await handler(request)
        except Refused as refused:
            return _json(refused.body, refused.status)
        except web.HTTPRequestEntityTooLarge:
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            return _json(Refused(status, "BadRequestError", "the body is too long").body, status)

    async def _health(self, _: web.BaseRequest) -> web.StreamResponse:
        await self._engine.healthy()
        gone = self._engine.draining
        status = HTTPStatus.SERVICE_UNAVAILABLE if gone else HTTPStatus.OK
        return web.Response(status=status, headers=_HEADERS)

    async def _metrics(self, _: web.BaseRequest) -> web.StreamResponse:
        headers = {**_HEADERS, "Content-Type": CONTENT_TYPE}
        return web.Response(text=self._engine.exposition(), headers=headers)

    async def _version(self, _: web.BaseRequest) -> web.StreamResponse:
        return _json({"version": f"{self._engine.settings.metric_names}+simulated"})

    async def _models(self, _: web.BaseRequest) -> web.StreamResponse:
        settings = self._engine.settings
        model = {
            "id": settings.model,
            "object": "model",
            "created": int(time.time()),
            "owned_by": SERVER,
            "root": settings.digest,
            "max_model_len": self._engine.context_tokens,
        }
        return _json({"object": "list", "data": [model]})

    async def _chat(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._generate(request, is_chat=True)

    async def _completion(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._generate(request, is_chat=False)

    async def _generate(self, request: web.BaseRequest, *, is_chat: bool) -> web.StreamResponse:
        engine = self._engine
        if engine.draining:
            raise _unavailable()
        asked = asked_of(
            await request.read(),
            is_chat=is_chat,
            model=engine.settings.model,
            context_tokens=engine.context_tokens,
        )
        if engine.faults.strikes(FaultKind.ERRORS):
            raise _broken()
        ticket = engine.submit(asked)
        try:
            if asked.streams:
                return await self._stream(request, asked, ticket)
            await ticket.ended
            return _json(ticket.envelope.whole(ticket.answer))
        finally:
            engine.cancel(ticket)

    async def _stream(
        self, request: web.BaseRequest, asked: Asked, ticket: Ticket
    ) -> web.StreamResponse:
        cut = self._engine.faults.strikes(FaultKind.TRUNCATE)
        answer, envelope = ticket.answer, ticket.envelope
        response = web.StreamResponse(
            headers={**_HEADERS, "Content-Type": "text/event-stream; charset=utf-8"}
        )
        await ticket.first
        await response.prepare(request)
        sent, next_s, half = 0, 0.0, len(answer.tokens) // 2
        while not ticket.is_over:
            tokens = self._engine.tokens_of(ticket)
            if cut and sent and tokens > half:
                return response
            if tokens > sent:
                text = answer.text(sent, tokens)
                await response.write(envelope.part(text, first=not sent))
                sent = tokens
                next_s = asyncio.get_running_loop().time() + CHUNK_S
            await self._engine.more(ticket, next_s)
        if cut:
            # Where the loop came late, all of it was there at once.
            if not sent:
                await response.write(envelope.part(answer.text(0, half), first=True))
            return response
        rest = envelope.part(answer.text(sent), finish_reason=answer.finish_reason, first=not sent)
        usage = envelope.usage_part(answer) if asked.with_usage else b""
        await response.write(rest + usage + END_OF_STREAM)
        return response


def _request(*arguments: Any) -> web.BaseRequest:  # noqa: ANN401 - as the server makes them
    message, payload, protocol, writer, task = arguments
    return web.BaseRequest(
        message,
        payload,
        protocol,
        writer,
        task,
        asyncio.get_running_loop(),
        client_max_size=BODY_LIMIT_BYTES,
    )


def _json(body: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return web.json_response(body, status=status, headers=_HEADERS)


def _unavailable() -> Refused:
    return Refused(
        HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailableError", "the replica is going away"
    )


def _broken() -> Refused:
    return Refused(
        HTTPStatus.INTERNAL_SERVER_ERROR, "InternalServerError", "EngineCore encountered an issue."
    )
