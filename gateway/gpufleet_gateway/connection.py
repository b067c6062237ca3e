"""A client's connection: headers within limits of time and size, refusals in OpenAI's form."""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gpufleet_gateway.answers import ABORT, Refused

HEADERS_WITHIN_S: Final = 10.0
"""Longest time that a client may take to send a request's headers."""
HEADERS_BYTES: Final = 32 * 1024
_BAD_REQUEST: Final = 400
_TOO_SLOW: Final = 408
_TOO_LONG: Final = 431


class Connection(HttpToolsProtocol):  # type: ignore[misc]
    """uvicorn's HTTP/1.1 with httptools, which waits for headers for ever and takes any number."""

    _deadline: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _begun = False
    """Whether anything of a request has come: who only connects leaves no record."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Somebody has come: headers have to follow."""
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """They have gone."""
        self._forget_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, as long as the headers are not too long."""
        self._header_bytes += len(data)
        self._begun = True
        super().data_received(data)
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._deadline is None and not self.transport.is_closing():
            # An empty line before a request: uvicorn has taken its own limit back for it.
            self._expect_headers()
        if self._deadline is not None and self._header_bytes > HEADERS_BYTES:
            self._refuse(
                Refused(_TOO_LONG, "headers_too_large", "The headers are too long.", closes=True)
            )

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope[ABORT] = self.transport.abort
        self._expect_headers()

    def on_headers_complete(self) -> None:
        """Its headers are there; its body has limits of its own."""
        self._forget_deadline()
        self._begun = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP request."""
        self._refuse(Refused(_BAD_REQUEST, "invalid_http", msg, closes=True))

    def _expect_headers(self) -> None:
        if self._deadline is None:
            self._header_bytes = 0
            self._deadline = self.loop.call_later(HEADERS_WITHIN_S, self._too_slow)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        message = f"The headers were not sent within {HEADERS_WITHIN_S:g} s."
        self._refuse(Refused(_TOO_SLOW, "request_timeout", message, closes=True))

    def _refuse(self, refused: Refused) -> None:
        self._forget_deadline()
        body = refused.body
        head = (
            b"content-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        turned_away = getattr(self.app, "turned_away", None)
        if turned_away is not None and self._begun:
            turned_away(refused)
        self.transport.write(STATUS_LINE[refused.status] + head + body)
        self.transport.close()
