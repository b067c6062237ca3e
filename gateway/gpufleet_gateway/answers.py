"""What a client is sent: OpenAI's forms, and this gateway's headers on every answer."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Scope = dict[str, Any]

CLIENT_GONE: Final = 499
TOO_MANY: Final = 429
UNAVAILABLE: Final = 503
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_SERVER_ERROR: Final = 500
SEND_WITHIN_S: Final = 30.0
"""Longest time that a client may let a part of its answer wait."""
ABORT: Final = "gpufleet.abort"
"""Key of a scope: cuts the connection off. Without it what was sent would wait for ever."""


class ClientGone(Exception):
    """The client went away, or does not read its answer."""


@dataclass
class Refused(Exception):
    """A request that ends here, with an answer of OpenAI's form."""

    status: int
    code: str
    message: str
    parameter: str | None = None
    retry_after_s: int | None = None
    reason: str = ""
    """For the audit record; the code where it is empty."""
    of_key: bool = False
    """Whether it is the key's own limit that was reached."""
    closes: bool = False
    """Whether the connection is of no more use: the body was not read to its end."""

    @property
    def is_callers(self) -> bool:
        """Whether the caller alone made it: nobody else's request would have been refused."""
        return self.of_key or (self.status < _SERVER_ERROR and self.status != TOO_MANY)

    @property
    def body(self) -> bytes:
        """OpenAI's error object."""
        kind = _TYPES.get(self.status)
        if kind is None:
            kind = "server_error" if self.status >= _SERVER_ERROR else "invalid_request_error"
        error = {
            "message": self.message,
            "type": kind,
            "param": self.parameter,
            "code": self.code,
        }
        return json.dumps({"error": error}).encode()


@dataclass
class Client:
    """The client's side of one request: what was sent to it, and by when."""

    send: Send
    request_id: str
    headers: dict[str, str] = field(default_factory=dict)
    started: bool = False
    """Whether anything was sent: from then on no other answer can be given."""
    finished: bool = False
    status: int = 0
    sending: bool = False
    """Whether the client is waited for now: nobody else is slow then."""
    gone: bool = False
    """Whether it was waited for too long."""
    abort: Callable[[], None] | None = None
    """Cuts the connection off."""
    send_within_s: float = SEND_WITHIN_S

    async def answer(self, status: int, body: bytes, more: Mapping[str, str] | None = None) -> None:
        """Send a whole answer."""
        length = {"content-type": "application/json", "content-length": str(len(body))}
        await self._start(status, {**length, **(more or {})})
        self.finished = True
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def stream(self, part: bytes) -> None:
        """Send a part of a stream of events."""
        if not self.started:
            await self._start(
                200,
                {
                    "content-type": "text/event-stream; charset=utf-8",
                    "cache-control": "no-cache",
                    "x-accel-buffering": "no",
                },
            )
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def end_stream(self) -> None:
        """Nothing more comes."""
        self.finished = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def refuse(self, refused: Refused) -> None:
        """Send an error: as an answer, or as the last event of a stream that has begun."""
        if self.finished:
            return
        if self.started:
            await self.stream(b"data: " + refused.body + b"\n\n")
            await self.end_stream()
            return
        more = {}
        if refused.retry_after_s is not None:
            more["retry-after"] = str(refused.retry_after_s)
        if refused.closes:
            more["connection"] = "close"
        await self.answer(refused.status, refused.body, more)

    async def _send(self, message: Message) -> None:
        """Send, within a limit of time.

        Raises:
            ClientGone: the client does not read.
        """
        self.sending = True
        try:
            async with asyncio.timeout(self.send_within_s):
                await self.send(message)
        except TimeoutError:
            self.gone = True
            if self.abort is not None:
                self.abort()
            raise ClientGone from None
        finally:
            self.sending = False

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started = True
        self.status = status
        every = {
            **headers,
            **self.headers,
            "x-request-id": self.request_id,
            "x-gpufleet-request-id": self.request_id,
        }
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (name.encode(), value.encode("ascii", "replace"))
                    for name, value in every.items()
                ],
            }
        )
