"""Reads the metrics of many engines at once."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

import aiohttp

_AT_ONCE: Final = 64
"""Connections that are being asked at one moment: all at once would be a burst each second."""
_SILENT_AT_ONCE: Final = 16
"""Of those that did not answer when they were asked last: they take no place of those that live."""
_CONNECT_S: Final = 0.5
"""Whoever drops packets, as a site that is dark, holds its connection no longer than this."""
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 4.0
_LARGEST_BYTES: Final = 4 * 2**20


@dataclass(frozen=True)
class Read:
    """An engine's metrics, and when they were read."""

    text: str
    at_s: float
    """On a clock that never jumps."""
    wall_s: float
    """Seconds since 1970."""


class EnginePoller:
    """Asks engines for `/metrics` over connections that stay open; for one event loop.

    aiohttp, because every replica is asked each second: for 70 of them its client took 7 ms of CPU
    time where the pool of httpx took 500 ms.

    Args:
        timeout_s: of one engine, the connection included.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._silent_slots = asyncio.Semaphore(_SILENT_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None
        self._asked: dict[str, asyncio.Task[Read | None]] = {}
        self._pauses: dict[str, tuple[float, float]] = {}
        """By key of an engine that did not answer: its pause, s, and when it ends."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def open(self) -> None:
        """Make it ready in the event loop that runs now."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(
                total=self._timeout_s, sock_connect=min(_CONNECT_S, self._timeout_s)
            ),
            # Unpacking would cost more than what is saved on the wire.
            headers={"Accept": "text/plain", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._asked.values():
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
        if self._session:
            await self._session.close()

    async def read_all(self, engines: Mapping[str, str], within_s: float) -> dict[str, Read]:
        """What engines have said since the last call: one that is slow holds up no other.

        Its answer comes by a later call, and it is not asked again before. One that did not answer
        is asked again after a pause, which doubles each time up to some seconds, and in a place of
        its own: however many are gone at once, those that live are asked as before.

        Args:
            engines: base address by any key.
            within_s: longest time that is waited for those that are asked now.
        """
        now_s = time.monotonic()
        self._pauses = {key: pause for key, pause in self._pauses.items() if key in engines}
        for key, url in engines.items():
            _, until_s = self._pauses.get(key, (0.0, now_s))
            if key not in self._asked and until_s <= now_s:
                self._asked[key] = asyncio.create_task(self._read(key, url))
        if self._asked:
            await asyncio.wait(self._asked.values(), timeout=within_s)
        ended = {key: task.result() for key, task in self._asked.items() if task.done()}
        for key, read in ended.items():
            del self._asked[key]
            self._pause(key, read)
        return {key: read for key, read in ended.items() if read is not None and key in engines}

    @property
    def silent(self) -> frozenset[str]:
        """Keys of the engines that did not answer when they were asked last."""
        return frozenset(self._pauses)

    def _pause(self, key: str, read: Read | None) -> None:
        """None after an answer; the first is over by the next call."""
        last_s, _ = self._pauses.pop(key, (_FIRST_PAUSE_S / 2, 0.0))
        if read is None:
            pause_s = min(2 * last_s, _LONGEST_PAUSE_S)
            self._pauses[key] = (pause_s, time.monotonic() + pause_s)

    async def _read(self, key: str, url: str) -> Read | None:
        assert self._session is not None  # noqa: S101 - opened before
        async with self._silent_slots if key in self._pauses else self._slots:
            try:
                async with self._session.get(f"{url}/metrics", allow_redirects=False) as answer:
                    if answer.status != HTTPStatus.OK:
                        return None
                    body = await answer.content.read(_LARGEST_BYTES)
                    while chunk := await answer.content.read(_LARGEST_BYTES):
                        body += chunk
                        if len(body) > _LARGEST_BYTES:
                            return None
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                return None
        return Read(body.decode("utf-8", errors="replace"), time.monotonic(), time.time())
