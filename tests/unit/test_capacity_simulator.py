"""The simulator against closed forms, a plain step-by-step engine, and what never may happen."""

import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpufleet.core.capacity import queueing
from gpufleet.core.capacity.replica import UNBOUNDED_TOKENS, Evidence, ReplicaSpeed
from gpufleet.core.capacity.requests import (
    FAILED,
    SERVED,
    SHED,
    Floats,
    Integers,
    Limits,
    Outcome,
    Requests,
)
from gpufleet.core.capacity.simulator import simulate
from gpufleet.edges.workspace import PROJECT_ROOT

OPEN = Limits(queue_limit=2**40, timeout_s=math.inf)
LLM = ReplicaSpeed(
    decode_s=tuple(0.008 + 0.0003 * number for number in range(9)),
    kv_token_s=2e-7,
    prefill_token_s=2e-5,
    attention_s=1e-9,
    first_token_s=0.01,
    kv_capacity_tokens=20_000,
    chunk_tokens=256,
    evidence=Evidence.ROOFLINE,
    source="made up",
)


def plain(*decode_s: float, prefill_token_s: float = 0.0) -> ReplicaSpeed:
    """A replica of which only the time of a step matters."""
    return replace(
        LLM,
        decode_s=decode_s,
        kv_token_s=0.0,
        prefill_token_s=prefill_token_s,
        attention_s=0.0,
        first_token_s=0.0,
        kv_capacity_tokens=UNBOUNDED_TOKENS,
        chunk_tokens=2**20,
    )


def requests(arrival_s: object, prompt: object, output: object) -> Requests:
    times = np.asarray(arrival_s, float)
    return Requests(
        times,
        np.broadcast_to(np.asarray(prompt, np.int64), times.shape).copy(),
        np.broadcast_to(np.asarray(output, np.int64), times.shape).copy(),
        np.zeros(len(times), np.int64),
    )


def poisson(count: int, rate_rps: float, seed: int = 1) -> Floats:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_rps, count))


def geometric(count: int, mean: float, seed: int = 2) -> Integers:
    return np.random.default_rng(seed).geometric(1 / mean, count)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_constant_service_waits_as_in_m_d_1(load: float) -> None:
    stream = requests(poisson(200_000, load), 1, 1)
    outcome = simulate(stream, plain(1.0, 1.0), 1, OPEN)
    assert outcome.wait_s.mean() == pytest.approx(queueing.md1_mean_wait_s(load, 1.0), rel=0.03)
    assert outcome.busy_share == pytest.approx(load, rel=0.01)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (4, 0.7), (16, 0.75)])
def test_exponential_service_waits_as_in_m_m_c(servers: int, load: float) -> None:
    """Places of one replica whose steps never slow down are the servers; 2,000 steps are 1 s."""
    rate_rps = servers * load
    stream = requests(poisson(300_000, rate_rps), 1, geometric(300_000, 2000))
    outcome = simulate(stream, plain(*[0.0005] * (servers + 1)), 1, OPEN)
    mean_s = queueing.mmc_mean_wait_s(servers, rate_rps, 1.0)
    p95_s = queueing.mmc_wait_quantile_s(servers, rate_rps, 1.0, 0.95)
    assert outcome.wait_s.mean() == pytest.approx(mean_s, rel=0.1, abs=0.002)
    assert np.percentile(outcome.wait_s, 95) == pytest.approx(p95_s, rel=0.1, abs=0.002)
    waited = (outcome.wait_s > 0.0005).mean()
    assert waited == pytest.approx(queueing.erlang_c(servers, rate_rps), rel=0.1)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_steps_that_slow_down_with_the_batch_are_processor_sharing(load: float) -> None:
    stream = requests(poisson(200_000, load), 1, geometric(200_000, 500))
    shared = plain(*(0.002 * number for number in range(257)))
    outcome = simulate(stream, shared, 1, OPEN)
    expected_s = queueing.processor_sharing_mean_s(load, 1.0)
    assert outcome.e2e_s.mean() == pytest.approx(expected_s, rel=0.05)


def test_replicas_behind_the_shortest_queue_lie_between_one_queue_and_split_traffic() -> None:
    stream = requests(poisson(200_000, 3.4), 1, geometric(200_000, 500))
    wait_s = simulate(stream, plain(0.002, 0.002), 4, OPEN).wait_s.mean()
    assert queueing.mmc_mean_wait_s(4, 3.4, 1.0) < wait_s < queueing.mmc_mean_wait_s(1, 0.85, 1.0)


def step_by_step(stream: Requests, speed: ReplicaSpeed) -> Outcome:  # noqa: C901 - one engine whole
    """One replica without jumps: the definition of `ReplicaSpeed`, a step at a time."""
    count = len(stream)
    waiting = list(range(count))
    prefilling: list[list[int]] = []
    decoding: dict[int, int] = {}
    e2e_s, ttft_s, wait_s = (np.full(count, np.nan) for _ in range(3))
    now = 0.0
    size = stream.prompt_tokens + stream.output_tokens
    while waiting or prefilling or decoding:
        while (
            waiting
            and stream.arrival_s[waiting[0]] <= now
            and len(prefilling) + len(decoding) < speed.concurrency_limit
            and sum(size[each[0]] for each in prefilling)
            + sum(size[each] for each in decoding)
            + size[waiting[0]]
            <= speed.kv_capacity_tokens
        ):
            prefilling.append([waiting.pop(0), 0])
        if not prefilling and not decoding:
            now = stream.arrival_s[waiting[0]]
            continue
        held = sum(stream.prompt_tokens[each] + given for each, given in decoding.items())
        step_s = speed.decode_s[len(decoding)] + speed.kv_token_s * held
        budget = max(1, speed.chunk_tokens - len(decoding))
        for entry in prefilling:
            request, before = entry
            tokens = min(stream.prompt_tokens[request] - before, budget)
            if tokens == 0:
                break
            if before == 0:
                wait_s[request] = now - stream.arrival_s[request]
            step_s += speed.prefill_token_s * tokens
            step_s += speed.attention_s * tokens * (before + tokens / 2)
            entry[1] += tokens
            budget -= tokens
        now += step_s
        for request in list(decoding):
            decoding[request] += 1
        for request, done in list(prefilling):
            if done == stream.prompt_tokens[request]:
                prefilling.remove([request, done])
                ttft_s[request] = now - stream.arrival_s[request] + speed.first_token_s
                decoding[request] = 1
        for request, tokens_given in list(decoding.items()):
            if tokens_given == stream.output_tokens[request]:
                del decoding[request]
                e2e_s[request] = now - stream.arrival_s[request] + speed.first_token_s
    return Outcome(stream, np.zeros(count, np.int64), e2e_s, ttft_s, wait_s, 0.0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), rate=st.floats(0.5, 60), chunk=st.sampled_from([16, 200, 4096]))
def test_jumping_over_steps_gives_what_single_steps_give(
    seed: int, rate: float, chunk: int
) -> None:
    random = np.random.default_rng(seed)
    stream = requests(
        np.cumsum(random.exponential(1 / rate, 60)),
        random.integers(1, 3000, 60),
        random.integers(1, 120, 60),
    )
    speed = replace(LLM, chunk_tokens=chunk)
    jumped, stepped = simulate(stream, speed, 1, OPEN), step_by_step(stream, speed)
    np.testing.assert_allclose(jumped.ttft_s, stepped.ttft_s, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(jumped.e2e_s, stepped.e2e_s, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(jumped.wait_s, stepped.wait_s, rtol=1e-9, atol=1e-9)


traffic = st.builds(
    lambda seed, rate, count: (np.random.default_rng(seed), rate, count),
    st.integers(0, 10**6),
    st.floats(1, 400),
    st.integers(1, 400),
)


def made(given: tuple[np.random.Generator, float, int]) -> Requests:
    random, rate, count = given
    return requests(
        np.cumsum(random.exponential(1 / rate, count)),
        random.integers(1, 4000, count),
        random.integers(1, 300, count),
    )


@settings(max_examples=100, deadline=None)
@given(
    given_traffic=traffic,
    replicas=st.integers(1, 9),
    queue_limit=st.integers(0, 20),
    timeout_s=st.sampled_from([0.05, 0.5, 5.0, math.inf]),
    retries=st.integers(0, 3),
)
def test_no_request_is_lost_or_counted_twice_whatever_the_limits(
    given_traffic: tuple[np.random.Generator, float, int],
    replicas: int,
    queue_limit: int,
    timeout_s: float,
    retries: int,
) -> None:
    stream = made(given_traffic)
    limits = Limits(queue_limit, timeout_s, retries, retry_after_s=0.3)
    outcome = simulate(stream, LLM, replicas, limits)
    assert set(outcome.status) <= {SERVED, SHED, FAILED}
    served = outcome.status == SERVED
    for seconds in (outcome.e2e_s, outcome.ttft_s, outcome.wait_s):
        assert np.array_equal(np.isfinite(seconds), served)
    assert (outcome.wait_s[served] >= 0).all()
    assert (outcome.ttft_s[served] > outcome.wait_s[served]).all()
    assert (outcome.e2e_s[served] >= outcome.ttft_s[served]).all()
    assert 0 <= outcome.busy_share <= 1 + 1e-9
    tries_s = timeout_s + (retries * (timeout_s + limits.retry_after_s) if retries else 0)
    assert (outcome.ttft_s[served] <= tries_s + 1e-6).all()
    if timeout_s == math.inf:
        assert not (outcome.status == FAILED).any()


@settings(max_examples=40, deadline=None)
@given(given_traffic=traffic)
def test_whoever_came_first_is_prefilled_first_at_one_replica(
    given_traffic: tuple[np.random.Generator, float, int],
) -> None:
    stream = made(given_traffic)
    outcome = simulate(stream, LLM, 1, OPEN)
    assert (np.diff(stream.arrival_s + outcome.wait_s) >= -1e-9).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rate=st.floats(5, 60), replicas=st.integers(1, 8))
def test_one_more_replica_never_makes_the_mean_answer_slower(
    seed: int, rate: float, replicas: int
) -> None:
    """Of the mean over a stream: one request may meet another batch and be a little later."""
    random = np.random.default_rng(seed)
    stream = requests(
        np.cumsum(random.exponential(1 / rate, 2000)),
        random.integers(1, 2000, 2000),
        random.integers(1, 200, 2000),
    )
    fewer, more = (simulate(stream, LLM, number, OPEN) for number in (replicas, replicas + 1))
    assert more.e2e_s.mean() <= fewer.e2e_s.mean() * (1 + 1e-3)
    assert more.ttft_s.mean() <= fewer.ttft_s.mean() * (1 + 1e-3)


def test_a_request_alone_takes_what_its_steps_take() -> None:
    outcome = simulate(requests([5.0], 600, 11), LLM, 3, OPEN)
    prefill_s = 3 * 0.008 + 600 * 2e-5 + 1e-9 * 600**2 / 2
    decode_s = 10 * 0.0083 + 2e-7 * sum(601 + step for step in range(10))
    assert outcome.wait_s[0] == 0
    assert outcome.ttft_s[0] == pytest.approx(prefill_s + 0.01)
    assert outcome.e2e_s[0] == pytest.approx(prefill_s + decode_s + 0.01)


def test_the_kv_cache_holds_back_what_it_has_no_room_for() -> None:
    stream = requests([0.0, 0.001], 8000, 100)
    roomy = simulate(stream, replace(LLM, kv_capacity_tokens=16_200), 1, OPEN)
    tight = simulate(stream, replace(LLM, kv_capacity_tokens=16_199), 1, OPEN)
    assert roomy.wait_s[1] < roomy.e2e_s[0] / 2
    # The second is prefilled when the first has left.
    assert tight.wait_s[1] == pytest.approx(tight.e2e_s[0] - LLM.first_token_s - 0.001)


def test_a_request_longer_than_the_kv_cache_fails_and_holds_nobody_up() -> None:
    outcome = simulate(requests([0.0, 0.0], [19_999, 10], [2, 5]), LLM, 1, OPEN)
    assert list(outcome.status) == [FAILED, SERVED]


def test_a_full_queue_sheds_and_a_retry_may_find_a_place() -> None:
    stream = requests([0.0, 0.1, 0.2], 1, 1)
    slow = plain(1.0, 1.0)
    shed = simulate(stream, slow, 1, Limits(queue_limit=1, timeout_s=math.inf))
    assert list(shed.status) == [SERVED, SERVED, SHED]
    again = simulate(stream, slow, 1, Limits(1, math.inf, retries=1, retry_after_s=1.0))
    assert list(again.status) == [SERVED, SERVED, SERVED]
    # Comes again at 1.2 s, when the second has its place: its turn is at 2 s.
    assert again.wait_s[2] == pytest.approx(2.0 - 0.2)


def test_who_waits_too_long_gives_up_and_leaves_its_place_to_others() -> None:
    stream = requests([0.0, 0.1, 0.2], 1, 1)
    outcome = simulate(stream, plain(1.0, 1.0), 1, Limits(10, timeout_s=1.95))
    assert list(outcome.status) == [SERVED, SERVED, FAILED]
    assert outcome.e2e_s[1] == pytest.approx(1.9)


def test_the_same_requests_give_the_same_outcome() -> None:
    stream = made((np.random.default_rng(7), 100.0, 400))
    first, second = (simulate(stream, LLM, 3, Limits(5, 2.0, 2)) for _ in range(2))
    assert np.array_equal(first.status, second.status)
    assert np.array_equal(first.e2e_s, second.e2e_s, equal_nan=True)


def test_nothing_arrives_and_nothing_happens() -> None:
    outcome = simulate(requests([], [], []), LLM, 3, OPEN)
    assert len(outcome.status) == 0
    assert outcome.busy_share == 0


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="needs setpriv")
def test_it_runs_where_nothing_can_be_written(tmp_path: Path) -> None:
    """Neither beside the code nor at home: compiled in each process, as numba allows it."""
    program = (
        "import numpy as np\n"
        "from gpufleet.core.capacity.replica import *\n"
        "from gpufleet.core.capacity.requests import *\n"
        "from gpufleet.core.capacity.simulator import simulate\n"
        "one = np.ones(1, np.int64)\n"
        "speed = ReplicaSpeed((1., 1.), 0., 0., 0., 0., 99, 99, Evidence.ROOFLINE, '')\n"
        "print(simulate(Requests(np.zeros(1), one, one, 0 * one), speed, 1, Limits(1, 9.)).e2e_s)"
    )
    package = tmp_path / "gpufleet"
    shutil.copytree(PROJECT_ROOT / "modules" / "gpufleet", package)
    for cache in package.rglob("__pycache__"):
        shutil.rmtree(cache)
    tmp_path.chmod(0o755)
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = subprocess.run(
        [*(as_nobody if os.geteuid() == 0 else []), sys.executable, "-P", "-c", program],
        env={"PYTHONPATH": str(tmp_path), "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[1.]", done.stderr
