"""A port in front of an object store that does to its answers what networks and stores do."""

import re
import socket
import struct
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, Final, Self

_RESET: Final = struct.pack("ii", 1, 0)
_HOP: Final = {"connection", "transfer-encoding", "keep-alive", "content-length", "date"}
ALWAYS: Final = 1_000_000


@dataclass
class Fault:
    """Something that goes wrong with some requests.

    Args:
        kind: `status` (an answer of the proxy's own), `lost answer` (the request is done, then
            answered by that), `silent`, `reset`, `cut` (ends early), `short` (as `cut`, with a
            length that agrees), `flip` (one bit of the body), `etag`, `lagging` (a listing from
            before).
        method: of the request.
        path: what its path and query have to hold, a regular expression.
        times: how often; each thread's request counts.
        status: of the answer, and the code in its body.
    """

    kind: str
    method: str = "GET|PUT|DELETE|HEAD"
    path: str = ""
    times: int = 1
    status: tuple[int, str] = (500, "InternalError")
    after: int = 0
    """Requests that it lets pass first."""
    hits: int = 0


@dataclass
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes = field(repr=False, default=b"")


class _Server(ThreadingHTTPServer):
    """Ends connections without saying so first, so that they can be reset."""

    daemon_threads = True
    block_on_close = False

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as the standard library has it
        self.close_request(request)

    def handle_error(self, *_: object) -> None:
        """Clients that are gone are no news."""


class FaultProxy:
    """Passes requests on, but for those that a fault meets.

    Args:
        port: of the store.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = Lock()
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        """Method, path and headers (names in small letters) of each request."""
        self._listings: dict[str, _Answer] = {}
        self.ended = Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            """One request."""

            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as the standard library has it
                """Nobody reads it."""

            def handle_one(self) -> None:
                proxy.handle(self)

            do_GET = do_PUT = do_DELETE = do_HEAD = do_POST = handle_one  # noqa: N815 - as above

        self._server = _Server(("127.0.0.1", 0), Handler)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((request.command, request.path, headers))
        fault = self._meets(request)
        kind = fault.kind if fault else ""
        if kind == "silent":
            self.ended.wait()
            _reset(request)
            return
        if kind == "status":
            _send(request, _told(fault))
            return
        if request.command == "PUT" and kind == "reset":
            _reset(request)
            return
        if request.command == "PUT" and kind == "flip":
            body = _flipped(body)
        answer = self._passed_on(request, body)
        listing = "list-type" in request.path or "versions" in request.path
        if kind == "lagging":
            answer = self._listings.get(request.path, _empty(answer))
        elif listing:
            self._listings.setdefault(request.path, answer)
        if kind == "lost answer":
            answer = _told(fault)
        _deliver(request, answer, kind)

    def _meets(self, request: BaseHTTPRequestHandler) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if (
                    fault.hits < fault.times
                    and re.fullmatch(fault.method, request.command)
                    and re.search(fault.path, request.path)
                ):
                    if fault.after > 0:
                        fault.after -= 1
                        return None
                    fault.hits += 1
                    return fault
        return None

    def _passed_on(self, request: BaseHTTPRequestHandler, body: bytes) -> _Answer:
        onward = HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            onward.putrequest(
                request.command, request.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers.items():
                if name.lower() not in {"expect", "connection"}:
                    onward.putheader(name, value)
            onward.endheaders(body)
            found: HTTPResponse = onward.getresponse()
            return _Answer(found.status, found.getheaders(), found.read())
        finally:
            onward.close()


def _told(fault: Fault | None) -> _Answer:
    status, code = fault.status if fault else (500, "InternalError")
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    body = text.encode() if status >= HTTPStatus.BAD_REQUEST else b""
    return _Answer(status, [("Content-Type", "application/xml")], body)


def _empty(answer: _Answer) -> _Answer:
    """A listing in which nothing is yet."""
    kept = re.sub(rb"<(Contents|Version|DeleteMarker)>.*?</\1>", b"", answer.body, flags=re.DOTALL)
    return _Answer(answer.status, answer.headers, kept)


def _flipped(body: bytes) -> bytes:
    """One bit of the middle is another one."""
    bent = bytearray(body)
    if bent:
        bent[len(bent) // 2] ^= 1
    return bytes(bent)


def _deliver(request: BaseHTTPRequestHandler, answer: _Answer, kind: str) -> None:
    if kind == "flip" and request.command == "GET":
        answer.body = _flipped(answer.body)
    if kind == "short":
        answer.body = answer.body[: len(answer.body) // 2]
    if kind == "etag":
        answer.headers = [
            (name, '"00000000000000000000000000000000"' if name.lower() == "etag" else value)
            for name, value in answer.headers
        ]
    half = len(answer.body) // 2 if kind in {"reset", "cut"} else None
    _send(request, answer, half)
    if half is not None:
        _reset(request, hard=kind == "reset")


def _send(request: BaseHTTPRequestHandler, answer: _Answer, only: int | None = None) -> None:
    request.send_response(answer.status)
    length = str(len(answer.body))
    for name, value in answer.headers:
        if request.command == "HEAD" and name.lower() == "content-length":
            length = value
        if name.lower() not in _HOP:
            request.send_header(name, value)
    request.send_header("Content-Length", length)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(answer.body[:only])
        request.wfile.flush()


def _reset(request: BaseHTTPRequestHandler, *, hard: bool = True) -> None:
    """End a connection: at once or, where it is not hard, as if that were all."""
    if hard:
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    request.close_connection = True
