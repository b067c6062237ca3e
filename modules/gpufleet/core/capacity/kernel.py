"""The compiled part of the simulator: a pool of replicas, event by event.

Between two events the batch of a replica is the same, and each decode step takes longer than the
one before by what the new tokens add to the KV cache: an arithmetic series, so that one event
stands for many steps. Only steps that prefill are events of their own.

All of it is one file, because numba looks at this file alone to tell whether what it kept is stale.
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
        ("arrival_s", np.float64),
        ("e2e_s", np.float64),
        ("ttft_s", np.float64),
        ("wait_s", np.float64),
        ("prompt", np.int32),
        ("output", np.int32),
        ("prefilled", np.int32),
        ("next", np.int32),
        ("previous", np.int32),
        ("replica", np.int32),
        ("tries", np.int32),
        ("state", np.int16),
        ("status", np.int16),
    ]
)
SLOT: Final = np.dtype(
    [
        ("due", np.int64),  # of a heap of the decoding: the step that gives the last token
        ("who", np.int32),  # of the same heap: the request
        ("ring", np.int32),  # of a ring of the requests that are prefilled, in their order
    ]
)
LEAF: Final = np.dtype(
    [
        ("end_s", np.float64),  # of the steps that run
        ("load", np.int64),  # requests in flight and queued
    ]
)
TURN: Final = np.dtype([("time_s", np.float64), ("request", np.int64)])


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
    """Everything that changes while the pool runs; `R` replicas, `C` in flight, `N` requests.

    Few arrays of records: what is needed together lies together, and calls pass little.
    """

    replicas: Records
    """(R,) of `REPLICA`."""
    slots: Records
    """(R, C) of `SLOT`."""
    leaves: Records
    """Of `LEAF`, one for each replica, padded to a power of two."""
    by_end: Integers
    by_load: Integers
    """Tournament trees of the leaves."""
    requests: Records
    """(N,) of `REQUEST`."""


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
    """Who gives up then, if it still waits."""


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
def _update_end(state: State, leaf: int) -> None:
    """Play a replica's way to the root again; of equals the lower index wins."""
    tree, leaves = state.by_end, state.leaves
    node = (leaf + len(leaves)) >> 1
    while node >= 1:
        left, right = tree[2 * node], tree[2 * node + 1]
        tree[node] = left if leaves[left].end_s <= leaves[right].end_s else right
        node >>= 1


@_part
def _update_load(state: State, leaf: int) -> None:
    """As `_update_end`, by load."""
    tree, leaves = state.by_load, state.leaves
    node = (leaf + len(leaves)) >> 1
    while node >= 1:
        left, right = tree[2 * node], tree[2 * node + 1]
        tree[node] = left if leaves[left].load <= leaves[right].load else right
        node >>= 1


@_part
def _first_s(line: Line) -> float:
    return line.turns[line.span[0]].time_s if line.span[1] else np.inf


@_part
def _put(line: Line, time_s: float, request: int) -> None:
    turn = line.turns[(line.span[0] + line.span[1]) % len(line.turns)]
    turn.time_s, turn.request = time_s, request
    line.span[1] += 1


@_part
def _take(line: Line) -> int:
    """The first request."""
    head = line.span[0]
    line.span[0] = (head + 1) % len(line.turns)
    line.span[1] -= 1
    return int(line.turns[head].request)


@_part
def _push(heap: Records, size: int, due: int, who: int) -> None:
    """Add to a heap that has `size` entries."""
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if heap[parent].due <= due:
            break
        heap[at].due, heap[at].who = heap[parent].due, heap[parent].who
        at = parent
    heap[at].due, heap[at].who = due, who


@_part
def _pop(heap: Records, size: int) -> int:
    """Take the first entry of a heap that has `size` entries."""
    first = heap[0].who
    last = size - 1
    due, who = heap[last].due, heap[last].who
    at = 0
    while True:
        child = 2 * at + 1
        if child >= last:
            break
        if child + 1 < last and heap[child + 1].due < heap[child].due:
            child += 1
        if heap[child].due >= due:
            break
        heap[at].due, heap[at].who = heap[child].due, heap[child].who
        at = child
    heap[at].due, heap[at].who = due, who
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
    needed = state.requests[request].prompt + state.requests[request].output
    in_flight = replica.decoding + replica.prefilling
    return bool(
        in_flight < len(engine.decode_s) - 1
        and replica.reserved + needed <= engine.kv_capacity_tokens
    )


@_part
def _admit(state: State, at: int, request: int) -> None:
    """Give a request its place: it is prefilled from the next step on."""
    replica = state.replicas[at]
    width = state.slots.shape[1]
    state.slots[at, (replica.ring_head + replica.prefilling) % width].ring = request
    replica.prefilling += 1
    replica.reserved += state.requests[request].prompt + state.requests[request].output
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
    width = state.slots.shape[1]
    found = False
    for index in range(replica.prefilling):
        here = (replica.ring_head + index) % width
        if found:
            state.slots[at, (here - 1) % width].ring = state.slots[at, here].ring
        found = found or state.slots[at, here].ring == request
    replica.prefilling -= 1
    replica.reserved -= state.requests[request].prompt + state.requests[request].output


@_part
def _finish(engine: Engine, state: State, at: int, request: int, now: float) -> None:
    """A request's last token: it leaves its place."""
    state.replicas[at].reserved -= state.requests[request].prompt + state.requests[request].output
    state.leaves[at].load -= 1
    state.requests[request].state = ENDED
    state.requests[request].status = SERVED
    state.requests[request].e2e_s = now - state.requests[request].arrival_s + engine.first_token_s


@_part
def _start(engine: Engine, state: State, at: int, now: float) -> None:
    """Begin the next steps of a replica, or let it rest."""
    replica = state.replicas[at]
    replica.begin_s = now
    step_s = engine.decode_s[replica.decoding] + engine.kv_token_s * replica.context
    if replica.prefilling:
        budget = max(1, engine.chunk_tokens - replica.decoding)
        width = state.slots.shape[1]
        for index in range(replica.prefilling):
            request = state.slots[at, (replica.ring_head + index) % width].ring
            before = state.requests[request].prefilled
            tokens = min(state.requests[request].prompt - before, budget)
            if before == 0:
                state.requests[request].wait_s = now - state.requests[request].arrival_s
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
        state.leaves[at].end_s = now + step_s
    elif replica.decoding:
        replica.prefills = False
        replica.steps = state.slots[at, 0].due - replica.generated
        replica.first_step_s = step_s
        replica.growth_s = engine.kv_token_s * replica.decoding
        state.leaves[at].end_s = now + _series_s(step_s, replica.growth_s, replica.steps)
    else:
        replica.steps = 0
        state.leaves[at].end_s = np.inf


@_part
def _end_steps(engine: Engine, state: State, at: int, now: float) -> None:
    """The steps of a replica end: last tokens, first tokens, and whoever waited moves up."""
    replica = state.replicas[at]
    first_s, last_s = state.requests[0].arrival_s, state.requests[-1].arrival_s
    replica.busy_s += max(0.0, min(now, last_s) - max(replica.begin_s, first_s))
    replica.generated += replica.steps
    replica.context += replica.steps * replica.decoding
    heap = state.slots[at]
    while replica.decoding and heap[0].due <= replica.generated:
        request = _pop(heap, replica.decoding)
        replica.decoding -= 1
        replica.context -= state.requests[request].prompt + state.requests[request].output
        _finish(engine, state, at, request, now)
    width = state.slots.shape[1]
    while replica.prefills and replica.prefilling:
        request = state.slots[at, replica.ring_head].ring
        if state.requests[request].prefilled < state.requests[request].prompt:
            break
        replica.ring_head = (replica.ring_head + 1) % width
        replica.prefilling -= 1
        state.requests[request].ttft_s = (
            now - state.requests[request].arrival_s + engine.first_token_s
        )
        if state.requests[request].output == 1:
            _finish(engine, state, at, request, now)
            continue
        state.requests[request].state = DECODING
        last = replica.generated + state.requests[request].output - 1
        _push(heap, replica.decoding, last, request)
        replica.decoding += 1
        replica.context += state.requests[request].prompt + 1
    while replica.queued and _fits(engine, state, at, replica.queue_head):
        request = replica.queue_head
        _unqueue(state, at, request)
        _admit(state, at, request)
    _start(engine, state, at, now)
    _update_end(state, at)
    _update_load(state, at)


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
            state.leaves[at].end_s = max(now, end_s)
        _update_end(state, at)
    elif replica.queued < engine.queue_limit:
        _enqueue(state, at, request)
    else:
        return False
    state.requests[request].replica = at
    state.leaves[at].load += 1
    _update_load(state, at)
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
    state.leaves[at].load -= 1
    _update_load(state, at)


@_part
def _lost(engine: Engine, state: State, lines: Lines, request: int, now: float) -> bool:
    """Whether that was all for a request that was shed or gave up; else it comes again."""
    if state.requests[request].tries >= engine.retries:
        return True
    state.requests[request].tries += 1
    _put(lines.again, now + engine.retry_after_s, request)
    return False


@_part
def _try(engine: Engine, state: State, lines: Lines, request: int, now: float) -> None:
    """A request comes, for the first time or again."""
    if state.requests[request].prompt + state.requests[request].output > engine.kv_capacity_tokens:
        state.requests[request].status = FAILED
    elif not _arrive(engine, state, request, now):
        if _lost(engine, state, lines, request, now):
            state.requests[request].status = SHED
    elif engine.timeout_s < np.inf:
        patience_s = max(0.0, engine.timeout_s - engine.first_token_s)
        _put(lines.patience, now + patience_s, request)


@_part
def _time_out(engine: Engine, state: State, lines: Lines, now: float) -> None:
    """The first of those who wait has waited long enough, unless it has its first token.

    A try that waits ends here or with its first token, so that the turn is never an earlier try's.
    """
    request = _take(lines.patience)
    now_is = state.requests[request].state
    if now_is in (QUEUED, PREFILLING):
        _give_up(state, request)
        if _lost(engine, state, lines, request, now):
            state.requests[request].status = FAILED


@_kept
def run(engine: Engine, state: State, lines: Lines) -> None:
    """Run the pool until every request has ended.

    At one moment replicas go first, then time-outs, retries and arrivals.

    Args:
        engine: what does not change.
        state: what does; its outcome arrays are the result.
        lines: empty, with room for all.
    """
    count = len(state.requests)
    arrived = 0
    while True:
        arrival_s = state.requests[arrived].arrival_s if arrived < count else np.inf
        retry_s, time_out_s = _first_s(lines.again), _first_s(lines.patience)
        end_s = state.leaves[state.by_end[1]].end_s
        now = min(arrival_s, retry_s, time_out_s, end_s)
        if now == np.inf:
            break
        if end_s == now:
            _end_steps(engine, state, state.by_end[1], now)
        elif time_out_s == now:
            _time_out(engine, state, lines, now)
        elif retry_s == now:
            _try(engine, state, lines, _take(lines.again), now)
        else:
            _try(engine, state, lines, arrived, now)
            arrived += 1
