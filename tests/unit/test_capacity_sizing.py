"""The fewest replicas that keep every promise: found, enough, and never one too few by luck."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpufleet.core.capacity import sizing
from gpufleet.core.capacity.arrivals import Stream, Trace, arrivals
from gpufleet.core.capacity.bounds import (
    MAX_LOAD,
    Target,
    Unreachable,
    closed_form_bounds,
    full_rates,
)
from gpufleet.core.capacity.replica import UNBOUNDED_TOKENS, Evidence, ReplicaSpeed
from gpufleet.core.capacity.requests import Limits, Requests
from gpufleet.core.capacity.simulator import simulate
from gpufleet.core.capacity.sizing import (
    fewest_replicas,
    first_true,
    keeps,
    predict,
    smooth_replicas,
)
from gpufleet.spec.serving import Tokens

ARTICLE = ReplicaSpeed(
    decode_s=tuple(number / 800 for number in range(17)),
    kv_token_s=0.0,
    prefill_token_s=0.0,
    attention_s=0.0,
    first_token_s=0.0,
    kv_capacity_tokens=UNBOUNDED_TOKENS,
    chunk_tokens=2**20,
    evidence=Evidence.MEASURED_RATE,
    source="8 requests/s of 100 tokens, by processor sharing",
)
LLM = ReplicaSpeed(
    decode_s=tuple(np.linspace(0.01, 0.025, 33)),
    kv_token_s=2e-8,
    prefill_token_s=3e-5,
    attention_s=1e-9,
    first_token_s=0.01,
    kv_capacity_tokens=200_000,
    chunk_tokens=2048,
    evidence=Evidence.ROOFLINE,
    source="made up",
)
SHORT = Tokens(prompt_mean=500, prompt_p95=1200, output_mean=100, output_p95=200, output_max=512)
PROMISE = Target(0, p95_s=2.0, ttft_p95_s=0.5, error_rate=0.001)
CHAT = Target(0, p95_s=6.0, ttft_p95_s=1.0, error_rate=0.01)


def test_the_article_gets_its_seven_and_what_burstiness_adds() -> None:
    streams = [Stream(0, 50.0, 4.0, SHORT)]
    sized = fewest_replicas(streams, [PROMISE], ARTICLE, most=100, seed=1)
    assert sized is not None
    assert sized.smooth_replicas == 7
    assert smooth_replicas(streams, [PROMISE], ARTICLE, most=100, seed=1) == 7
    assert sized.replicas in {9, 10}
    assert sized.load == pytest.approx(50 / 8 / sized.replicas, rel=0.02)
    assert keeps(sized.predictions[0], PROMISE)


def test_a_recorded_stream_is_planned_on_itself_and_not_one_replica_more() -> None:
    requests = arrivals([Stream(0, 12.0, 30.0, SHORT)], duration_s=600, seed=9)
    trace = Trace(requests.arrival_s, requests.prompt_tokens, requests.output_tokens)
    stream = Stream(0, len(trace) / trace.span_s, 1.0, SHORT, trace)
    sized = fewest_replicas([stream], [CHAT], LLM, most=100, seed=1)
    assert sized is not None

    def holds(replicas: int) -> bool:
        outcome = simulate(requests, LLM, replicas, Limits(2**40, float("inf")))
        return keeps(predict([outcome], CHAT), CHAT)

    assert holds(sized.replicas)
    assert not holds(sized.replicas - 1)


def test_a_bursty_summary_gets_one_replica_for_the_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [Stream(0, 5.0, 40.0, SHORT)]
    doubted = fewest_replicas(streams, [CHAT], LLM, most=100, seed=1)
    monkeypatch.setattr(sizing, "BURSTY", 1e9)
    believed = fewest_replicas(streams, [CHAT], LLM, most=100, seed=1)
    assert doubted is not None
    assert believed is not None
    assert doubted.replicas == believed.replicas + 1


def test_a_recorded_and_a_declared_stream_share_a_pool() -> None:
    recorded = arrivals([Stream(0, 12.0, 4.0, SHORT)], duration_s=300, seed=9)
    trace = Trace(recorded.arrival_s, recorded.prompt_tokens, recorded.output_tokens)
    streams = [Stream(0, 12.0, 1.0, SHORT, trace), Stream(1, 12.0, 4.0, SHORT)]
    targets = [CHAT, replace(CHAT, use_case=1)]
    both = fewest_replicas(streams, targets, LLM, most=100, seed=1)
    alone = fewest_replicas(streams[:1], targets[:1], LLM, most=100, seed=1)
    assert both is not None
    assert alone is not None
    assert both.replicas > alone.replicas
    assert all(map(keeps, both.predictions, targets))


@settings(max_examples=12, deadline=None)
@given(rate_rps=st.floats(2, 60), more=st.floats(1.2, 2.5), index=st.sampled_from([1.0, 4.0, 20.0]))
def test_more_traffic_never_takes_fewer_replicas(
    rate_rps: float, more: float, index: float
) -> None:
    """Of Poisson streams and swings: one use case's bursts change their length with the rate."""
    swinging = min(index, 3.0)
    low, high = (
        fewest_replicas([Stream(0, rate, swinging, SHORT)], [CHAT], LLM, most=1000, seed=3)
        for rate in (rate_rps, rate_rps * more)
    )
    assert low is not None
    assert high is not None
    assert low.replicas <= high.replicas
    assert low.smooth_replicas <= high.smooth_replicas


@settings(max_examples=12, deadline=None)
@given(rate_rps=st.floats(2, 40), index=st.floats(1, 60), seed=st.integers(0, 100))
def test_what_is_sized_lies_above_the_lower_bound_and_keeps_its_promise(
    rate_rps: float, index: float, seed: int
) -> None:
    streams = [Stream(0, rate_rps, index, SHORT)]
    sized = fewest_replicas(streams, [CHAT], LLM, most=1000, seed=seed)
    assert sized is not None
    assert closed_form_bounds(streams, [CHAT], LLM).lower <= sized.replicas
    assert sized.smooth_replicas <= sized.replicas
    assert sized.load <= MAX_LOAD
    assert keeps(sized.predictions[0], CHAT)
    assert sized.queue_limit >= 1
    assert 0 < sized.queue_time_target_s < CHAT.ttft_p95_s
    numbers = [replicas for replicas, _, _ in sized.latency]
    assert numbers == sorted(numbers)
    assert sized.replicas in numbers


def test_a_slow_trace_beside_a_fast_stream_is_simulated_for_a_bounded_time() -> None:
    count = 500
    trace = Trace(np.linspace(0, 49_900, count), np.full(count, 500), np.full(count, 100))
    streams = [Stream(0, 0.0005, 1.0, SHORT, trace), Stream(1, 10.0, 1.0, SHORT)]
    targets = [CHAT, replace(CHAT, use_case=1)]
    duration_s = sizing._duration_s(streams, targets)
    assert duration_s * 10 <= sizing.MOST_TRACED
    sized = fewest_replicas(streams, targets, LLM, most=100, seed=1)
    assert sized is not None
    assert [keeps(*pair) for pair in zip(sized.predictions, targets, strict=True)] == [True, True]


def test_a_rare_use_case_is_seen_beside_a_busy_one() -> None:
    streams = [Stream(0, 1e-4, 1.0, SHORT), Stream(1, 17.0, 1.0, SHORT)]
    sized = fewest_replicas(streams, [CHAT, replace(CHAT, use_case=1)], LLM, most=100, seed=1)
    alone = fewest_replicas(streams[1:], [replace(CHAT, use_case=1)], LLM, most=100, seed=1)
    assert sized is not None
    assert alone is not None
    assert sized.replicas == alone.replicas
    assert 0 < sized.predictions[0].p95_s <= CHAT.p95_s


def test_each_use_case_of_a_pool_keeps_its_own_promise() -> None:
    streams = [Stream(0, 8.0, 4.0, SHORT), Stream(1, 4.0, 4.0, SHORT)]
    easy, strict = CHAT, replace(CHAT, use_case=1, ttft_p95_s=0.08)
    alone = fewest_replicas(streams, [easy, replace(easy, use_case=1)], LLM, most=100, seed=1)
    both = fewest_replicas(streams, [easy, strict], LLM, most=100, seed=1)
    assert alone is not None
    assert both is not None
    assert both.replicas > alone.replicas
    assert [each.use_case for each in both.predictions] == [0, 1]
    assert keeps(both.predictions[1], strict)


def test_a_stricter_promise_never_takes_fewer_replicas() -> None:
    streams = [Stream(0, 20.0, 8.0, SHORT)]
    counts = []
    for ttft_p95_s in (2.0, 1.0, 0.5, 0.2, 0.1):
        target = replace(CHAT, ttft_p95_s=ttft_p95_s)
        sized = fewest_replicas(streams, [target], LLM, most=1000, seed=1)
        assert sized is not None
        counts.append(sized.replicas)
    assert counts == sorted(counts)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (replace(CHAT, p95_s=1.0), r"p95 of the whole answer of 1 s: .* takes 2"),
        (replace(CHAT, ttft_p95_s=0.01), r"time to the first token of 0.01 s: .* takes 0.0"),
    ],
)
def test_a_promise_that_a_lone_request_breaks_is_refused_with_what_is_reachable(
    target: Target, told: str
) -> None:
    with pytest.raises(Unreachable, match=told):
        fewest_replicas([Stream(0, 1.0, 1.0, SHORT)], [target], LLM, most=100, seed=1)


def test_requests_longer_than_the_cache_are_refused_with_their_share() -> None:
    small = replace(LLM, kv_capacity_tokens=1000)
    with pytest.raises(Unreachable, match=r"% of the requests are longer than the 1000 tokens"):
        fewest_replicas([Stream(0, 1.0, 1.0, SHORT)], [CHAT], small, most=100, seed=1)


def test_too_little_room_is_no_plan() -> None:
    streams = [Stream(0, 50.0, 4.0, SHORT)]
    assert fewest_replicas(streams, [PROMISE], ARTICLE, most=7, seed=1) is None
    assert fewest_replicas(streams, [PROMISE], ARTICLE, most=0, seed=1) is None


def test_a_pool_too_large_to_simulate_whole_is_sized_by_an_equal_part() -> None:
    part, whole = (
        fewest_replicas([Stream(0, rate, 1.0, SHORT)], [CHAT], LLM, most=10_000, seed=1)
        for rate in (100.0, 2000.0)
    )
    assert part is not None
    assert whole is not None
    assert whole.replicas == pytest.approx(20 * part.replicas, rel=0.1)


def test_the_full_rate_is_what_a_saturated_replica_serves() -> None:
    count = 4000
    random = np.random.default_rng(1)
    rates = full_rates(LLM, [Stream(0, 1.0, 1.0, SHORT)])
    assert full_rates(ARTICLE, [Stream(0, 1.0, 1.0, SHORT)]) == pytest.approx(8.0, rel=0.02)
    demand = arrivals([Stream(0, 100.0, 1.0, SHORT)], duration_s=60, seed=1)
    together = Requests(
        np.sort(random.random(count) * 1e-3),
        demand.prompt_tokens[:count],
        demand.output_tokens[:count],
        demand.use_case[:count],
    )
    outcome = simulate(together, LLM, 1, Limits(2**40, float("inf")))
    assert count / outcome.e2e_s.max() == pytest.approx(rates.max(), rel=0.05)


@given(
    threshold=st.integers(-5, 60),
    lower=st.integers(0, 40),
    likely=st.integers(-10, 80),
    upper=st.integers(0, 50),
)
def test_the_search_finds_the_least_number_that_holds(
    threshold: int, lower: int, likely: int, upper: int
) -> None:
    asked: list[int] = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number >= threshold

    expected = next((each for each in range(lower, upper + 1) if each >= threshold), None)
    assert first_true(holds, lower, likely, upper) == expected
    assert all(lower <= number <= upper for number in asked)
