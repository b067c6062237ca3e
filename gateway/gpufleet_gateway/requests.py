"""Reading a request: its headers and its body, within limits of size and time."""

import asyncio
from typing import Final

from gpufleet.spec.gateway import Gateway
from gpufleet_gateway.answers import ClientGone, Receive, Refused, Scope

_FORBIDDEN: Final = (b"x-gpufleet-", b"x-litellm-", b"litellm-", b"llm_provider-")
"""Headers that only the gateway sets."""
_ONCE: Final = (b"authorization", b"content-type", b"content-length", b"host")


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers by name.

    Raises:
        Refused: one of those that decide is there twice, or one that a client may not send.
    """
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in headers and name in _ONCE:
            raise Refused(400, "bad_header", f"The header {name.decode()} is there twice.")
        if name.startswith(_FORBIDDEN):
            shown = name.decode("ascii", "replace")[:60]
            raise Refused(400, "bad_header", f"The header {shown} is set by the gateway only.")
        headers[name] = value
    return headers


def check_content(headers: dict[bytes, bytes], gateway: Gateway) -> None:
    """Refuse what is no JSON, or says that it is too long, before it is read.

    Raises:
        Refused: 411, 413 or 415.
    """
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json":
        raise Refused(
            415,
            "unsupported_media_type",
            "The content type has to be application/json.",
            closes=True,
        )
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise Refused(415, "unsupported_encoding", "The body may not be compressed.", closes=True)
    length = headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length) > gateway.body_limit_bytes:
        raise _too_long(gateway)


async def read(receive: Receive, gateway: Gateway) -> bytes:
    """A request's body.

    Raises:
        ClientGone: it stopped in the middle.
        Refused: 408 or 413.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(gateway.body_time_limit_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                size += len(part)
                if size > gateway.body_limit_bytes:
                    raise _too_long(gateway)
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise Refused(
            408,
            "request_timeout",
            f"The request was not sent within {gateway.body_time_limit_s:g} s.",
            closes=True,
        ) from None


def _too_long(gateway: Gateway) -> Refused:
    return Refused(
        413,
        "request_too_large",
        f"The body may have {gateway.body_limit_bytes} bytes.",
        closes=True,
    )
