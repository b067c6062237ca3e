"""The gateway's public side: what it serves, who is let in, and what becomes of each request."""

import asyncio
import contextlib
import json
import logging
import secrets
import time
import traceback
from typing import Final

from gpufleet.core.gateway.audit import FewEachSecond
from gpufleet.core.gateway.ladder import Way
from gpufleet.core.gateway.request_body import Asked, read_body
from gpufleet.core.gateway.request_shapes import Unacceptable
from gpufleet.spec.errors import Retryable
from gpufleet.spec.gateway import Route
from gpufleet_gateway import meters
from gpufleet_gateway.answers import (
    ABORT,
    CLIENT_GONE,
    TOO_MANY,
    UNAVAILABLE,
    Client,
    ClientGone,
    Receive,
    Refused,
    Scope,
    Send,
)
from gpufleet_gateway.attempts import (
    TIMED_OUT,
    Attempts,
    Visit,
    headers_of_record,
)
from gpufleet_gateway.batches import Batches, is_about_batches
from gpufleet_gateway.cache import Cache, Kept, answer_text, as_events, cache_name
from gpufleet_gateway.exchange import Application
from gpufleet_gateway.identity import UNAUTHORIZED, Caller, Denied, Doorkeeper
from gpufleet_gateway.record import Log, Record
from gpufleet_gateway.requests import check_content, headers_of, read
from gpufleet_gateway.traffic import Traffic, limits_of
from gpufleet_gateway.verdict import SERVER_ERROR

_OK: Final = 200
_COMPLETIONS: Final = {"/v1/chat/completions": True, "/v1/completions": False}
_STRANGERS_RECORDED_RPS: Final = 5
"""Requests in a second from nobody known that have a record each."""
_log: Final = logging.getLogger("gpufleet.gateway")


class Door:
    """The gateway's application, in front of LiteLLM's.

    Args:
        application: LiteLLM's.
        traffic: of this worker.
        doorkeeper: recognizes callers.
        log: for audit records.
        salt: of their hashes.
        batches: hands on what is about files and batches.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - everything that a request may need
        self,
        application: Application,
        traffic: Traffic,
        doorkeeper: Doorkeeper,
        log: Log,
        salt: bytes,
        batches: Batches,
    ) -> None:
        self._traffic = traffic
        self._doorkeeper = doorkeeper
        self._log = log
        self._salt = salt
        self._batches = batches
        self._cache = Cache()
        self._strangers = FewEachSecond(_STRANGERS_RECORDED_RPS)
        self.attempts = Attempts(application, traffic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request_id = f"req-{secrets.token_hex(12)}"
        client = Client(send, request_id, abort=scope.get(ABORT))
        visit = Visit(scope, receive, client, Record(request_id))
        with contextlib.suppress(ClientGone):
            await self._routed(visit)

    async def _routed(self, visit: Visit) -> None:
        scope = visit.scope
        path, method = scope["path"], scope["method"]
        if path == "/health/liveliness" and method == "GET":
            await visit.client.answer(_OK, b'{"status":"alive"}')
        elif path == "/health/readiness" and method == "GET":
            await self._readiness(visit)
        elif path in _COMPLETIONS or path == "/v1/models" or is_about_batches(path):
            await self._request(visit)
        else:
            message = f"There is nothing at {path[:100]}."
            refused = Refused(404, "not_found", message, closes=True)
            self.turned_away(refused, visit.record)
            await visit.client.refuse(refused)

    def turned_away(self, refused: Refused, record: Record | None = None) -> None:
        """Leave the record of what was refused before anybody asked who it is.

        Args:
            refused: how.
            record: of the request; left out where there is none yet.
        """
        if record is None:
            record = Record(f"req-{secrets.token_hex(12)}")
        record.status, record.error, record.reason = refused.status, refused.code, refused.code
        self._close(record)

    async def _readiness(self, visit: Visit) -> None:
        if self._traffic.folder.has_routes:
            await visit.client.answer(_OK, b'{"status":"ready"}')
        else:
            await visit.client.answer(UNAVAILABLE, b'{"status":"no routes"}')

    async def _request(self, visit: Visit) -> None:
        """Serve a request that leaves a record, however it ends."""
        record, client = visit.record, visit.client
        try:
            await self._admitted(visit)
            record.status = client.status
        except Refused as refused:
            record.status = client.status if client.started else refused.status
            record.error, record.limited = refused.code, refused.is_callers
            if refused.reason or not record.reason:
                record.reason = refused.reason or refused.code
            if refused.status in {TOO_MANY, UNAVAILABLE, TIMED_OUT} and not client.started:
                record.way, record.model, record.digest, record.replica = Way.NONE.value, "", "", ""
            client.headers = headers_of_record(record)
            self._give_back(visit)
            with contextlib.suppress(OSError, ClientGone):
                await client.refuse(refused)
        except ClientGone:
            record.status, record.error = CLIENT_GONE, "client_gone"
            if client.abort is not None:
                client.abort()
        except asyncio.CancelledError:
            record.status, record.error = UNAVAILABLE, "interrupted"
            self._give_back(visit)
            stopped = Refused(UNAVAILABLE, "interrupted", "The gateway stops.", retry_after_s=1)
            with contextlib.suppress(OSError, ClientGone):
                await client.refuse(stopped)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets no traceback
            record.status = client.status if client.started else SERVER_ERROR
            record.error = f"internal: {type(error).__name__}"
            # Where it happened, without what it was about: a message may quote the client.
            trace = "".join(traceback.format_tb(error.__traceback__))
            _log.error("%s: %s\n%s", record.request_id, type(error).__name__, trace)
            internal = Refused(SERVER_ERROR, "internal_error", "The gateway has failed.")
            self._give_back(visit)
            with contextlib.suppress(OSError, ClientGone):
                await client.refuse(internal)
        finally:
            self._give_back(visit)
            self._close(record)

    def _give_back(self, visit: Visit) -> None:
        """Count a request no more; before its refusal is sent, which a client may not read."""
        counted, visit.counted = visit.counted, []
        if counted:
            self._traffic.board.give(counted)

    async def _admitted(self, visit: Visit) -> None:
        routes = self._traffic.folder.routes()
        headers = headers_of(visit.scope)
        caller = await self._identified(visit, headers.get(b"authorization"))
        if is_about_batches(visit.scope["path"]):
            visit.record.reason = "files and batches"
            await self._batches.hand_on(visit.scope, visit.receive, visit.client, caller)
            return
        wanted = "GET" if visit.scope["path"] == "/v1/models" else "POST"
        if visit.scope["method"] != wanted:
            raise Refused(405, "method_not_allowed", f"The method has to be {wanted}.", closes=True)
        if wanted == "GET":
            visit.record.reason = "list of models"
            await self._models(visit, caller)
            return
        check_content(headers, routes.gateway)
        raw = await read(visit.receive, routes.gateway)
        try:
            asked = read_body(raw, chat=_COMPLETIONS[visit.scope["path"]])
        except Unacceptable as error:
            raise Refused(
                400, error.code or "invalid_request", str(error), error.parameter
            ) from None
        route = routes.use_cases.get(asked.use_case)
        if route is None or asked.use_case not in caller.use_cases:
            # The same words for both: names of other teams' use cases are not told.
            message = f"The model {asked.use_case[:80]!r} does not exist, or is not yours to use."
            raise Refused(404, "model_not_found", message, "model")
        visit.asked, visit.record.use_case, visit.record.route = asked, asked.use_case, route
        visit.record.prompt = asked.prompt
        self._open(visit.record)
        self._limited(visit, caller)
        await self._answered(visit, asked, route, caller)

    async def _identified(self, visit: Visit, authorization: bytes | None) -> Caller:
        text = None if authorization is None else authorization.decode("latin-1")
        try:
            caller = await self._doorkeeper.identify(text, time.time())
        except Denied as denied:
            raise Refused(denied.status, denied.kind, f"{denied.message}.", closes=True) from None
        visit.record.key_id, visit.record.team = caller.key_id, caller.team
        return caller

    async def _models(self, visit: Visit, caller: Caller) -> None:
        use_cases = self._traffic.folder.routes().use_cases
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": use_cases[name].team}
            for name in sorted(caller.use_cases & use_cases.keys())
        ]
        await visit.client.answer(_OK, json.dumps({"object": "list", "data": data}).encode())

    def _limited(self, visit: Visit, caller: Caller) -> None:
        """Hold the limits of the key and of the use case, and count the request.

        Raises:
            Refused: 429.
        """
        routes, board = self._traffic.folder.routes(), self._traffic.board
        use_case = visit.record.use_case
        limits = limits_of(routes, use_case, caller.key_id, caller.concurrency_limit)
        reached = board.take(limits)
        if reached is not None:
            of_key = not reached.startswith("use_case:")
            kind = "key" if of_key else "use case"
            raise Refused(
                TOO_MANY,
                "concurrency_limit",
                f"The {kind} has as many requests in flight as it may have.",
                retry_after_s=1,
                reason=f"concurrency limit of the {kind}",
                of_key=of_key,
            )
        visit.counted = list(limits)
        if caller.rate_rpm is not None:
            limit = max(1, caller.rate_rpm // routes.pods)
            wait_s = board.pass_rate(f"rate:{caller.key_id}", limit)
            if wait_s > 0:
                raise Refused(
                    TOO_MANY,
                    "rate_limit_exceeded",
                    f"The key may send {caller.rate_rpm} requests a minute.",
                    retry_after_s=int(wait_s) + 1,
                    reason="rate limit of the key",
                    of_key=True,
                )

    async def _answered(self, visit: Visit, asked: Asked, route: Route, caller: Caller) -> None:
        routes = self._traffic.folder.routes()
        name = b""
        if route.cache_ttl_s is not None and route.pool in routes.pools:
            name = cache_name(caller.key_id, routes.pools[route.pool].digest, asked)
            kept = self._cache.find(name)
            if kept is not None:
                await self._again(visit, asked, kept)
                return
        answer = await self.attempts.run(visit, asked, route)
        record = visit.record
        primary = routes.pools.get(route.pool)
        if (
            route.cache_ttl_s is not None
            and answer.cacheable is not None
            and record.way == Way.PRIMARY
            and primary is not None
            and primary.digest == record.digest
        ):
            self._cache.keep(
                name,
                answer.cacheable,
                (record.model, record.digest),
                record.cost,
                route.cache_ttl_s,
            )

    async def _again(self, visit: Visit, asked: Asked, kept: Kept) -> None:
        record = visit.record
        record.way, record.reason = "cache", "the same request was answered before"
        record.model, record.digest = kept.model, kept.digest
        record.answer = answer_text(kept.content)
        visit.client.headers |= headers_of_record(record)
        meters.saved(record.use_case, kept.cost)
        if asked.stream:
            await visit.client.stream(as_events(kept.content, usage_wanted=asked.usage_wanted))
            await visit.client.end_stream()
        else:
            await visit.client.answer(_OK, json.dumps(kept.content).encode())

    def _open(self, record: Record) -> None:
        """Tell the audit log that work begins.

        Raises:
            Refused: it cannot be recorded, and has to be.
        """
        opening = record.opening(self._salt)
        try:
            self._log.begin(record.request_id, opening)
            record.begun = True
        except Retryable as error:
            record.missed = True
            if record.route is not None and record.route.audit_required:
                self._log.missed(opening, served=False)
                raise Refused(
                    UNAVAILABLE,
                    "audit_unavailable",
                    "The request cannot be recorded now, and has to be.",
                    retry_after_s=5,
                    reason=f"audit: {error.what}"[:200],
                ) from None
            self._log.missed(opening)
            meters.AUDIT_GAPS.labels(record.use_case).inc()

    def _close(self, record: Record) -> None:
        """Leave the record and count the request."""
        outcome = record.outcome
        meters.REQUESTS.labels(record.use_case, record.team, record.way, outcome).inc()
        if outcome == "ok" and record.use_case:
            meters.REQUEST_S.labels(record.use_case).observe(time.monotonic() - record.began_s)
            if record.ttft_s is not None:
                meters.TTFT_S.labels(record.use_case).observe(record.ttft_s)
            for kind, count in (
                ("prompt", record.prompt_tokens),
                ("output", record.output_tokens),
            ):
                meters.TOKENS.labels(record.use_case, record.model, kind).inc(count)
        is_stranger = record.status == UNAUTHORIZED and not record.key_id
        if is_stranger and not self._strangers.passes(time.monotonic()):
            self._log.refused(record.opening(self._salt))
        elif not (record.begun or record.missed):
            # It was refused before its work began: its record is all there is of it.
            with contextlib.suppress(Refused):
                self._open(record)
        if record.begun:
            # What fails here is tried again by the log itself.
            with contextlib.suppress(Retryable):
                self._log.end(record.request_id, record.closing(self._salt))
