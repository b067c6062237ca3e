"""The gateway's public side: what it serves, who is let in, and what becomes of each request."""

import asyncio
import contextlib
import json
import secrets
import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from gpufleet.core.gateway.ladder import Decision, Way
from gpufleet.core.gateway.request_body import Asked, Unacceptable, passed_on, read_body
from gpufleet.spec.errors import Retryable
from gpufleet.spec.gateway import Route
from gpufleet_gateway import meters
from gpufleet_gateway.answers import (
    CLIENT_GONE,
    TOO_MANY,
    UNAVAILABLE,
    Client,
    Receive,
    Refused,
    Scope,
    Send,
)
from gpufleet_gateway.batches import Batches, is_about_batches
from gpufleet_gateway.cache import Cache, Kept, as_events, cache_name
from gpufleet_gateway.exchange import Answer, Application, Exchange
from gpufleet_gateway.identity import Caller, Denied, Doorkeeper
from gpufleet_gateway.proxy import TARGET
from gpufleet_gateway.record import Log, Record
from gpufleet_gateway.requests import ClientGone, check_content, headers_of, read
from gpufleet_gateway.traffic import Target, Traffic, hosted_cost, limits_of

MOST_ATTEMPTS: Final = 3
_OK: Final = 200
_BAD_GATEWAY: Final = 502
_TIMED_OUT: Final = 504
_SERVER_ERROR: Final = 500
_CLIENT_ERROR: Final = 400
_NOT_ITS_FAULT: Final = frozenset({401, 402, 403, 404, 408, 409, 429, CLIENT_GONE})
"""Answers of a hosted API, or of an engine, that are not the client's fault."""
_MILLION: Final = 1_000_000
_COMPLETIONS: Final = {"/v1/chat/completions": True, "/v1/completions": False}


@dataclass
class Visit:
    """One request with everything that belongs to it."""

    scope: Scope
    receive: Receive
    client: Client
    record: Record
    asked: Asked | None = None
    counted: list[str] = field(default_factory=list)


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
        self._application = application
        self._traffic = traffic
        self._doorkeeper = doorkeeper
        self._log = log
        self._salt = salt
        self._batches = batches
        self._cache = Cache()
        self._live: dict[int, tuple[Target, asyncio.Task[None]]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request_id = f"req-{secrets.token_hex(12)}"
        visit = Visit(scope, receive, Client(send, request_id), Record(request_id))
        path, method = scope["path"], scope["method"]
        if path == "/health/liveliness" and method == "GET":
            await visit.client.answer(_OK, b'{"status":"alive"}')
        elif path == "/health/readiness" and method == "GET":
            await self._readiness(visit)
        elif path in _COMPLETIONS or path == "/v1/models" or is_about_batches(path):
            await self._request(visit)
        else:
            message = f"There is nothing at {path[:100]}."
            await visit.client.refuse(Refused(404, "not_found", message, closes=True))

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
            record.error = refused.code
            if refused.reason or not record.reason:
                record.reason = refused.reason or refused.code
            if refused.status in {TOO_MANY, UNAVAILABLE, _TIMED_OUT} and not client.started:
                record.way, record.model, record.digest, record.replica = Way.NONE.value, "", "", ""
            client.headers = _headers(record)
            with contextlib.suppress(OSError):
                await client.refuse(refused)
        except ClientGone:
            record.status, record.error = CLIENT_GONE, "client_gone"
        except asyncio.CancelledError:
            record.status, record.error = CLIENT_GONE, "interrupted"
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets no traceback
            record.status = client.status if client.started else _SERVER_ERROR
            record.error = f"internal: {type(error).__name__}"
            internal = Refused(_SERVER_ERROR, "internal_error", "The gateway has failed.")
            with contextlib.suppress(OSError):
                await client.refuse(internal)
        finally:
            if visit.counted:
                self._traffic.board.give(visit.counted)
            self._close(record)

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
            kind = "use case" if reached.startswith("use_case:") else "key"
            raise Refused(
                TOO_MANY,
                "concurrency_limit",
                f"The {kind} has as many requests in flight as it may have.",
                retry_after_s=1,
                reason=f"concurrency limit of the {kind}",
            )
        visit.counted = list(limits)
        if caller.rate_rpm is not None:
            limit = max(1, caller.rate_rpm // routes.gateway.replicas)
            wait_s = board.pass_rate(f"rate:{caller.key_id}", limit)
            if wait_s > 0:
                raise Refused(
                    TOO_MANY,
                    "rate_limit_exceeded",
                    f"The key may send {caller.rate_rpm} requests a minute.",
                    retry_after_s=int(wait_s) + 1,
                    reason="rate limit of the key",
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
        answer = await self._attempts(visit, asked, route)
        record = visit.record
        primary = routes.pools.get(route.pool)
        if (
            route.cache_ttl_s is not None
            and answer.cacheable is not None
            and record.way == Way.PRIMARY
            and primary is not None
            and primary.digest == record.digest
        ):
            self._cache.keep(name, answer.cacheable, record.cost, route.cache_ttl_s)

    async def _again(self, visit: Visit, asked: Asked, kept: Kept) -> None:
        record = visit.record
        record.way, record.reason = "cache", "the same request was answered before"
        visit.client.headers |= _headers(record)
        meters.saved(record.use_case, kept.cost)
        if asked.stream:
            await visit.client.stream(as_events(kept.content, usage_wanted=asked.usage_wanted))
            await visit.client.end_stream()
        else:
            await visit.client.answer(_OK, json.dumps(kept.content).encode())

    async def _attempts(self, visit: Visit, asked: Asked, route: Route) -> Answer:
        """Ask until somebody answers; nothing was sent to the client before.

        Raises:
            Refused: nobody did.
            ClientGone: the client did not wait for it.
        """
        record = visit.record
        tried: set[str] = set()
        deadline_s = record.began_s + route.timeout_s
        gone = asyncio.ensure_future(_until_gone(visit.receive))
        failure = ""
        try:
            for number in range(MOST_ATTEMPTS):
                placed = await self._traffic.place(
                    f"{record.request_id}.{number}", record.use_case, asked, tried
                )
                if isinstance(placed, Decision):
                    raise self._refusal(placed, failure)
                answer, failure = await self._attempt(visit, placed, asked, gone, deadline_s)
                if not failure:
                    return answer
                if visit.client.started:
                    raise Refused(_BAD_GATEWAY, "engine_error", "The answer broke off.")
                tried.add(placed.replica.uid if placed.replica else Way.HOSTED.value)
                if time.monotonic() >= deadline_s:
                    break
        finally:
            gone.cancel()
        if failure == "timeout":
            message = f"No answer within {route.timeout_s:g} s."
            raise Refused(_TIMED_OUT, "timeout", message, reason="timeout")
        raise Refused(
            UNAVAILABLE,
            "engine_error",
            "The model does not answer now.",
            retry_after_s=1,
            reason=failure[:200],
        )

    async def _attempt(
        self,
        visit: Visit,
        target: Target,
        asked: Asked,
        gone: "asyncio.Future[None]",
        deadline_s: float,
    ) -> tuple[Answer, str]:
        """One attempt; the answer, and how it failed (empty where it did not)."""
        record, route = visit.record, visit.record.route
        if route is None:
            raise LookupError(record.use_case)
        self._note(visit, target)
        outliers = self._traffic.outliers

        def on_byte() -> None:
            now_s = time.monotonic()
            if record.ttft_s is None:
                record.ttft_s = round(now_s - record.began_s, 6)
            if target.attempt is not None:
                outliers.progressed(target.attempt, now_s)

        exchange = Exchange(
            self._application,
            visit.client,
            stream=asked.stream,
            usage_wanted=asked.usage_wanted,
            on_byte=on_byte,
        )
        body = passed_on(asked, route, asked.use_case, summary=target.is_summary)
        token = TARGET.set(dict(target.deployment))
        task = asyncio.ensure_future(exchange.run(visit.scope, body))
        TARGET.reset(token)
        if target.attempt is not None:
            self._live[id(target)] = (target, task)
        try:
            await asyncio.wait(
                {task, gone},
                timeout=max(0.0, deadline_s - time.monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            return exchange.answer, self._judge(target, exchange.answer, task, gone)
        finally:
            self._live.pop(id(target), None)
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            cost = self._count(record, target, exchange.answer)
            await self._traffic.release(target, cost)

    def end_hung(self) -> None:
        """End attempts at replicas that are silent, so that others are asked; call it often."""
        now_s = time.monotonic()
        outliers = self._traffic.outliers
        for uid, attempts in outliers.hung(now_s).items():
            live = [
                (target, task)
                for target, task in self._live.values()
                if any(target.attempt is attempt for attempt in attempts)
            ]
            for target, _ in live[:1]:
                ready = self._traffic.ready_uids(target.decision.pool)
                outliers.eject_hung(uid, now_s, ready)
            for _, task in live:
                task.cancel()

    def _judge(
        self,
        target: Target,
        answer: Answer,
        task: "asyncio.Task[None]",
        gone: "asyncio.Future[None]",
    ) -> str:
        """How an attempt has failed; empty where it has not.

        Raises:
            ClientGone: the client has.
            Refused: the engine finds fault with the request.
        """
        outliers, attempt = self._traffic.outliers, target.attempt
        now_s = time.monotonic()
        broken = not task.done() or task.cancelled() or task.exception() is not None
        if not broken and answer.good:
            if attempt is not None:
                outliers.succeeded(attempt, now_s)
            return ""
        if gone.done():
            if attempt is not None:
                outliers.abandoned(attempt)
            raise ClientGone
        if not broken and _is_its_fault(answer.status):
            if attempt is not None:
                outliers.succeeded(attempt, now_s)
            raise _fault_of(answer)
        if attempt is not None:
            outliers.failed(attempt, now_s, self._traffic.ready_uids(target.decision.pool))
        if not task.done():
            return "timeout"
        if task.cancelled():
            return "hung"
        return answer.error or f"status {answer.status}"

    def _note(self, visit: Visit, target: Target) -> None:
        """Write down, and tell the client, where the request goes."""
        record, decision = visit.record, target.decision
        record.way, record.reason = decision.way.value, decision.reason
        record.model, record.digest = target.model, target.digest
        record.replica = target.replica.name if target.replica else ""
        record.ttft_s = None
        visit.client.headers |= _headers(record)

    def _count(self, record: Record, target: Target, answer: Answer) -> Decimal | None:
        """Tokens and cost of an attempt; None for a cost that nobody knows."""
        routes = self._traffic.folder.routes()
        record.prompt_tokens = answer.prompt_tokens or 0
        record.output_tokens = (
            answer.parts if answer.output_tokens is None else answer.output_tokens
        )
        record.answer = answer.text
        hosted = routes.use_cases[record.use_case].hosted
        if target.reservation is not None and hosted is not None:
            if answer.prompt_tokens is None:
                return Decimal(0) if answer.status >= _CLIENT_ERROR else None
            record.cost = hosted_cost(hosted, record.prompt_tokens, record.output_tokens)
        elif target.decision.pool in routes.pools:
            price = routes.pools[target.decision.pool].cost_per_million_tokens or Decimal(0)
            record.cost = price * (record.prompt_tokens + record.output_tokens) / _MILLION
        return record.cost

    @staticmethod
    def _refusal(decision: Decision, failure: str) -> Refused:
        if failure:
            return Refused(
                UNAVAILABLE,
                "engine_error",
                "The model does not answer now.",
                retry_after_s=decision.retry_after_s,
                reason=f"{failure}; then {decision.reason}"[:200],
            )
        return Refused(
            TOO_MANY,
            "overloaded",
            f"The model has more to do than it can: {decision.reason}.",
            retry_after_s=decision.retry_after_s,
            reason=decision.reason,
        )

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
            if record.route is not None and record.route.audit_required:
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
        outcome = _outcome(record)
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
        if not record.begun:
            # It was refused before its work began: its record is all there is of it.
            with contextlib.suppress(Refused):
                self._open(record)
        if record.begun:
            # What fails here is tried again by the log itself.
            with contextlib.suppress(Retryable):
                self._log.end(record.request_id, record.closing(self._salt))


def _is_its_fault(status: int) -> bool:
    return _CLIENT_ERROR <= status < _SERVER_ERROR and status not in _NOT_ITS_FAULT


def _headers(record: Record) -> dict[str, str]:
    headers = {"x-gpufleet-route": record.way, "x-gpufleet-reason": record.reason}
    if record.model:
        headers["x-gpufleet-model"] = record.model
    if record.way == Way.SUMMARY:
        headers["x-gpufleet-summary"] = "true"
    return headers


def _outcome(record: Record) -> str:
    if record.status == CLIENT_GONE:
        return "cancelled"
    if record.status == _OK:
        return "error" if record.error else "ok"
    return "error" if record.status >= _SERVER_ERROR else "refused"


def _fault_of(answer: Answer) -> Refused:
    """What the engine says of a request, without whose words they are."""
    try:
        error = json.loads(b"".join(answer.content))["error"]
        message = str(error["message"])
    except (ValueError, KeyError, TypeError):
        message = "The request is not acceptable."
    for marker in ("OpenAIException - ", "Exception - "):
        message = message.rpartition(marker)[2]
    message = message.partition("\n\nLiteLLM: ")[0]
    return Refused(answer.status, "invalid_request", message[:1000])


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
