"""Streams of requests as a use case declares them, or as they were recorded.

A declared stream is a doubly stochastic Poisson process: its rate is the declared one times two
random factors of mean 1, the swings of an hour and bursts. Their shapes were chosen on the two
traces of the Azure LLM inference data set (2023, CC-BY-4.0; Patel et al., "Splitwise", ISCA 2024),
so that a plan from a stream's summary agrees with the replay of the stream itself:

- Swings are gamma distributed with variance `SWING_VARIANCE`, and last long beside a request. The
  conversation trace is of this kind: the variance of its rate is the same over 10 s and 300 s.
  They do not average out as traffic grows, so that every stream that is not Poisson has them.
- Bursts carry what the declared index of dispersion leaves: regimes of exponential length, each
  silent or of an exponential rate, with variance `BURST_VARIANCE`. The code trace is of this kind.
  How long regimes last follows from the index, since the variance of their mean over 10 s is known.

So a stream's index in 10 s windows is the declared one, or what the swings alone give if that is
more. An index of 1 is a Poisson process.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from gpufleet.core.capacity.requests import Floats, Integers, Requests
from gpufleet.spec.serving import Tokens

WINDOW_S: Final = 10.0
"""Window of the declared index of dispersion."""
SWING_VARIANCE: Final = 0.07
BURST_VARIANCE: Final = 4.0
FULL_SWING_INDEX: Final = 3.0
"""Index of dispersion from which a stream has whole swings; below, they shrink to none at 1."""
STRATA: Final = 16
"""Levels of the swings, each of equal probability and for an equal part of the time: a plan does
not depend on the luck of few draws."""
MAX_PROMPT: Final = 1.25
"""Longest prompt as a multiple of the 95th percentile. Services cut prompts to the context that
they accept, and in both traces that is where the p95 stands: their p99 is 1.01 of it."""
_HALVINGS: Final = 40
_R2: Final = np.array([0.7548776662466927, 0.5698402909980532])
"""Inverse of the plastic number, and its square (M. Roberts, 2018)."""
_FEWEST_REGIMES: Final = 40
"""In whose random order no regime tells much of the next."""
_SHORTEST_BURST_S: Final = 1e-3
_FEWEST_IN_REGIME: Final = 0.05
"""Requests of a mean regime at least: of shorter ones a request sees nothing, and a simulation of
few requests would have millions."""
_WIDEST: Final = 6.0
"""Largest sigma of lengths."""
_Z95: Final = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True)
class Trace:
    """Recorded requests in the order of their arrival."""

    arrival_s: Floats
    prompt_tokens: Integers
    output_tokens: Integers

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def span_s(self) -> float:
        """From the first arrival to where the one after the last would be."""
        count = len(self)
        return float(self.arrival_s[-1] - self.arrival_s[0]) * count / max(1, count - 1)


@dataclass(frozen=True)
class Stream:
    """One use case's requests, as declared or as recorded."""

    use_case: int
    """Its index."""
    rate_rps: float
    index_of_dispersion: float
    """Variance over mean of the counts in windows of 10 s."""
    tokens: Tokens
    trace: Trace | None = None
    """Replayed in place of index and tokens, its times scaled to `rate_rps`."""


def arrivals(streams: Sequence[Stream], *, duration_s: float, seed: int) -> Requests:
    """The requests of several streams, merged by arrival.

    The same seed gives the same swings, bursts and lengths at every rate, so that plans compare.

    Args:
        streams: independent of each other; rates above zero.
        duration_s: arrivals lie in [0, `duration_s`).
        seed: of everything random.
    """
    parts = [_requests(stream, duration_s, seed) for stream in streams]
    merged = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    order = np.argsort(merged[0], kind="stable")
    return Requests(*(column[order] for column in merged))


def index_of_dispersion(arrival_s: Floats, window_s: float = WINDOW_S) -> float:
    """Variance over mean of the counts in whole windows; NaN where there is none."""
    counted = arrival_s - arrival_s[0] if len(arrival_s) else arrival_s
    windows = int(counted[-1] / window_s) if len(counted) else 0
    if not windows:
        return math.nan
    counts = np.bincount((counted / window_s).astype(np.int64))[:windows]
    return float(counts.var() / counts.mean())


def lengths(mean: float, p95: float, most: float, uniform: Floats) -> Integers:
    """Token counts of a lognormal distribution that is cut at `most`, with a given mean and p95.

    A p95 that is not above the mean gives equal lengths.

    Args:
        mean: tokens, of the lengths as they are cut.
        p95: 95th percentile.
        most: longest.
        uniform: quantile of each length, within (0, 1).
    """
    from scipy.special import ndtri  # noqa: PLC0415 - only those who simulate pay for the import

    sigma = _sigma(p95 / mean, max(1.0, most / p95))
    middle = math.log(p95) - _Z95 * sigma if sigma else math.log(mean)
    tokens = np.exp(middle + sigma * ndtri(uniform))
    counts: Integers = np.clip(np.rint(tokens), 1, max(1.0, most)).astype(np.int64)
    return counts


@functools.lru_cache(maxsize=1024)
def _sigma(ratio: float, cut: float) -> float:
    """The sigma with which p95 over mean is `ratio`, cut at `cut` times the p95."""

    def mean(sigma: float) -> float:
        """Of `min(X, cut)`, in units of the p95."""
        below = NormalDist().cdf(math.log(cut) / sigma + _Z95 - sigma)
        above = 1 - NormalDist().cdf(math.log(cut) / sigma + _Z95)
        return math.exp(sigma**2 / 2 - _Z95 * sigma) * below + cut * above

    low, high = 1e-3, _Z95
    if ratio <= 1 / mean(low):
        return 0.0
    # Without the cut the mean would grow again from here on; the cut allows a little more.
    while high < _WIDEST and mean(high + 0.05) < mean(high):
        high += 0.05
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if mean(middle) * ratio > 1:
            low = middle
        else:
            high = middle
    return high


def _requests(
    stream: Stream, duration_s: float, seed: int
) -> tuple[Floats, Integers, Integers, Integers]:
    if stream.trace is not None:
        columns = _replayed(stream.trace, stream.rate_rps, duration_s)
    else:
        columns = _declared(stream, duration_s, seed)
    return *columns, np.full(len(columns[0]), stream.use_case, np.int64)


def _replayed(
    trace: Trace, rate_rps: float, duration_s: float
) -> tuple[Floats, Integers, Integers]:
    """A trace from its beginning, scaled to a rate, again and again until the end."""
    scale = len(trace) / (rate_rps * trace.span_s)
    times = math.ceil(duration_s / (trace.span_s * scale))
    once = (trace.arrival_s - trace.arrival_s[0]) * scale
    arrival_s = np.concatenate([once + turn * trace.span_s * scale for turn in range(times)])
    kept = arrival_s < duration_s
    prompts, outputs = np.tile(trace.prompt_tokens, times), np.tile(trace.output_tokens, times)
    return arrival_s[kept], prompts[kept], outputs[kept]


def _declared(stream: Stream, duration_s: float, seed: int) -> tuple[Floats, Integers, Integers]:
    levels, bursts, clock, sizes = (
        np.random.default_rng([seed, stream.use_case, part]) for part in range(4)
    )
    edges_s, factor = _modulation(stream, duration_s, levels, bursts)
    # Arrivals of a unit Poisson process, at the times when so many are expected.
    expected = np.concatenate([[0.0], np.cumsum(stream.rate_rps * factor * np.diff(edges_s))])
    room = int(expected[-1] + 6 * math.sqrt(expected[-1]) + 20)
    passed = np.cumsum(clock.exponential(size=room))
    arrival_s = np.interp(passed[passed < expected[-1]], expected, edges_s)
    tokens, count = stream.tokens, len(arrival_s)
    quantiles = np.clip(sizes.random((room, 2)), 1e-9, 1 - 1e-9)[:count]
    return (
        arrival_s,
        lengths(
            tokens.prompt_mean, tokens.prompt_p95, MAX_PROMPT * tokens.prompt_p95, quantiles[:, 0]
        ),
        lengths(tokens.output_mean, tokens.output_p95, tokens.output_max, quantiles[:, 1]),
    )


def _modulation(
    stream: Stream, duration_s: float, levels: np.random.Generator, bursts: np.random.Generator
) -> tuple[Floats, Floats]:
    """Edges of the pieces in which the rate is constant, and its factor in each."""
    swing = swing_variance(stream.index_of_dispersion)
    blocks_s = np.linspace(0, duration_s, STRATA + 1)
    factor = levels.permutation(swing_levels(swing))
    variance, length_s = burst_shape(stream.rate_rps, stream.index_of_dispersion)
    if variance == 0.0:
        return blocks_s, factor
    count = int(1.2 * duration_s / length_s + 20 * math.sqrt(duration_s / length_s) + 20)
    per_block = max(_FEWEST_REGIMES, int(duration_s / length_s / STRATA))
    lasting, height = _even_pairs(bursts, count, per_block)
    regimes_s = np.concatenate([[0.0], np.cumsum(-length_s * np.log1p(-lasting))])
    share = 2 / (1 + variance)
    heights = np.append(np.maximum(0.0, -np.log((1 - height) / share)) / share, 0.0)
    edges_s = np.unique(np.concatenate([blocks_s, regimes_s[regimes_s < duration_s]]))
    begins_s = edges_s[:-1]
    block = np.searchsorted(blocks_s, begins_s, side="right") - 1
    regime = np.searchsorted(regimes_s, begins_s, side="right") - 1
    return edges_s, factor[block] * heights[regime]


def _even_pairs(generator: np.random.Generator, count: int, per_block: int) -> Floats:
    """Pairs of uniform numbers that fill the unit square evenly, in random order; (2, `count`).

    Any stretch of Roberts' R2 sequence is even; order is random within stretches of `per_block`,
    so that each block of swings sees bursts of every length and height.
    """
    pairs = (generator.random((2, 1)) + np.outer(_R2, np.arange(count))) % 1.0
    order = np.argsort(np.arange(count) // per_block + generator.random(count))
    even: Floats = pairs[:, order]
    return even


def swing_variance(index_of_dispersion: float) -> float:
    """Variance of the swings' factor."""
    share = (index_of_dispersion - 1) / (FULL_SWING_INDEX - 1)
    return SWING_VARIANCE * min(1.0, share)


@functools.lru_cache(maxsize=64)
def swing_levels(variance: float) -> Floats:
    """Means of a gamma distribution of mean 1 in `STRATA` parts of equal probability."""
    if variance == 0.0:
        return np.ones(STRATA)
    from scipy.special import gammainc, gammaincinv  # noqa: PLC0415 - as in `lengths`

    shape = 1 / variance
    edges = gammaincinv(shape, np.linspace(0, 1, STRATA + 1)[1:-1])
    share = np.concatenate([[0.0], gammainc(shape + 1, edges), [1.0]])
    levels: Floats = STRATA * np.diff(share)
    levels.setflags(write=False)
    return levels


@functools.lru_cache(maxsize=1024)
def burst_shape(rate_rps: float, index_of_dispersion: float) -> tuple[float, float]:
    """Variance of the bursts' factor and mean length of a regime, s; 0 where there are none.

    The variance of the mean of a regime process over a window is `variance * g(window / length)`,
    with `g(x) = 2 (x - 1 + exp(-x)) / x^2`. Regimes that would be too short for the rate are longer
    and vary less, at the same index; an index within 0.1 of 1 may be left without bursts.
    """
    whole = (index_of_dispersion - 1) / (rate_rps * WINDOW_S)
    wanted = (1 + whole) / (1 + swing_variance(index_of_dispersion)) - 1
    variance = max(BURST_VARIANCE, wanted / 0.9)
    low, high = _SHORTEST_BURST_S, 1000 * WINDOW_S
    if wanted <= variance * _smoothed(WINDOW_S / low):
        return 0.0, 0.0
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        if variance * _smoothed(WINDOW_S / middle) < wanted:
            low = middle
        else:
            high = middle
    length_s = max(high, _FEWEST_IN_REGIME / rate_rps)
    variance = wanted / _smoothed(WINDOW_S / length_s) if length_s > high else variance
    # A factor that is silent or exponential has a variance of 1 at least.
    return (variance, length_s) if variance >= 1 else (0.0, 0.0)


def rate_variance(stream: Stream, window_s: float) -> float:
    """Variance of a stream's rate over its mean squared, seen through windows of `window_s`."""
    if stream.trace is not None:
        scale = len(stream.trace) / (stream.rate_rps * stream.trace.span_s)
        index = index_of_dispersion(stream.trace.arrival_s * scale, window_s)
        return max(0.0, index - 1) / (stream.rate_rps * window_s) if index > 1 else 0.0
    variance, length_s = burst_shape(stream.rate_rps, stream.index_of_dispersion)
    bursts = variance * _smoothed(window_s / length_s) if variance else 0.0
    return (1 + swing_variance(stream.index_of_dispersion)) * (1 + bursts) - 1


def _smoothed(windows: float) -> float:
    return 2 * (windows - 1 + math.exp(-windows)) / windows**2
