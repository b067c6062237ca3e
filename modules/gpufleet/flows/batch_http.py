"""OpenAI's `/v1/files` and `/v1/batches` behind the gateway: on a socket that its workers share.

The workers know who asks; here they say so in headers, which no client may send them. Nobody else
can open the socket: it is a file of the gateway's private folder.
"""

import asyncio
import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from aiohttp import BodyPartReader, web

from gpufleet.core import batch_api as api
from gpufleet.core.batch_api import ApiRefused, Json
from gpufleet.core.batch_requests import MOST_BYTES
from gpufleet.flows import batch_api
from gpufleet.flows.batch_files import Caller
from gpufleet.flows.ground import Ground
from gpufleet.spec.batches import (
    BATCH_SOCKET,
    CALLER_KEY_HEADER,
    CALLER_TEAM_HEADER,
    CALLER_USE_CASES_HEADER,
)

_MOST_JSON_BYTES: Final = 2**20
_PART_BYTES: Final = 2**16
_UPLOADS: Final = 4
"""At once; the others wait, so that the disk of a gateway's pod never is full of them."""


def caller_of(request: web.Request) -> Caller:
    """Who asks, as a worker of the gateway says.

    Raises:
        ApiRefused: nobody says.
    """
    key = request.headers.get(CALLER_KEY_HEADER, "")
    team = request.headers.get(CALLER_TEAM_HEADER, "")
    if not (key and team):
        raise ApiRefused(401, "missing_api_key", "Nobody was recognized.")
    names = request.headers.get(CALLER_USE_CASES_HEADER, "").split(",")
    return Caller(key, team, frozenset(filter(None, names)))


class BatchHttp:
    """The application.

    Args:
        ground: the environment as it is declared now; asked for each request.
    """

    def __init__(self, ground: Callable[[], Ground]) -> None:
        self._ground = ground
        self._one = asyncio.Lock()
        """Held by who has a whole file in memory."""
        self._uploads = asyncio.Semaphore(_UPLOADS)

    def application(self) -> web.Application:
        """With its routes; nothing of it blocks the loop."""
        app = web.Application(middlewares=[_told], client_max_size=_MOST_JSON_BYTES)
        app.add_routes(
            [
                web.post("/v1/files", self._upload),
                web.get("/v1/files", self._listed(batch_api.list_files)),
                web.get("/v1/files/{id}", self._about(batch_api.retrieve_file)),
                web.delete("/v1/files/{id}", self._about(batch_api.delete_file)),
                web.get("/v1/files/{id}/content", self._content),
                web.post("/v1/batches", self._create),
                web.get("/v1/batches", self._listed(batch_api.list_batches)),
                web.get("/v1/batches/{id}", self._about(batch_api.retrieve_batch)),
                web.post("/v1/batches/{id}/cancel", self._about(batch_api.cancel_batch)),
            ]
        )
        return app

    async def _upload(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        if not request.content_type.startswith("multipart/"):
            raise ApiRefused(400, "invalid_value", "The body has to be multipart/form-data.")
        async with self._uploads:
            made = await self._take(request, caller)
        return web.json_response(made)

    async def _take(self, request: web.Request, caller: Caller) -> Json:
        """Keep an upload, on the disk until it is its turn."""
        with tempfile.TemporaryFile() as kept:
            filename, purpose = await _form(request, kept)
            kept.seek(0)
            async with self._one:
                content = await asyncio.to_thread(kept.read)
                return await asyncio.to_thread(
                    batch_api.create_file, self._ground(), caller, filename, purpose, content
                )

    async def _create(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        try:
            body = json.loads(await request.read())
        except (ValueError, RecursionError):
            raise ApiRefused(400, "invalid_json", "The body is not JSON.") from None
        async with self._one:
            made = await asyncio.to_thread(batch_api.create_batch, self._ground(), caller, body)
        return web.json_response(made)

    async def _content(self, request: web.Request) -> web.Response:
        caller, file = caller_of(request), request.match_info["id"]
        content = await asyncio.to_thread(batch_api.file_content, self._ground(), caller, file)
        return web.Response(body=content, content_type="application/octet-stream")

    def _about(self, act: Callable[[Ground, Caller, str], Json]) -> Any:  # noqa: ANN401 - aiohttp's own handler type
        async def handle(request: web.Request) -> web.Response:
            caller, id_ = caller_of(request), request.match_info["id"]
            return web.json_response(await asyncio.to_thread(act, self._ground(), caller, id_))

        return handle

    def _listed(self, act: Callable[[Ground, Caller, str, int], Json]) -> Any:  # noqa: ANN401 - as above
        async def handle(request: web.Request) -> web.Response:
            caller = caller_of(request)
            given = request.query.get("limit", str(api.LISTED))
            limit = int(given) if given.isdecimal() and len(given) < len("1000000") else 0
            after = request.query.get("after", "")
            found = await asyncio.to_thread(act, self._ground(), caller, after, limit)
            return web.json_response(found)

        return handle


class BatchServer:
    """Serves the application on the gateway's socket, in a thread of its own.

    Args:
        ground: the environment as it is declared now; asked for each request.
        folder: of the gateway, private to its user.
    """

    def __init__(self, ground: Callable[[], Ground], folder: Path) -> None:
        self._http = BatchHttp(ground)
        self._folder = folder
        self._loop = asyncio.new_event_loop()

    def start(self) -> Self:
        """Listen; a socket that a killed process has left is replaced."""
        listener = _listener(self._folder)
        ready = threading.Event()

        async def serve() -> None:
            runner = web.AppRunner(self._http.application(), access_log=None)
            await runner.setup()
            await web.SockSite(runner, listener).start()
            ready.set()

        self._loop.create_task(serve())
        threading.Thread(target=self._loop.run_forever, daemon=True, name="batches").start()
        ready.wait()
        return self

    def stop(self) -> None:
        """Serve nothing more."""
        self._loop.call_soon_threadsafe(self._loop.stop)


def _listener(folder: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # A socket's path may have 107 bytes; through the open folder it always fits.
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        (folder / BATCH_SOCKET).unlink(missing_ok=True)
        made.bind(f"/proc/self/fd/{descriptor}/{BATCH_SOCKET}")
        (folder / BATCH_SOCKET).chmod(0o600)
    finally:
        os.close(descriptor)
    made.listen()
    return made


async def _form(request: web.Request, kept: BinaryIO) -> tuple[str, str]:
    """Filename and purpose of an upload, whose content is put into `kept`.

    Raises:
        ApiRefused: it is too large, or no form.
    """
    filename, purpose = "", ""
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                continue
            if part.name == "purpose":
                purpose = (await part.read_chunk(_PART_BYTES)).decode("utf-8", "replace")
            elif part.name == "file":
                filename = part.filename or ""
                while chunk := await part.read_chunk(_PART_BYTES):
                    kept.write(chunk)
                    if kept.tell() > MOST_BYTES:
                        break
    except ValueError:
        raise ApiRefused(400, "invalid_value", "The body is no whole form.") from None
    return filename, purpose


@web.middleware
async def _told(request: web.Request, handler: Any) -> web.StreamResponse:  # noqa: ANN401 - aiohttp's own handler type
    """Answer a refusal in OpenAI's form, and no traceback."""
    try:
        answer: web.StreamResponse = await handler(request)
    except ApiRefused as refused:
        return web.json_response(refused.as_json(), status=refused.status)
    except web.HTTPException as error:
        told = ApiRefused(error.status, "not_found", error.reason)
        return web.json_response(told.as_json(), status=error.status)
    return answer
