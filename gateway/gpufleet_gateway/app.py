"""The application of one worker: the door in front of LiteLLM, and what runs beside it."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

from gpufleet.core.gateway.queueing import loads_of, pool_wait_s
from gpufleet.edges.audit_log import AuditLog
from gpufleet.edges.in_flight import Board
from gpufleet.edges.spend_ledger import LEDGER_FILE, SpendLedger, SpendUnknown
from gpufleet.spec.gateway import Routes
from gpufleet_gateway import meters, proxy
from gpufleet_gateway.answers import Receive, Refused, Scope, Send
from gpufleet_gateway.batches import Batches
from gpufleet_gateway.door import Door
from gpufleet_gateway.folder import AUDIT, BOARD, SALT, Folder, secret_file
from gpufleet_gateway.identity import Doorkeeper
from gpufleet_gateway.traffic import Traffic, hosted_uid
from gpufleet_gateway.warm import warm

_WATCH_EVERY_S: Final = 0.25
_STALLED_S: Final = 1.0
"""A worker that did not run for so long has seen no silence of others, only its own."""
_RECORDS_WITHIN_S: Final = 8.0
_METER_EVERY_S: Final = 2.0


def application() -> Callable[[Scope, Receive, Send], Any]:
    """What a worker of uvicorn serves."""
    return Worker(Folder.of_environment())


class Worker:
    """One worker process.

    Args:
        folder: the gateway's.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._litellm = proxy.application()
        self._traffic = Traffic(
            folder, Board(folder.path / BOARD), SpendLedger(folder.path / LEDGER_FILE)
        )
        self._log = AuditLog(folder.path / AUDIT, "gateway")
        self._door = Door(
            self._litellm,
            self._traffic,
            Doorkeeper(folder.routes, folder.keys),
            self._log,
            secret_file(folder.path / SALT),
            Batches(folder.path),
        )
        self._serving: set[asyncio.Task[Any]] = set()
        self._watching: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the worker's own life."""
        if scope["type"] == "http":
            task = asyncio.current_task()
            if task is None:
                raise RuntimeError("a request is served by a task")
            self._serving.add(task)
            try:
                await self._door(scope, receive, send)
            finally:
                self._serving.discard(task)
        elif scope["type"] == "lifespan":
            await self._live(scope, receive, send)

    def turned_away(self, refused: Refused) -> None:
        """Record what a connection has refused before there was a request."""
        self._door.turned_away(refused)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def tell(message: dict[str, Any]) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._start()
            if message["type"].startswith("lifespan.shutdown"):
                await self._stop()
            await send(message)

        await self._litellm(scope, receive, tell)

    async def _start(self) -> None:
        await proxy.connect()
        proxy.follow(self._folder.routes())
        await asyncio.to_thread(self._log.recover)
        await warm(self._litellm, self._folder.routes())
        self._watching = asyncio.create_task(self._watch())

    async def _stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        if self._serving:
            # They were interrupted, and leave their records now.
            await asyncio.wait(self._serving, timeout=_RECORDS_WITHIN_S)
        await asyncio.to_thread(self._log.close)

    async def _watch(self) -> None:
        followed: Routes | None = self._folder.routes()
        metered_s = seen_s = time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            now_s = time.monotonic()
            stalled = now_s - seen_s > _WATCH_EVERY_S + _STALLED_S
            seen_s = now_s
            if not stalled:
                self._door.attempts.end_hung()
            routes = self._folder.routes()
            if routes is not followed:
                followed = routes
                proxy.follow(routes)
            if now_s - metered_s >= _METER_EVERY_S:
                metered_s = now_s
                await self._meter(routes)

    async def _meter(self, routes: Routes) -> None:
        meters.WORKER_SEEN_AT.set_to_current_time()
        known = self._folder.replicas().pools
        hosted = {hosted_uid(name) for name in routes.use_cases}
        self._traffic.outliers.keep(hosted | {each.uid for pool in known.values() for each in pool})
        for name, pool in routes.pools.items():
            replicas = known.get(name, [])
            ejected = self._traffic.outliers.ejected(
                (each.uid for each in replicas), time.monotonic()
            )
            serving = [each for each in replicas if each.ready and each.uid not in ejected]
            counts = self._traffic.board.totals([f"replica:{each.uid}" for each in serving])
            in_flight = {each.uid: counts[f"replica:{each.uid}"] for each in serving}
            wait_s = pool_wait_s(loads_of(serving, pool, in_flight, time.time()))
            meters.PREDICTED_QUEUE_S.labels(name).set(wait_s)
            meters.EJECTED.labels(name).set(len(ejected))
        for name, age_s in self._folder.file_ages_s().items():
            meters.FILE_AGE_S.labels(name).set(age_s)
        for name, route in routes.use_cases.items():
            meters.begin(name, route)
            if route.hosted is not None:
                meters.HOSTED_CAP.labels(name).set(float(route.hosted.monthly_cap))
                with contextlib.suppress(SpendUnknown):
                    spent = await asyncio.to_thread(self._traffic.ledger.spent, name, time.time())
                    meters.HOSTED_SPEND.labels(name).set(float(spent))
