"""The simulated engine's batch: as fast as the capacity model says, and within its room always."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.capacity.replica import Evidence, ReplicaSpeed
from gpufleet.core.capacity.requests import Limits, Requests
from gpufleet.core.capacity.simulator import simulate
from gpufleet.local.engine.batching import Batch, Job, State
from gpufleet.local.engine.steps import NEVER

LIMIT = 8
SPEED = ReplicaSpeed(
    decode_s=tuple(0.02 + 0.001 * count for count in range(LIMIT + 1)),
    kv_token_s=1e-7,
    prefill_token_s=1e-4,
    attention_s=1e-9,
    first_token_s=0.01,
    kv_capacity_tokens=10**9,
    chunk_tokens=512,
    evidence=Evidence.ROOFLINE,
    source="a test",
)
Lengths = tuple[int, int]


def run(batch: Batch, arrivals: Sequence[tuple[float, Job]]) -> None:
    """Submit all at their time, and let everything end."""
    for at_s, job in arrivals:
        batch.submit(job, at_s)
    while batch.next_s < NEVER:
        batch.advance(batch.next_s)


def jobs(arrival_s: Sequence[float], lengths: Sequence[Lengths]) -> list[tuple[float, Job]]:
    return [
        (at_s, Job(prompt, output))
        for at_s, (prompt, output) in zip(arrival_s, lengths, strict=True)
    ]


@pytest.mark.parametrize("rate_rps", [1, 3, 8])
def test_requests_end_when_the_capacity_model_says(rate_rps: float) -> None:
    random = np.random.default_rng(20_260)
    count = 400
    arrival_s = np.cumsum(random.exponential(1 / rate_rps, count))
    prompts, outputs = random.integers(1, 2000, count), random.integers(1, 200, count)
    requests = Requests(arrival_s, prompts, outputs, np.zeros(count, np.int64))
    expected = simulate(requests, SPEED, 1, Limits(queue_limit=count, timeout_s=math.inf))
    given_jobs = jobs(
        arrival_s.tolist(), list(zip(prompts.tolist(), outputs.tolist(), strict=True))
    )
    run(Batch(SPEED, LIMIT), given_jobs)
    e2e_s = [job.end_s - at_s for at_s, job in given_jobs]
    ttft_s = [job.first_token_s - at_s for at_s, job in given_jobs]
    # The simulator adds the time outside the steps behind them, the batch before them: the same
    # work, a few steps shifted against arrivals.
    assert e2e_s == pytest.approx(expected.e2e_s.tolist(), rel=0.05, abs=0.1)
    assert np.mean(e2e_s) == pytest.approx(expected.e2e_s.mean(), rel=0.005)
    assert np.mean(ttft_s) == pytest.approx(expected.ttft_s.mean(), rel=0.02)


def test_a_request_alone_takes_what_the_formula_says() -> None:
    ((_, job),) = given_jobs = jobs([0.0], [(100, 3)])
    run(Batch(SPEED, LIMIT), given_jobs)
    prefill_s = SPEED.decode_s[0] + 100 * 1e-4 + 1e-9 * 100 * 50
    first = SPEED.first_token_s + prefill_s
    assert job.first_token_s == pytest.approx(first)
    decode_s = 2 * SPEED.decode_s[1] + 1e-7 * (101 + 102)
    assert job.end_s == pytest.approx(first + decode_s)


def test_whoever_came_first_gets_its_place_first() -> None:
    given_jobs = jobs([0.001 * at for at in range(40)], [(50, 20)] * 40)
    run(Batch(SPEED, 4), given_jobs)
    begun = [job.scheduled_s for _, job in given_jobs]
    assert begun == sorted(begun)


def test_a_cache_that_runs_over_takes_the_last_ones_place_and_all_are_answered() -> None:
    small = replace(SPEED, kv_capacity_tokens=400)
    given_jobs = jobs([0.0, 0.001, 0.002, 0.003], [(80, 150)] * 4)
    batch = Batch(small, LIMIT)
    run(batch, given_jobs)
    assert batch.preempted > 0
    assert given_jobs[0][1].preemptions == 0
    ends = [job.end_s for _, job in given_jobs]
    assert ends == sorted(ends)
    assert all(job.produced == 150 for _, job in given_jobs)
    # Computed again, so that it takes longer than with room for all.
    roomy = jobs([0.0, 0.001, 0.002, 0.003], [(80, 150)] * 4)
    run(Batch(SPEED, LIMIT), roomy)
    assert given_jobs[-1][1].end_s > roomy[-1][1].end_s


def test_what_can_never_have_room_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller"):
        Batch(replace(SPEED, kv_capacity_tokens=100), LIMIT).submit(Job(90, 11), 0.0)


def test_a_hang_shifts_everything_by_its_time_and_keeps_what_runs() -> None:
    smooth, hung = jobs([0.0, 0.1], [(100, 50)] * 2), jobs([0.0, 0.1], [(100, 50)] * 2)
    run(Batch(SPEED, LIMIT), smooth)
    batch = Batch(SPEED, LIMIT)
    for at_s, job in hung:
        batch.submit(job, at_s)
    batch.hang(0.5)
    tokens = batch.tokens_of(hung[0][1], 0.5)
    assert batch.next_s == NEVER
    assert batch.advance(100.0) == []
    assert (batch.running, batch.tokens_of(hung[0][1], 100.0)) == (2, tokens)
    batch.go_on(100.0)
    while batch.next_s < NEVER:
        batch.advance(batch.next_s)
    for (_, before), (_, after) in zip(smooth, hung, strict=True):
        assert after.end_s == pytest.approx(before.end_s + 99.5)


def test_slow_by_a_factor_takes_that_many_times_as_long() -> None:
    ((_, usual),) = one = jobs([0.0], [(100, 50)])
    ((_, slow),) = other = jobs([0.0], [(100, 50)])
    run(Batch(SPEED, LIMIT), one)
    run(Batch(SPEED, LIMIT, slowdown=3.0), other)
    assert slow.end_s == pytest.approx(3 * usual.end_s)


def test_tokens_are_counted_as_they_come_and_not_when_an_answer_ends() -> None:
    batch, job = Batch(SPEED, LIMIT), Job(100, 50)
    batch.submit(job, 0)
    while job.state is not State.DECODING:
        batch.advance(batch.next_s)
    begun_s, end_s = job.first_token_s, batch.next_s
    seen = [batch.tokens_made(begun_s + (end_s - begun_s) * part / 10) for part in range(10)]
    assert len(set(seen)) == 10
    assert seen == sorted(seen)


def test_a_cancelled_request_leaves_its_place_to_the_next() -> None:
    batch = Batch(SPEED, 1)
    (first, second) = (Job(100, 1000), Job(100, 10))
    batch.submit(first, 0.0)
    batch.submit(second, 0.1)
    batch.advance(1.0)
    assert (batch.running, batch.waiting) == (1, 1)
    batch.cancel(first, 1.0)
    while batch.next_s < NEVER:
        batch.advance(batch.next_s)
    assert second.produced == 10
    assert second.scheduled_s < 1.1
    assert batch.kv_tokens(second.end_s) == 0


@given(
    capacity=st.integers(120, 300),
    limit=st.integers(1, LIMIT),
    asked=st.lists(
        st.tuples(
            st.floats(0, 1), st.integers(10, 60), st.integers(20, 60), st.none() | st.floats(0, 3)
        ),
        min_size=4,
        max_size=16,
    ),
)
def test_room_and_places_are_never_overdrawn_and_no_token_is_lost(
    capacity: int, limit: int, asked: list[tuple[float, int, int, float | None]]
) -> None:
    speed = replace(SPEED, kv_capacity_tokens=capacity, chunk_tokens=32)
    batch = Batch(speed, limit)
    made = [(at_s, Job(prompt, output), leaves) for at_s, prompt, output, leaves in asked]
    happens = [(at_s, 0, number) for number, (at_s, _, _) in enumerate(made)] + [
        (max(leaves, at_s), 1, number)
        for number, (at_s, _, leaves) in enumerate(made)
        if leaves is not None
    ]
    left: dict[Job, int] = {}

    def check(now_s: float) -> None:
        assert batch.running <= limit
        assert 0 <= batch.kv_tokens(now_s) <= capacity

    def until(at_s: float) -> None:
        while batch.next_s <= at_s and batch.next_s < NEVER:
            moment = batch.next_s
            check(moment - 1e-9)
            batch.advance(moment)
            check(moment)

    for at_s, kind, number in sorted(happens):
        until(at_s)
        job = made[number][1]
        if kind == 0:
            batch.submit(job, at_s)
        else:
            batch.cancel(job, at_s)
            left[job] = job.produced
        check(at_s)
    until(NEVER)
    assert all(job.state is State.ENDED for _, job, _ in made)
    assert (batch.running, batch.waiting, batch.kv_tokens(1e6)) == (0, 0, 0)
    assert all(job.produced == job.output_tokens for _, job, _ in made if job not in left)
    assert batch.tokens_made(1e6) == sum(job.produced for _, job, _ in made)
