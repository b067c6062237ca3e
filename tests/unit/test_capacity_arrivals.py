"""Streams of requests keep what their declaration says: rate, burstiness, lengths, order."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpufleet.core.capacity.arrivals import (
    Stream,
    Trace,
    arrivals,
    burst_shape,
    index_of_dispersion,
    lengths,
    rate_variance,
    swing_levels,
    swing_variance,
)
from gpufleet.spec.serving import Tokens

TOKENS = Tokens(prompt_mean=1155, prompt_p95=4083, output_mean=211, output_p95=451, output_max=1024)


def stream(rate_rps: float, index: float, trace: Trace | None = None) -> Stream:
    return Stream(0, rate_rps, index, TOKENS, trace)


def test_an_index_of_one_is_a_poisson_stream() -> None:
    arrival_s = arrivals([stream(20, 1)], duration_s=20_000, seed=1).arrival_s
    assert len(arrival_s) / 20_000 == pytest.approx(20, rel=0.01)
    for window_s in (0.1, 1.0, 10.0, 100.0):
        assert index_of_dispersion(arrival_s, window_s) == pytest.approx(1, abs=0.2)
    between_s = np.diff(arrival_s)
    assert between_s.std() == pytest.approx(between_s.mean(), rel=0.02)


@pytest.mark.parametrize(("rate_rps", "index"), [(2.57, 71.7), (5, 20), (14, 20), (1, 4)])
def test_a_stream_has_the_index_of_dispersion_that_is_declared(
    rate_rps: float, index: float
) -> None:
    found = [
        index_of_dispersion(
            arrivals([stream(rate_rps, index)], duration_s=60_000, seed=seed).arrival_s
        )
        for seed in range(4)
    ]
    assert float(np.mean(found)) == pytest.approx(index, rel=0.12)


def test_swings_stay_when_traffic_grows_so_that_the_index_does_too() -> None:
    arrival_s = arrivals([stream(50, 4)], duration_s=16_000, seed=1).arrival_s
    swings = 1 + 50 * 10 * swing_variance(4)
    assert index_of_dispersion(arrival_s) == pytest.approx(swings, rel=0.1)
    assert burst_shape(50, 4) == (0.0, 0.0)


@given(rate_rps=st.floats(0.01, 500), index=st.floats(1, 1000))
def test_the_rate_varies_by_what_index_and_swings_say(rate_rps: float, index: float) -> None:
    declared = (index - 1) / (rate_rps * 10)
    found = rate_variance(stream(rate_rps, index), 10.0)
    # Bursts that hardly a request would see are left out.
    left_out = 0.0 if burst_shape(rate_rps, index)[0] else 0.1 / (rate_rps * 10)
    expected = max(declared, swing_variance(index))
    assert found == pytest.approx(expected, rel=0.01, abs=2e-3 + left_out)


@given(rate_rps=st.floats(1e-5, 500), index=st.floats(1, 1000))
def test_bursts_are_never_far_shorter_than_the_time_between_requests(
    rate_rps: float, index: float
) -> None:
    variance, length_s = burst_shape(rate_rps, index)
    assert variance == 0.0 or (variance >= 1 and length_s * rate_rps >= 0.05 * (1 - 1e-9))


@pytest.mark.parametrize(("rate_rps", "index"), [(1e-3, 1.5), (1e-2, 1.2)])
def test_a_rare_stream_has_the_index_of_dispersion_that_is_declared(
    rate_rps: float, index: float
) -> None:
    arrival_s = arrivals([stream(rate_rps, index)], duration_s=16_000 / rate_rps, seed=1).arrival_s
    assert index_of_dispersion(arrival_s) == pytest.approx(index, rel=0.15)


@given(variance=st.floats(1e-4, 0.5))
def test_swings_have_the_mean_one_and_nearly_their_variance(variance: float) -> None:
    levels = swing_levels(variance)
    assert levels.mean() == pytest.approx(1)
    assert 0.85 * variance < levels.var() <= variance


@settings(max_examples=20, deadline=None)
@given(rate_rps=st.floats(1, 20), more=st.floats(1.1, 3), seed=st.integers(0, 1000))
def test_a_higher_rate_brings_more_requests_of_the_same_lengths_by_the_same_seed(
    rate_rps: float, more: float, seed: int
) -> None:
    low = arrivals([stream(rate_rps, 1)], duration_s=300, seed=seed)
    high = arrivals([stream(rate_rps * more, 1)], duration_s=300, seed=seed)
    assert len(high) >= len(low)
    assert (high.arrival_s[: len(low)] <= low.arrival_s).all()


def test_the_same_seed_gives_the_same_stream_and_another_one_another() -> None:
    first, same, other = (
        arrivals([stream(5, 20)], duration_s=500, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.arrival_s, same.arrival_s)
    assert np.array_equal(first.output_tokens, same.output_tokens)
    assert not np.array_equal(first.arrival_s[:50], other.arrival_s[:50])


def test_streams_are_merged_in_order_and_know_their_use_case() -> None:
    streams = [Stream(index, rate, 4, TOKENS) for index, rate in ((0, 2.0), (3, 8.0))]
    merged = arrivals(streams, duration_s=2000, seed=1)
    assert (np.diff(merged.arrival_s) >= 0).all()
    assert merged.arrival_s[0] >= 0
    assert merged.arrival_s[-1] < 2000
    assert set(merged.use_case) == {0, 3}
    assert (merged.use_case == 3).mean() == pytest.approx(0.8, abs=0.05)


@given(
    mean=st.floats(5, 20_000),
    ratio=st.floats(1.05, 3.5),
    room=st.floats(1.2, 10),
)
def test_lengths_have_the_declared_mean_and_p95_and_are_cut(
    mean: float, ratio: float, room: float
) -> None:
    uniform = (np.arange(20_000) + 0.5) / 20_000
    found = lengths(mean, mean * ratio, mean * ratio * room, uniform)
    assert found.min() >= 1
    assert found.max() <= mean * ratio * room
    assert found.mean() == pytest.approx(mean, rel=0.02, abs=0.6)
    assert np.percentile(found, 95) == pytest.approx(mean * ratio, rel=0.02, abs=0.6)


def test_a_p95_that_is_not_above_the_mean_gives_equal_lengths() -> None:
    assert set(lengths(100, 90, 500, np.linspace(0.01, 0.99, 50))) == {100}


def test_a_trace_is_replayed_in_place_of_the_declaration_at_the_declared_rate() -> None:
    recorded = Trace(np.array([7.0, 8.0, 11.0]), np.array([10, 20, 30]), np.array([1, 2, 3]))
    assert recorded.span_s == pytest.approx(6)
    found = arrivals([stream(1.0, 500, recorded)], duration_s=7.0, seed=1)
    # Three requests in 6 s are squeezed into 3 s, and come again after them.
    assert found.arrival_s == pytest.approx([0, 0.5, 2.0, 3.0, 3.5, 5.0, 6.0, 6.5])
    assert list(found.prompt_tokens) == [10, 20, 30, 10, 20, 30, 10, 20]


def test_the_index_of_counts_that_are_all_equal_is_zero_and_of_nothing_unknown() -> None:
    assert index_of_dispersion(np.arange(0, 1000, 0.5)) == pytest.approx(0)
    assert math.isnan(index_of_dispersion(np.empty(0)))
    assert math.isnan(index_of_dispersion(np.array([1.0, 2.0])))
