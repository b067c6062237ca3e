"""A replica's continuous batching, event by event, with the time passed in.

The same formula and the same order as the capacity model's simulator: decoding goes on in every
step, prompts are prefilled in chunks with the tokens that the step has left, in the order of
arrival; whoever finds no place waits, first in first out. Between two events the batch is the same
and each step takes longer than the one before by what the new tokens add to the KV cache, so that
one event stands for many steps.

As in vLLM, and unlike the simulator, a request gets its place where the KV cache has room for its
prompt alone. When the cache runs over, whoever came last gives its place back, and is computed
again from its prompt and what it has answered so far.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from gpufleet.core.capacity.replica import ReplicaSpeed
from gpufleet.local.engine.steps import NEVER, Steps


class State(IntEnum):
    """Where a request is."""

    ENTERING = 0
    """Outside the steps: network, tokenizer."""
    WAITING = 1
    PREFILLING = 2
    DECODING = 3
    ENDED = 4


@dataclass(eq=False)
class Job:
    """One request; times in the clock of whoever passes the time, s."""

    prompt_tokens: int
    output_tokens: int
    state: State = State.ENTERING
    arrival_s: float = 0.0
    scheduled_s: float = math.nan
    """Begin of the first step that works on it."""
    first_token_s: float = math.nan
    end_s: float = math.nan
    produced: int = 0
    """Tokens of the answer until it joined the decoding; `Batch.tokens_of` tells how many now."""
    prefilled: int = 0
    joined: int = 0
    preemptions: int = 0

    @property
    def cached(self) -> int:
        """Tokens that stand in the KV cache when it begins to decode."""
        return self.prompt_tokens + self.produced

    @property
    def is_running(self) -> bool:
        """Whether it has a place in the batch."""
        return self.state in {State.PREFILLING, State.DECODING}


class Pace(NamedTuple):
    """Steps of one length: what a histogram of the time between tokens is told."""

    step_s: float
    tokens: int


@dataclass(eq=False)
class Batch:
    """The requests of one replica.

    Whoever uses it calls `advance` at or after `next_s`; every other call does so first.
    """

    speed: ReplicaSpeed
    concurrency_limit: int
    """At most that of the speed."""
    slowdown: float = 1.0
    """Factor on every step that begins from now on."""
    preempted: int = 0
    """Requests that gave their place back."""
    paces: list[Pace] = field(default_factory=list)
    """Since the reader took them."""
    _made: int = 0
    """Tokens of the steps that were counted."""
    _entering: deque[tuple[float, Job]] = field(default_factory=deque)
    _waiting: deque[Job] = field(default_factory=deque)
    _prefilling: list[Job] = field(default_factory=list)
    _decoding: list[Job] = field(default_factory=list)
    _steps: Steps = field(default_factory=Steps)
    _prefills: bool = False
    _generated: int = 0
    _context: int = 0
    _reserved: int = 0
    _hangs_since: float | None = None

    @property
    def running(self) -> int:
        """Requests that have a place."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def waiting(self) -> int:
        """Requests that wait for one, or are on their way to the queue."""
        return len(self._waiting) + len(self._entering)

    @property
    def hangs(self) -> bool:
        """Whether nothing goes on."""
        return self._hangs_since is not None

    def kv_tokens(self, now_s: float) -> int:
        """Tokens in the KV cache."""
        return self._context + self._reserved + len(self._decoding) * self._steps_done(now_s)

    def tokens_made(self, now_s: float) -> int:
        """Tokens of all answers by now."""
        return self._made + len(self._decoding) * self._steps_done(now_s)

    def kv_usage(self, now_s: float) -> float:
        """Share of the KV cache that is used."""
        return min(1.0, self.kv_tokens(now_s) / self.speed.kv_capacity_tokens)

    @property
    def next_s(self) -> float:
        """When something happens next; `NEVER` where nothing does."""
        if self._hangs_since is not None:
            return NEVER
        entry_s = self._entering[0][0] if self._entering else NEVER
        return min(entry_s, self._steps.end_s)

    def submit(self, job: Job, now_s: float) -> list[Job]:
        """A request arrives; returns what `advance` does.

        Raises:
            ValueError: it can never have room.
        """
        if job.prompt_tokens + job.output_tokens > self.speed.kv_capacity_tokens:
            raise ValueError("the KV cache is smaller than the request")
        changed = self.advance(now_s)
        job.arrival_s = now_s
        self._entering.append((now_s + self.speed.first_token_s * self.slowdown, job))
        return changed + self.advance(now_s)

    def cancel(self, job: Job, now_s: float) -> list[Job]:
        """A request goes away; its place is free. Returns what `advance` does."""
        changed = self.advance(now_s)
        if job.state is State.ENTERING:
            self._entering = deque(entry for entry in self._entering if entry[1] is not job)
        elif job.state is State.WAITING:
            self._waiting.remove(job)
        elif job.state is State.PREFILLING:
            self._prefilling.remove(job)
            self._reserved -= job.cached
        elif job.state is State.DECODING:
            self._settle(now_s)
            job.produced = self.tokens_of(job, now_s)
            self._context -= job.cached
            self._decoding.remove(job)
        if job.state is not State.ENDED:
            job.state = State.ENDED
            job.end_s = now_s
            self._interrupt(now_s)
        return changed

    def slow_down(self, factor: float, now_s: float) -> list[Job]:
        """Every step takes so many times as long from the next one on."""
        changed = self.advance(now_s)
        self._interrupt(now_s)
        self.slowdown = factor
        return changed

    def hang(self, now_s: float) -> list[Job]:
        """Nothing goes on from now; what runs keeps its place."""
        changed = self.advance(now_s)
        if self._hangs_since is None:
            self._hangs_since = now_s
        return changed

    def go_on(self, now_s: float) -> None:
        """As if no time had passed since it hung."""
        if self._hangs_since is not None:
            passed_s = now_s - self._hangs_since
            self._hangs_since = None
            self._steps.begin_s += passed_s
            self._entering = deque((max(at_s, now_s), job) for at_s, job in self._entering)

    def tokens_of(self, job: Job, now_s: float) -> int:
        """Tokens that a request's answer has by now."""
        if job.state is not State.DECODING:
            return job.produced
        return job.produced + self._generated - job.joined + self._steps_done(now_s)

    def token_due_s(self, after_s: float) -> float:
        """When the first step at or after a moment ends, as far as it is known."""
        if not self._steps.count or self.hangs:
            return NEVER
        return self._steps.at_s(self._steps.until(after_s))

    def advance(self, now_s: float) -> list[Job]:
        """Let everything happen until now.

        Returns:
            The requests that got their first token, or ended, in the order of time.
        """
        changed: list[Job] = []
        while self.next_s <= now_s:
            end_s = self._steps.end_s
            if not self._entering or end_s <= self._entering[0][0]:
                changed += self._end_steps(end_s)
            else:
                at_s, job = self._entering.popleft()
                self._enter(job, at_s)
        return changed

    def _enter(self, job: Job, now_s: float) -> None:
        job.state = State.WAITING
        self._waiting.append(job)
        if not self._steps.count:
            self._start(now_s)
        elif not self._prefills and self._fits(self._waiting[0]):
            self._interrupt(now_s)

    def _interrupt(self, now_s: float) -> None:
        """The step that runs is the last of its kind."""
        if self._steps.count and not self._prefills:
            self._steps.count = self._steps.until(self._lived_s(now_s))

    def _settle(self, now_s: float) -> None:
        """Count the steps that have ended, so that only the one that runs is left to come."""
        done = self._steps_done(now_s)
        if done:
            self._count(done)
            self._steps.drop(done)

    def _steps_done(self, now_s: float) -> int:
        """Steps of those that run that have ended."""
        return self._steps.done(self._lived_s(now_s))

    def _lived_s(self, now_s: float) -> float:
        """Now, or since when it hangs."""
        return now_s if self._hangs_since is None else min(now_s, self._hangs_since)

    def _count(self, steps: int) -> None:
        tokens = steps * len(self._decoding)
        self._generated += steps
        self._context += tokens
        self._made += tokens
        if tokens:
            self.paces.append(Pace(self._steps.takes_s(steps) / steps, tokens))

    def _end_steps(self, now_s: float) -> list[Job]:
        """The steps end: last tokens, first tokens, and whoever waited moves up."""
        self._count(self._steps.count)
        self._steps.count = 0
        changed = [
            job
            for job in self._decoding
            if job.produced + self._generated - job.joined >= job.output_tokens
        ]
        for job in changed:
            job.produced = job.output_tokens
            self._context -= job.cached
            self._decoding.remove(job)
            self._finish(job, now_s)
        while self._prefills and self._prefilling:
            job = self._prefilling[0]
            if job.prefilled < job.cached:
                break
            changed.append(job)
            self._join(self._prefilling.pop(0), now_s)
        self._start(now_s)
        return changed

    def _join(self, job: Job, now_s: float) -> None:
        """A prompt's last chunk has given a token."""
        self._reserved -= job.cached
        job.produced += 1
        self._made += 1
        if math.isnan(job.first_token_s):
            job.first_token_s = now_s
        if job.produced >= job.output_tokens:
            self._finish(job, now_s)
            return
        job.state = State.DECODING
        job.joined = self._generated
        self._context += job.cached
        self._decoding.append(job)

    @staticmethod
    def _finish(job: Job, now_s: float) -> None:
        job.state = State.ENDED
        job.end_s = now_s

    def _fits(self, job: Job) -> bool:
        """Whether there is a place, and KV cache for its prompt and the next step's tokens."""
        needed = self._context + self._reserved + job.cached + self.running + 1
        fits = needed <= self.speed.kv_capacity_tokens or not self.running
        return self.running < self.concurrency_limit and fits

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0]):
            job = self._waiting.popleft()
            job.state = State.PREFILLING
            job.prefilled = 0
            self._reserved += job.cached
            self._prefilling.append(job)

    def _make_room(self) -> bool:
        """Take places away until the next step's tokens have room; whether any was taken."""
        before = self.preempted
        while (
            self._context + self._reserved + self.running > self.speed.kv_capacity_tokens
            and self.running > 1
        ):
            self._preempt(max((*self._decoding, *self._prefilling), key=_came))
        return self.preempted > before

    def _preempt(self, job: Job) -> None:
        if job.state is State.DECODING:
            job.produced += self._generated - job.joined
            self._context -= job.cached
            self._decoding.remove(job)
        else:
            self._reserved -= job.cached
            self._prefilling.remove(job)
        job.state = State.WAITING
        job.preemptions += 1
        self.preempted += 1
        self._waiting.appendleft(job)

    def _start(self, now_s: float) -> None:
        """Begin the next steps, or rest."""
        if not self._make_room():
            self._admit()
        self._prefills = bool(self._prefilling)
        count = len(self._decoding)
        step_s = self.speed.decode_s[count] + self.speed.kv_token_s * self._context
        if self._prefilling:
            step_s += self._prefill_s(now_s)
            self._steps = Steps(now_s, 1, step_s * self.slowdown)
        elif count:
            room = self.speed.kv_capacity_tokens - self._context
            number = max(1, min(self._until_last_token(), room // count))
            growth_s = self.speed.kv_token_s * count * self.slowdown
            self._steps = Steps(now_s, number, step_s * self.slowdown, growth_s)
        else:
            self._steps = Steps(now_s)

    def _until_last_token(self) -> int:
        """Steps until the first of the decoding ends."""
        return min(
            job.output_tokens - job.produced - self._generated + job.joined
            for job in self._decoding
        )

    def _prefill_s(self, now_s: float) -> float:
        """Seconds that the chunks of a step add to it."""
        speed, seconds = self.speed, 0.0
        budget = max(1, speed.chunk_tokens - len(self._decoding))
        for job in self._prefilling:
            if math.isnan(job.scheduled_s):
                job.scheduled_s = now_s
            before = job.prefilled
            tokens = min(job.cached - before, budget)
            seconds += speed.prefill_token_s * tokens
            seconds += speed.attention_s * tokens * (before + 0.5 * tokens)
            job.prefilled = before + tokens
            budget -= tokens
            if not budget:
                break
        return seconds


def _came(job: Job) -> float:
    return job.arrival_s
