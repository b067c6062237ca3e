"""One life of a simulated engine: its batch in real time, its series, and who waits for what."""

import asyncio
import math
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from gpufleet.core import engine_metrics as names
from gpufleet.local.engine.answers import Answer, Envelope, answer_to
from gpufleet.local.engine.asked import Asked
from gpufleet.local.engine.batching import Batch, Job, State
from gpufleet.local.engine.faults import Faults
from gpufleet.local.engine.series import Series
from gpufleet.local.engine.settings import EngineSettings
from gpufleet.spec.simulation import FaultKind


@dataclass(eq=False)
class Ticket:
    """A request that is being answered."""

    job: Job
    answer: Answer
    envelope: Envelope
    ended: asyncio.Future[None]
    first: asyncio.Future[None]
    wake: asyncio.Future[None] | None = field(default=None)
    """Who sleeps until the next part of a stream is due."""

    @property
    def is_over(self) -> bool:
        """Whether its last token was produced."""
        return self.ended.done()


class Engine:
    """Runs in one event loop, and wakes only when something happens that somebody can see."""

    def __init__(self, settings: EngineSettings, faults: Faults) -> None:
        limit = min(settings.concurrency_limit, settings.spec.speed.concurrency_limit)
        self.settings = settings
        self.faults = faults
        self.batch = Batch(settings.spec.speed, limit, faults.slowdown)
        self.series = Series()
        self.draining = False
        self._loop = asyncio.get_running_loop()
        self._tickets: dict[Job, Ticket] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._going_on = asyncio.Event()
        self._idle = asyncio.Event()
        self._going_on.set()
        self._idle.set()

    @property
    def context_tokens(self) -> int:
        """Longest prompt and answer together; never more than the KV cache holds."""
        return min(self.settings.context_tokens, self.settings.spec.speed.kv_capacity_tokens)

    def submit(self, asked: Asked) -> Ticket:
        """Begin to answer."""
        variant = "changed" if self.faults.strikes(FaultKind.ANSWERS) else ""
        answer = answer_to(asked, self.settings.digest, self.settings.spec.lengths, variant)
        kind = "chatcmpl" if asked.is_chat else "cmpl"
        ticket = Ticket(
            Job(asked.prompt_tokens, len(answer.tokens)),
            answer,
            Envelope(asked, f"{kind}-{uuid.uuid4().hex}", self.settings.model, int(time.time())),
            self._loop.create_future(),
            self._loop.create_future(),
        )
        self._tickets[ticket.job] = ticket
        self._idle.clear()
        self._tell(self.batch.submit(ticket.job, self._loop.time()))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Whoever asked is gone; does nothing once the answer is there."""
        if self._tickets.pop(ticket.job, None):
            self.series.finished["abort"] += 1
            self._tell(self.batch.cancel(ticket.job, self._loop.time()))

    def tokens_of(self, ticket: Ticket) -> int:
        """Tokens of the answer by now."""
        return self.batch.tokens_of(ticket.job, self._loop.time())

    async def more(self, ticket: Ticket, after_s: float) -> None:
        """Wait until the answer has another token, not before a moment, or is over.

        What the batch does may move that token: then there is none yet when this returns.
        """
        if ticket.is_over:
            return
        ticket.wake = self._loop.create_future()
        due_s = self.batch.token_due_s(after_s)
        timer = None if math.isinf(due_s) else self._loop.call_at(due_s, _wake, ticket.wake)
        try:
            await ticket.wake
        finally:
            ticket.wake = None
            if timer:
                timer.cancel()

    async def healthy(self) -> None:
        """Wait until the engine's loop goes on: at once where it does not hang."""
        await self._going_on.wait()

    async def idle(self) -> None:
        """Wait until no request is left."""
        await self._idle.wait()

    def hang(self) -> None:
        """Nothing goes on from now."""
        self._going_on.clear()
        self._tell(self.batch.hang(self._loop.time()))

    def go_on(self) -> None:
        """As before it hung."""
        self.batch.go_on(self._loop.time())
        self._going_on.set()
        self._tell([])
        self._wake_streams()

    def take_speed(self) -> None:
        """From the faults, which have changed."""
        self._tell(self.batch.slow_down(self.faults.slowdown, self._loop.time()))

    def exposition(self) -> str:
        """Its series as text."""
        now_s = self._loop.time()
        if not self.batch.hangs:
            self._tell(self.batch.advance(now_s))
        gauges = {
            names.RUNNING: self.batch.running,
            names.WAITING: self.batch.waiting,
            names.KV_USAGE: round(self.batch.kv_usage(now_s), 6),
        }
        return self.series.text(
            self.settings.model,
            gauges=gauges,
            preemptions=self.batch.preempted,
            generation_tokens=self.batch.tokens_made(now_s),
            version=self.settings.metric_names,
        )

    def end(self) -> None:
        """Its process is gone."""
        if self._timer:
            self._timer.cancel()
        self._tickets.clear()

    def _tick(self, due_s: float) -> None:
        # The loop's timers may come a clock tick early.
        self._timer = None
        self._tell(self.batch.advance(max(due_s, self._loop.time())))

    def _tell(self, changed: Iterable[Job]) -> None:
        """Whoever waits for what has happened; and be back when more does."""
        for job in changed:
            if ticket := self._tickets.get(job):
                self._count(ticket)
        for pace in self.batch.paces:
            self.series.token_time.observe(pace.step_s, pace.tokens)
        self.batch.paces.clear()
        if not self._tickets:
            self._idle.set()
        if self._timer:
            self._timer.cancel()
        due_s = self.batch.next_s
        self._timer = None if math.isinf(due_s) else self._loop.call_at(due_s, self._tick, due_s)

    def _count(self, ticket: Ticket) -> None:
        job, series = ticket.job, self.series
        if not ticket.first.done():
            series.ttft.observe(job.first_token_s - job.arrival_s)
            series.prompt_tokens += job.prompt_tokens
            _wake(ticket.first)
        if job.state is State.ENDED:
            del self._tickets[job]
            series.e2e.observe(job.end_s - job.arrival_s)
            series.queue_time.observe(job.scheduled_s - job.arrival_s)
            series.prefill_time.observe(job.first_token_s - job.scheduled_s)
            series.decode_time.observe(job.end_s - job.first_token_s)
            series.finished[ticket.answer.finish_reason] += 1
            _wake(ticket.ended)
            _wake(ticket.wake)

    def _wake_streams(self) -> None:
        for ticket in self._tickets.values():
            _wake(ticket.wake)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future and not future.done():
        future.set_result(None)
