"""Files and batches: handed on to the control process, with who asks."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp

from gpufleet.spec.batches import (
    BATCH_PATHS,
    BATCH_SOCKET,
    CALLER_KEY_HEADER,
    CALLER_TEAM_HEADER,
    CALLER_USE_CASES_HEADER,
)
from gpufleet_gateway.answers import UNAVAILABLE, Client, ClientGone, Receive, Refused, Scope
from gpufleet_gateway.identity import Caller

MOST_BODY_BYTES: Final = 201 * 2**20
"""A file of 200 MiB, and the form around it."""
_TOO_LARGE: Final = 413
_PASSED_ON: Final = (b"content-type", b"content-length")
_LONGEST_S: Final = 600.0


def is_about_batches(path: str) -> bool:
    """Whether a path is of files or batches."""
    return any(path == known or path.startswith(f"{known}/") for known in BATCH_PATHS)


class Batches:
    """Hands requests on.

    Args:
        folder: the gateway's, with the control process's socket.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def hand_on(self, scope: Scope, receive: Receive, client: Client, caller: Caller) -> None:
        """Let the control process answer a request.

        Raises:
            ClientGone: it stopped in the middle of its body.
            Refused: 413; or 503 where the control process does not answer.
        """
        given = {name: value for name, value in scope["headers"] if name in _PASSED_ON}
        length = given.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MOST_BODY_BYTES:
            raise _too_large()
        headers = {
            **{name.decode(): value.decode("latin-1") for name, value in given.items()},
            CALLER_KEY_HEADER: caller.key_id,
            CALLER_TEAM_HEADER: caller.team,
            CALLER_USE_CASES_HEADER: ",".join(sorted(caller.use_cases)),
        }
        query = scope.get("query_string", b"").decode("latin-1")
        url = f"http://control{scope['path']}{'?' if query else ''}{query}"
        has_body = scope["method"] == "POST"
        # A socket's path may have 107 bytes; through the open folder it always fits.
        descriptor = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        try:
            connector = aiohttp.UnixConnector(f"/proc/self/fd/{descriptor}/{BATCH_SOCKET}")
            timeout = aiohttp.ClientTimeout(total=_LONGEST_S)
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.request(
                    scope["method"],
                    url,
                    headers=headers,
                    data=_body(receive) if has_body else None,
                ) as response,
            ):
                await client.answer(
                    response.status,
                    await response.read(),
                    {"content-type": response.headers.get("content-type", "application/json")},
                )
        except (aiohttp.ClientError, TimeoutError, OSError):
            message = "Files and batches cannot be reached now."
            raise Refused(
                UNAVAILABLE, "unavailable", message, retry_after_s=5, closes=True
            ) from None
        finally:
            os.close(descriptor)


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > MOST_BODY_BYTES:
            raise _too_large()
        yield part
        if not message.get("more_body", False):
            return


def _too_large() -> Refused:
    what = f"A file may have {MOST_BODY_BYTES // 2**20 - 1} MiB."
    return Refused(_TOO_LARGE, "file_too_large", what, "file", closes=True)
