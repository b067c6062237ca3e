"""The attempts of one request: asking a replica or an API, and another one where that fails."""

import asyncio
import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from gpufleet.core.gateway.ladder import Decision, Way
from gpufleet.core.gateway.outliers import Attempt
from gpufleet.core.gateway.request_body import Asked, passed_on
from gpufleet.spec.gateway import Route
from gpufleet_gateway.answers import (
    TOO_MANY,
    UNAVAILABLE,
    Client,
    ClientGone,
    Receive,
    Refused,
    Scope,
)
from gpufleet_gateway.exchange import Answer, Application, Exchange
from gpufleet_gateway.proxy import REACHED, TARGET, Reached
from gpufleet_gateway.record import Record
from gpufleet_gateway.traffic import Target, Traffic, hosted_cost
from gpufleet_gateway.verdict import CLIENT_ERROR, Ending, Verdict

MOST_ATTEMPTS: Final = 3
TIMED_OUT: Final = 504
_BAD_GATEWAY: Final = 502
_MILLION: Final = 1_000_000
LONGEST_STREAM_S: Final = 600.0
"""Longest time that a stream may go on after its deadline, however well it goes."""
_LET_GO_S: Final = 5.0
"""Longest time that is waited for an attempt that was cancelled."""


@dataclass
class Visit:
    """One request with everything that belongs to it."""

    scope: Scope
    receive: Receive
    client: Client
    record: Record
    asked: Asked | None = None
    counted: list[str] = field(default_factory=list)


class Attempts:
    """Asks until somebody answers.

    Args:
        application: LiteLLM's.
        traffic: of this worker.
    """

    def __init__(self, application: Application, traffic: Traffic) -> None:
        self._application = application
        self._traffic = traffic
        self._live: dict[int, tuple[Target, Client, asyncio.Task[None]]] = {}

    async def run(self, visit: Visit, asked: Asked, route: Route) -> Answer:
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
                    raise _refusal(placed, failure, only_hosted=tried == {Way.HOSTED})
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
            raise Refused(TIMED_OUT, "timeout", message, reason="timeout")
        raise Refused(
            UNAVAILABLE,
            "engine_error",
            "The model does not answer now.",
            retry_after_s=1,
            reason=failure[:200],
        )

    def end_hung(self) -> None:
        """End attempts at replicas that are silent, so that others are asked; call it often."""
        now_s = time.monotonic()
        outliers = self._traffic.outliers
        for uid, attempts in outliers.hung(now_s, self._traffic.stalled_s()).items():
            live = [
                (target, task)
                for target, client, task in self._live.values()
                # A client that does not read makes nobody else silent.
                if not client.sending and any(target.attempt is attempt for attempt in attempts)
            ]
            for target, _ in live[:1]:
                ready = self._traffic.ready_uids(target.decision.pool)
                outliers.eject_hung(uid, now_s, ready)
            for _, task in live:
                task.cancel()

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
            if asked.stream and record.ttft_s is None:
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
        reached = Reached()
        # The task has the context of this moment for good.
        tokens = TARGET.set(dict(target.deployment)), REACHED.set(reached)
        task = asyncio.ensure_future(exchange.run(visit.scope, body))
        TARGET.reset(tokens[0])
        REACHED.reset(tokens[1])
        if target.attempt is not None:
            self._live[id(target)] = (target, visit.client, task)
        try:
            await _until_over(exchange, {task, gone}, deadline_s, route.timeout_s)
            ending = Ending(
                exchange.answer,
                task,
                reached,
                client_gone=gone.done() or visit.client.gone or visit.client.sending,
            )
            return exchange.answer, self._judge(target, ending)
        finally:
            self._live.pop(id(target), None)
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_LET_GO_S)
            cost = self._count(record, target, exchange.answer)
            await self._traffic.release(target, cost)

    def _judge(self, target: Target, ending: Ending) -> str:
        """How an attempt has failed; empty where it has not.

        Raises:
            ClientGone: the client has.
            Refused: the request is at fault.
        """
        verdict = ending.verdict
        if target.attempt is not None:
            self._book(target, target.attempt, verdict)
        if verdict is Verdict.CLIENT_GONE:
            raise ClientGone
        if verdict in {Verdict.AT_FAULT, Verdict.UNSENT}:
            raise ending.fault
        return ending.failure if verdict is Verdict.FAILED else ""

    def _book(self, target: Target, attempt: Attempt, verdict: Verdict) -> None:
        """What an attempt's end says of its target."""
        outliers, now_s = self._traffic.outliers, time.monotonic()
        if verdict in {Verdict.GOOD, Verdict.AT_FAULT}:
            outliers.succeeded(attempt, now_s)
        elif verdict is Verdict.FAILED:
            outliers.failed(attempt, now_s, self._traffic.ready_uids(target.decision.pool))
        else:
            outliers.abandoned(attempt)

    def _note(self, visit: Visit, target: Target) -> None:
        """Write down, and tell the client, where the request goes."""
        record, decision = visit.record, target.decision
        record.way, record.reason = decision.way.value, decision.reason
        record.model, record.digest = target.model, target.digest
        record.replica = target.replica.name if target.replica else ""
        record.ttft_s = None
        visit.client.headers |= headers_of_record(record)

    def _count(self, record: Record, target: Target, answer: Answer) -> Decimal | None:
        """Tokens and cost of an attempt; None for a cost that nobody knows."""
        routes = self._traffic.folder.routes()
        record.prompt_tokens = answer.prompt_tokens or 0
        record.output_tokens = (
            answer.parts if answer.output_tokens is None else answer.output_tokens
        )
        record.answer = answer.text
        hosted = routes.use_cases[record.use_case].hosted
        cost: Decimal | None = Decimal(0)
        if target.reservation is not None and hosted is not None:
            if answer.prompt_tokens is not None:
                cost = hosted_cost(hosted, record.prompt_tokens, record.output_tokens)
            elif answer.status < CLIENT_ERROR:
                cost = None if answer.parts else target.cost_unanswered
        elif target.decision.pool in routes.pools:
            price = routes.pools[target.decision.pool].cost_per_million_tokens or Decimal(0)
            cost = price * (record.prompt_tokens + record.output_tokens) / _MILLION
        record.cost += cost or Decimal(0)
        return cost


def _refusal(decision: Decision, failure: str, *, only_hosted: bool) -> Refused:
    if failure and not only_hosted:
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


def headers_of_record(record: Record) -> dict[str, str]:
    """What an answer's headers say of where it came from."""
    headers = {"x-gpufleet-route": record.way, "x-gpufleet-reason": record.reason}
    if record.model:
        headers["x-gpufleet-model"] = record.model
    if record.way == Way.SUMMARY:
        headers["x-gpufleet-summary"] = "true"
    return headers


async def _until_over(
    exchange: Exchange, waited_for: set["asyncio.Future[None]"], deadline_s: float, timeout_s: float
) -> None:
    """Until an attempt has ended, its client has gone or its time is over.

    A stream that its client reads already cannot be asked for elsewhere: slow is better than broken
    off. Its deadline moves on with each part.
    """
    ends_s = deadline_s
    while True:
        left_s = max(0.0, ends_s - time.monotonic())
        done, _ = await asyncio.wait(
            waited_for, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
        )
        if done or exchange.passed_on_s is None:
            return
        moved_s = min(exchange.passed_on_s + timeout_s, deadline_s + LONGEST_STREAM_S)
        if moved_s <= ends_s:
            return
        ends_s = moved_s


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
