"""The compiled part of the simulator: a pool of replicas, event by event.

Between two events the batch of a replica is the same, and each decode step takes longer than the
one before by what the new tokens add to the KV cache: an arithmetic series, so that one event
stands for many steps. Only steps that prefill are events of their own.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar, cast

import numba
import numpy as np

from gpufleet.core.capacity.requests import FAILED, SERVED, SHED, Floats, Integers

Compiled = TypeVar("Compiled", bound=Callable[..., Any])
Records = Any
"""A structured array; numba reads fields as attributes, numpy's types do not."""

AWAY, QUEUED, PREFILLING, DECODING, ENDED = 0, 1, 2, 3, 4
_NOBODY: Final = -1

REPLICA: Final = np.dtype(
    [
        ("begin_s", np.float64),  # of the steps that run
        ("first_step_s", np.float64),
        ("growth_s", np.float64),  # that each step takes longer than the one before
        ("busy_s", np.float64),
        ("context", np.float64),  # tokens of the decoding sequences
        ("steps", np.int64),  # that run
        ("generated", np.int64),  # steps since the begin
        ("reserved", np.int64),  # tokens of the KV cache that are promised
        ("decoding", np.int64),
        ("prefilling", np.int64),
        ("ring_head", np.int64),
        ("queued", np.int64),
        ("queue_head", np.int64),
        ("queue_tail", np.int64),
        ("prefills", np.bool_),  # whether the step that runs does
    ]
)
REQUEST: Final = np.dtype(
    [
        ("next", np.int32),
        ("previous", np.int32),
        ("replica", np.int32),
        ("prefilled", np.int32),
        ("tries", np.int32),
        ("state", np.int32),
    ]
)

TURN: Final = np.dtype([("time_s", np.float64), ("request", np.int32), ("tries", np.int32)])


class Engine(NamedTuple):
    """A replica's speed and what the pool accepts, as `ReplicaSpeed` and `Limits` define them."""

    decode_s: Floats
    kv_token_s: float
    prefill_token_s: float
    attention_s: float
    first_token_s: float
    kv_capacity_tokens: int
    chunk_tokens: int
    queue_limit: int
    timeout_s: float
    retries: int
    retry_after_s: float


class State(NamedTuple):
    """Everything that changes while the pool runs; `R` replicas, `C` in flight, `N` requests."""

    replicas: Records
    end_s: Floats
    """When the steps of each replica end, padded to a power of two."""
    load: Integers
    """Requests at each replica, in flight and queued, padded likewise."""
    by_end: Integers
    by_load: Integers
    """Tournament trees of the two."""
    due: Integers
    who: Integers
    """(R, C): heaps of the decoding sequences by the step that gives their last token."""
    ring: Integers
    """(R, C): rings of the sequences that are prefilled, in their order."""
    arrival_s: Floats
    prompt: Integers
    output: Integers
    requests: Records
    status: Integers
    e2e_s: Floats
    ttft_s: Floats
    wait_s: Floats


class Line(NamedTuple):
    """A ring of those who come up after one constant time, and so first in, first out."""

    turns: Records
    span: Integers
    """Index of the first, and how many there are."""


class Lines(NamedTuple):
    """Who comes back, and who loses patience."""

    again: Line
    """Who tries again."""
    patience: Line
    """Who gives up then, if it still waits in that try."""


def _part(function: Compiled) -> Compiled:
    """Compiled into whoever calls it."""
    made: Any = numba.njit(nogil=True)(function)
    return cast("Compiled", made)


def _kept(function: Compiled) -> Compiled:
    """Compiled once for this machine, or once for each process where nothing can be written.

    Numba keeps it beside this file, or in the user's cache folder, or in NUMBA_CACHE_DIR.
    """
    try:
        made: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return _part(function)
    return cast("Compiled", made)


@_part
def _update(tree: Integers, keys: Any, leaf: int) -> None:  # noqa: ANN401 - floats or integers
    """Play a leaf's way to the root again; of equals the lower index wins."""
    node = (leaf + len(keys)) >> 1
    while node >= 1:
        left, right = tree[2 * node], tree[2 * node + 1]
        tree[node] = left if keys[left] <= keys[right] else right
        node >>= 1


@_part
def _first_s(line: Line) -> float:
    return line.turns[line.span[0]].time_s if line.span[1] else np.inf


@_part
def _put(line: Line, time_s: float, request: int, tries: int) -> None:
    turn = line.turns[(line.span[0] + line.span[1]) % len(line.turns)]
    turn.time_s, turn.request, turn.tries = time_s, request, tries
    line.span[1] += 1


@_part
def _take(line: Line) -> tuple[int, int]:
    """The first: request, and its number of tries then."""
    head = line.span[0]
    line.span[0] = (head + 1) % len(line.turns)
    line.span[1] -= 1
    return line.turns[head].request, line.turns[head].tries


@_part
def _push(due: Integers, who: Integers, size: int, step: int, request: int) -> None:
    """Add to a heap that has `size` entries."""
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if due[parent] <= step:
            break
        due[at], who[at] = due[parent], who[parent]
        at = parent
    due[at], who[at] = step, request


@_part
def _pop(due: Integers, who: Integers, size: int) -> int:
    """Take the first entry of a heap that has `size` entries."""
    first = who[0]
    step, request = due[size - 1], who[size - 1]
    last = size - 1
    at = 0
    while True:
        child = 2 * at + 1
        if child >= last:
            break
        if child + 1 < last and due[child + 1] < due[child]:
            child += 1
        if due[child] >= step:
            break
        due[at], who[at] = due[child], who[child]
        at = child
    due[at], who[at] = step, request
    return int(first)


@_part
def _series_s(first_step_s: float, growth_s: float, steps: int) -> float:
    """Seconds of steps, each of which takes longer than the one before by `growth_s`."""
    return steps * first_step_s + growth_s * (0.5 * steps * (steps - 1))


@_part
def _steps_until(first_step_s: float, growth_s: float, seconds: float, most: int) -> int:
    """The fewest steps that take at least `seconds`, from 1 to `most`."""
    if seconds <= first_step_s:
        return 1
    if growth_s > 0.0:
        linear = first_step_s / growth_s - 0.5
        guess = np.sqrt(linear * linear + 2.0 * seconds / growth_s) - linear
    else:
        guess = seconds / first_step_s
    steps = max(1, min(most, int(guess)))
    while steps < most and _series_s(first_step_s, growth_s, steps) < seconds:
        steps += 1
    while steps > 1 and _series_s(first_step_s, growth_s, steps - 1) >= seconds:
        steps -= 1
    return steps


@_part
def _fits(engine: Engine, state: State, at: int, request: int) -> bool:
    """Whether a replica has a place, and KV cache for the whole answer."""
    replica = state.replicas[at]
    needed = state.prompt[request] + state.output[request]
    in_flight = replica.decoding + replica.prefilling
    return bool(
        in_flight < len(engine.decode_s) - 1
        and replica.reserved + needed <= engine.kv_capacity_tokens
    )


@_part
def _admit(state: State, at: int, request: int) -> None:
    """Give a request its place: it is prefilled from the next step on."""
    replica = state.replicas[at]
    width = state.ring.shape[1]
    state.ring[at, (replica.ring_head + replica.prefilling) % width] = request
    replica.prefilling += 1
    replica.reserved += state.prompt[request] + state.output[request]
    state.requests[request].prefilled = 0
    state.requests[request].state = PREFILLING


@_part
def _enqueue(state: State, at: int, request: int) -> None:
    replica, mine = state.replicas[at], state.requests[request]
    mine.state = QUEUED
    mine.next = mine.previous = _NOBODY
    if replica.queued:
        mine.previous = replica.queue_tail
        state.requests[replica.queue_tail].next = request
    else:
        replica.queue_head = request
    replica.queue_tail = request
    replica.queued += 1


@_part
def _unqueue(state: State, at: int, request: int) -> None:
    """Take a request out of a queue, wherever it stands in it."""
    replica, mine = state.replicas[at], state.requests[request]
    if mine.previous == _NOBODY:
        replica.queue_head = mine.next
    else:
        state.requests[mine.previous].next = mine.next
    if mine.next == _NOBODY:
        replica.queue_tail = mine.previous
    else:
        state.requests[mine.next].previous = mine.previous
    replica.queued -= 1


@_part
def _unprefill(state: State, at: int, request: int) -> None:
    """Take a request out of a ring, wherever it stands in it."""
    replica = state.replicas[at]
    width = state.ring.shape[1]
    found = False
    for index in range(replica.prefilling):
        here = (replica.ring_head + index) % width
        if found:
            state.ring[at, (here - 1) % width] = state.ring[at, here]
        found = found or state.ring[at, here] == request
    replica.prefilling -= 1
    replica.reserved -= state.prompt[request] + state.output[request]


@_part
def _finish(engine: Engine, state: State, at: int, request: int, now: float) -> None:
    """A request's last token: it leaves its place."""
    state.replicas[at].reserved -= state.prompt[request] + state.output[request]
    state.load[at] -= 1
    state.requests[request].state = ENDED
    state.status[request] = SERVED
    state.e2e_s[request] = now - state.arrival_s[request] + engine.first_token_s


@_part
def _start(engine: Engine, state: State, at: int, now: float) -> None:
    """Begin the next steps of a replica, or let it rest."""
    replica = state.replicas[at]
    replica.begin_s = now
    step_s = engine.decode_s[replica.decoding] + engine.kv_token_s * replica.context
    if replica.prefilling:
        budget = max(1, engine.chunk_tokens - replica.decoding)
        width = state.ring.shape[1]
        for index in range(replica.prefilling):
            request = state.ring[at, (replica.ring_head + index) % width]
            before = state.requests[request].prefilled
            tokens = min(state.prompt[request] - before, budget)
            if before == 0:
                state.wait_s[request] = now - state.arrival_s[request]
            step_s += engine.prefill_token_s * tokens
            step_s += engine.attention_s * tokens * (before + 0.5 * tokens)
            state.requests[request].prefilled = before + tokens
            budget -= tokens
            if budget == 0:
                break
        replica.prefills = True
        replica.steps = 1
        replica.first_step_s = step_s
        replica.growth_s = 0.0
        state.end_s[at] = now + step_s
    elif replica.decoding:
        replica.prefills = False
        replica.steps = state.due[at, 0] - replica.generated
        replica.first_step_s = step_s
        replica.growth_s = engine.kv_token_s * replica.decoding
        state.end_s[at] = now + _series_s(step_s, replica.growth_s, replica.steps)
    else:
        replica.steps = 0
        state.end_s[at] = np.inf


@_part
def _end_steps(engine: Engine, state: State, at: int, now: float) -> None:
    """The steps of a replica end: last tokens, first tokens, and whoever waited moves up."""
    replica = state.replicas[at]
    first_s, last_s = state.arrival_s[0], state.arrival_s[-1]
    replica.busy_s += max(0.0, min(now, last_s) - max(replica.begin_s, first_s))
    replica.generated += replica.steps
    replica.context += replica.steps * replica.decoding
    due, who = state.due[at], state.who[at]
    while replica.decoding and due[0] <= replica.generated:
        request = _pop(due, who, replica.decoding)
        replica.decoding -= 1
        replica.context -= state.prompt[request] + state.output[request]
        _finish(engine, state, at, request, now)
    width = state.ring.shape[1]
    while replica.prefills and replica.prefilling:
        request = state.ring[at, replica.ring_head]
        if state.requests[request].prefilled < state.prompt[request]:
            break
        replica.ring_head = (replica.ring_head + 1) % width
        replica.prefilling -= 1
        state.ttft_s[request] = now - state.arrival_s[request] + engine.first_token_s
        if state.output[request] == 1:
            _finish(engine, state, at, request, now)
            continue
        state.requests[request].state = DECODING
        last = replica.generated + state.output[request] - 1
        _push(due, who, replica.decoding, last, request)
        replica.decoding += 1
        replica.context += state.prompt[request] + 1
    while replica.queued and _fits(engine, state, at, replica.queue_head):
        request = replica.queue_head
        _unqueue(state, at, request)
        _admit(state, at, request)
    _start(engine, state, at, now)
    _update(state.by_end, state.end_s, at)
    _update(state.by_load, state.load, at)


@_part
def _arrive(engine: Engine, state: State, request: int, now: float) -> bool:
    """Route a request to the replica with the fewest; False where its queue is full."""
    at = state.by_load[1]
    replica = state.replicas[at]
    if replica.queued == 0 and _fits(engine, state, at, request):
        _admit(state, at, request)
        if replica.steps == 0:
            _start(engine, state, at, now)
        elif not replica.prefills:
            # The step that runs ends before the prompt is prefilled.
            passed_s = now - replica.begin_s
            growth_s, step_s = replica.growth_s, replica.first_step_s
            replica.steps = _steps_until(step_s, growth_s, passed_s, replica.steps)
            end_s = replica.begin_s + _series_s(step_s, growth_s, replica.steps)
            state.end_s[at] = max(now, end_s)
        _update(state.by_end, state.end_s, at)
    elif replica.queued < engine.queue_limit:
        _enqueue(state, at, request)
    else:
        return False
    state.requests[request].replica = at
    state.load[at] += 1
    _update(state.by_load, state.load, at)
    return True


@_part
def _give_up(state: State, request: int) -> None:
    """A request that still waits for its first token leaves its replica."""
    at = state.requests[request].replica
    if state.requests[request].state == QUEUED:
        _unqueue(state, at, request)
    else:
        _unprefill(state, at, request)
    state.requests[request].state = AWAY
    state.load[at] -= 1
    _update(state.by_load, state.load, at)


@_part
def _lost(engine: Engine, state: State, lines: Lines, request: int, now: float) -> bool:
    """Whether that was all for a request that was shed or gave up; else it comes again."""
    if state.requests[request].tries >= engine.retries:
        return True
    state.requests[request].tries += 1
    _put(lines.again, now + engine.retry_after_s, request, 0)
    return False


@_part
def _try(engine: Engine, state: State, lines: Lines, request: int, now: float) -> None:
    """A request comes, for the first time or again."""
    if state.prompt[request] + state.output[request] > engine.kv_capacity_tokens:
        state.status[request] = FAILED
    elif not _arrive(engine, state, request, now):
        if _lost(engine, state, lines, request, now):
            state.status[request] = SHED
    elif engine.timeout_s < np.inf:
        patience_s = max(0.0, engine.timeout_s - engine.first_token_s)
        _put(lines.patience, now + patience_s, request, state.requests[request].tries)


@_part
def _time_out(engine: Engine, state: State, lines: Lines, now: float) -> None:
    """The first of those who wait has waited long enough, unless it has its first token."""
    request, tries = _take(lines.patience)
    mine = state.requests[request]
    waits = mine.state == QUEUED or mine.state == PREFILLING  # noqa: PLR1714 - compiled
    if mine.tries == tries and waits:
        _give_up(state, request)
        if _lost(engine, state, lines, request, now):
            state.status[request] = FAILED


@_kept
def run(engine: Engine, state: State, lines: Lines) -> None:
    """Run the pool until every request has ended.

    At one moment replicas go first, then time-outs, retries and arrivals.

    Args:
        engine: what does not change.
        state: what does; its outcome arrays are the result.
        lines: empty, with room for all.
    """
    count = len(state.arrival_s)
    arrived = 0
    while True:
        arrival_s = state.arrival_s[arrived] if arrived < count else np.inf
        retry_s, time_out_s = _first_s(lines.again), _first_s(lines.patience)
        end_s = state.end_s[state.by_end[1]]
        now = min(arrival_s, retry_s, time_out_s, end_s)
        if now == np.inf:
            break
        if end_s == now:
            _end_steps(engine, state, state.by_end[1], now)
        elif time_out_s == now:
            _time_out(engine, state, lines, now)
        elif retry_s == now:
            request, _ = _take(lines.again)
            _try(engine, state, lines, request, now)
        else:
            _try(engine, state, lines, arrived, now)
            arrived += 1
