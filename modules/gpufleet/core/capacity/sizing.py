"""The fewest replicas that keep every promise of a pool, and what users see with them.

Closed forms say where to look; the simulation decides. All candidates see the same requests, so
that luck never makes fewer replicas look better than more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from gpufleet.core.capacity.arrivals import (
    STRATA,
    WINDOW_S,
    Stream,
    arrivals,
    rate_variance,
)
from gpufleet.core.capacity.bounds import (
    Target,
    closed_form_bounds,
    demand_of,
    full_rates,
    lone_s,
)
from gpufleet.core.capacity.replica import ReplicaSpeed
from gpufleet.core.capacity.requests import SERVED, Limits, Outcome, Requests
from gpufleet.core.capacity.simulator import simulate

TIMEOUT_S: Final = 600.0
"""A client's patience: the default of OpenAI's client library (openai-python 2, `timeout`)."""
BURSTY: Final = 0.2
"""Variance of a declared rate in 10 s windows, over its mean squared, from which a plan has one
replica more: a summary does not say how such bursts follow each other."""
LATENCY_MARGIN: Final = 0.95
"""Share of a declared stream's limits that a plan uses: a summary is not the stream itself. A
recorded one is planned on the limits as they are."""
SEEDS: Final = 3
REQUESTS: Final = 5_000
"""Simulated for each seed of a stream that hardly varies; more, up to `MOST_REQUESTS`, where few
bursts carry its 95th percentile, or answers are long beside the time that this takes."""
MOST_REQUESTS: Final = 16_000
MOST_TRACED: Final = 100_000
"""Simulated beside a trace that is slower than other streams; a longer trace counts for itself."""
FEWEST_SEEN: Final = 100
"""Requests of each use case in a simulation at least: a rarer one is simulated as often, since a
95th percentile of a handful is luck, and of none unknown."""
SIMULATED_REPLICAS: Final = 48
"""Larger pools are simulated as an equal part of themselves: a part has a little less to share, so
that its answer is on the careful side."""
_UNLIMITED: Final = Limits(queue_limit=2**40, timeout_s=float("inf"))
_LONGEST_SWING_S: Final = 600.0


@dataclass(frozen=True)
class Prediction:
    """What one use case sees."""

    use_case: int
    p95_s: float
    ttft_p95_s: float
    error_rate: float


@dataclass(frozen=True)
class Sized:
    """A pool that keeps its promises."""

    replicas: int
    smooth_replicas: int
    """That would do if arrivals at the same rate were Poisson."""
    queue_limit: int
    """Most requests that wait at one replica; more are refused at once."""
    queue_time_target_s: float
    """Time in queue at which the autoscaler adds a replica."""
    utilization: float
    """Share of the replicas' time in which they do something."""
    load: float
    """Share of the replicas' full rate that is asked of them."""
    predictions: tuple[Prediction, ...]
    """By target."""
    latency: tuple[tuple[int, float, float], ...]
    """By replicas: p95 and TTFT p95 of the target that is nearest to its limit, s."""


def fewest_replicas(  # noqa: PLR0913 - what is asked, and within which bounds
    streams: Sequence[Stream],
    targets: Sequence[Target],
    speed: ReplicaSpeed,
    *,
    least: int = 1,
    most: int,
    seed: int,
) -> Sized | None:
    """The fewest replicas that keep every use case's promise; None where `most` do not.

    Args:
        streams: of the pool's use cases, at the rates that it is sized for.
        targets: of the same use cases.
        speed: of one replica.
        least: replicas that run in any case.
        most: replicas that there is room for.
        seed: of the simulated traffic.

    Raises:
        Unreachable: no number of replicas would do.
    """
    search = _Search(streams, targets, speed, seed)
    replicas = search.fewest(most, least)
    if replicas is None:
        return None
    smooth = _Search(_smooth(streams), targets, speed, seed, seeds=1).fewest(replicas)
    queue_s = _longest_wait_s(streams, targets, speed)
    full_rps = float(full_rates(speed, streams).max())
    limit, outcomes = search.with_queue_limit(replicas, max(1, int(queue_s * full_rps)))
    for shown in (replicas, replicas + 1):
        search.holds(shown)
    return Sized(
        replicas=replicas,
        smooth_replicas=replicas if smooth is None else smooth,
        queue_limit=limit,
        queue_time_target_s=round(max(queue_s / 2, 0.05), 3),
        utilization=float(np.mean([outcome.busy_share for outcome in outcomes])),
        load=sum(stream.rate_rps for stream in streams) / (replicas * full_rps),
        predictions=tuple(predict(outcomes, target) for target in targets),
        latency=search.curve(),
    )


def smooth_replicas(
    streams: Sequence[Stream],
    targets: Sequence[Target],
    speed: ReplicaSpeed,
    *,
    most: int,
    seed: int,
) -> int | None:
    """The fewest that keep every promise when arrivals are Poisson; as `fewest_replicas`."""
    return _Search(_smooth(streams), targets, speed, seed, seeds=1).fewest(most)


def predict(outcomes: Sequence[Outcome], target: Target) -> Prediction:
    """What a use case sees: of several simulated times the median, which no odd one decides.

    Where nothing was served, latency is infinite.
    """
    seen = [_seen(outcome.of(target.use_case)) for outcome in outcomes]
    p95_s, ttft_p95_s, _ = np.median(seen, axis=0)
    error_rate = np.mean(seen, axis=0)[2]
    return Prediction(target.use_case, float(p95_s), float(ttft_p95_s), float(error_rate))


def _seen(outcome: Outcome) -> tuple[float, float, float]:
    """p95, p95 of the time to the first token, and share that was not served."""
    served = outcome.status == SERVED
    if not served.any():
        return float("inf"), float("inf"), 1.0
    p95_s, ttft_p95_s = (
        float(np.percentile(seconds[served], 95)) for seconds in (outcome.e2e_s, outcome.ttft_s)
    )
    return p95_s, ttft_p95_s, float(1 - served.mean())


def keeps(prediction: Prediction, target: Target) -> bool:
    """Whether a promise is kept."""
    return (
        prediction.p95_s <= target.p95_s
        and prediction.ttft_p95_s <= target.ttft_p95_s
        and prediction.error_rate <= target.error_rate
    )


class _Search:
    """Simulates numbers of replicas on the same requests, each of them once."""

    def __init__(
        self,
        streams: Sequence[Stream],
        targets: Sequence[Target],
        speed: ReplicaSpeed,
        seed: int,
        seeds: int = SEEDS,
    ) -> None:
        self._targets, self._speed = targets, speed
        self._bounds = closed_form_bounds(streams, targets, speed)
        traced = {stream.use_case for stream in streams if stream.trace is not None}
        declared = [stream for stream in streams if stream.trace is None]
        variance = max((rate_variance(stream, WINDOW_S) for stream in declared), default=0.0)
        self._doubt = 1 if variance >= BURSTY else 0
        # A part of a trace is another stream, so that a pool with one is simulated whole.
        self._parts = 1 if traced else -(-self._bounds.likely // SIMULATED_REPLICAS)
        part = [_part_of(stream, self._parts) for stream in streams]
        duration_s = _duration_s(part, targets)
        self._goals = [each if each.use_case in traced else _with_margin(each) for each in targets]
        seen = [_seen_enough(stream, duration_s) for stream in part]
        self._traffic: list[Requests] = [
            arrivals(seen, duration_s=duration_s, seed=seed + number)
            for number in range(seeds if declared else 1)
        ]
        self._seen: dict[int, tuple[Prediction, ...]] = {}
        self._votes: dict[int, bool] = {}

    def fewest(self, most: int, least: int = 1) -> int | None:
        """The fewest replicas that hold, from `least` to `most`."""
        lower = max(-(-self._bounds.lower // self._parts), (least - self._doubt) // self._parts)
        upper = most // self._parts
        likely = -(-self._bounds.likely // self._parts)
        found = first_true(self._holds_part, lower, likely, upper)
        if found is None:
            return most if self.holds(most) and most >= self._bounds.lower else None
        return min(most, max(least, found * self._parts + self._doubt))

    def holds(self, replicas: int) -> bool:
        """Whether so many keep every promise."""
        return replicas >= self._parts and self._holds_part(replicas // self._parts)

    def _holds_part(self, replicas: int) -> bool:
        """Whether most of the simulated times keep every promise; no more are run than decide."""
        if replicas not in self._votes:
            outcomes: list[Outcome] = []
            kept = 0
            majority = len(self._traffic) // 2 + 1
            for traffic in self._traffic:
                outcomes.append(simulate(traffic, self._speed, replicas, _UNLIMITED))
                found = [predict(outcomes[-1:], target) for target in self._targets]
                kept += all(map(keeps, found, self._goals))
                if kept >= majority or len(outcomes) - kept >= majority:
                    break
            self._votes[replicas] = kept >= majority
            self._seen[replicas] = tuple(predict(outcomes, target) for target in self._targets)
        return self._votes[replicas]

    def with_queue_limit(self, replicas: int, least: int) -> tuple[int, list[Outcome]]:
        """The queue limit, at least `least`, at which no more are shed than is allowed."""
        limit = least
        while True:
            outcomes = self._run(max(1, replicas // self._parts), Limits(limit, TIMEOUT_S))
            found = [predict(outcomes, target) for target in self._targets]
            errors = zip(found, self._targets, strict=True)
            if all(each.error_rate <= target.error_rate for each, target in errors):
                return limit, outcomes
            if limit > MOST_REQUESTS * SEEDS:
                return limit, outcomes
            limit *= 2

    def curve(self) -> tuple[tuple[int, float, float], ...]:
        """Latency by replicas, of those that were simulated."""
        return tuple(
            (replicas * self._parts, *_nearest(found, self._targets))
            for replicas, found in sorted(self._seen.items())
        )

    def _run(self, replicas: int, limits: Limits) -> list[Outcome]:
        return [simulate(each, self._speed, replicas, limits) for each in self._traffic]


def first_true(holds: Callable[[int], bool], lower: int, likely: int, upper: int) -> int | None:
    """The least number from `lower` to `upper` for which `holds`, looking from `likely` on.

    Whatever holds for a number holds for larger ones.
    """
    if lower > upper:
        return None
    at, step = min(max(likely, lower), upper), 1
    if holds(at):
        good = at
        while good > lower and holds(max(lower, good - step)):
            good, step = max(lower, good - step), 2 * step
        bad = max(lower, good - step) if good > lower else lower - 1
    else:
        bad = at
        while True:
            if bad == upper:
                return None
            at = min(upper, bad + step)
            if holds(at):
                good = at
                break
            bad, step = at, 2 * step
    while good - bad > 1:
        middle = (good + bad) // 2
        if holds(middle):
            good = middle
        else:
            bad = middle
    return good


def _nearest(predictions: Sequence[Prediction], targets: Sequence[Target]) -> tuple[float, float]:
    """p95 and TTFT p95 of the use case that is nearest to its limit."""
    pairs = zip(predictions, targets, strict=True)
    worst, _ = max(pairs, key=lambda pair: pair[0].p95_s / pair[1].p95_s)
    return worst.p95_s, worst.ttft_p95_s


def _with_margin(target: Target) -> Target:
    return replace(
        target,
        p95_s=LATENCY_MARGIN * target.p95_s,
        ttft_p95_s=LATENCY_MARGIN * target.ttft_p95_s,
    )


def _smooth(streams: Sequence[Stream]) -> list[Stream]:
    return [replace(stream, index_of_dispersion=1.0, trace=None) for stream in streams]


def _part_of(stream: Stream, parts: int) -> Stream:
    """A stream of an equal part of the rate, whose rate varies as much."""
    index = 1 + (stream.index_of_dispersion - 1) / parts
    return replace(stream, rate_rps=stream.rate_rps / parts, index_of_dispersion=index)


def _seen_enough(stream: Stream, duration_s: float) -> Stream:
    """A stream of which enough requests arrive to tell what they see."""
    fewest = FEWEST_SEEN if stream.trace is None else min(FEWEST_SEEN, len(stream.trace))
    return replace(stream, rate_rps=max(stream.rate_rps, fewest / duration_s))


def _duration_s(streams: Sequence[Stream], targets: Sequence[Target]) -> float:
    """Long enough for a 95th percentile, and for swings that outlast an answer."""
    rate = sum(stream.rate_rps for stream in streams)
    traces = [(len(s.trace), len(s.trace) / s.rate_rps) for s in streams if s.trace is not None]
    whole_s = max((span_s for _, span_s in traces), default=0.0)
    most = max(MOST_TRACED, *(count for count, _ in traces)) if traces else MOST_REQUESTS
    declared = [stream for stream in streams if stream.trace is None]
    if not declared:
        return min(whole_s, most / rate)
    variance = max(rate_variance(stream, WINDOW_S) for stream in declared)
    least = min(MOST_REQUESTS, REQUESTS * (1 + 3 * variance))
    swing_s = min(_LONGEST_SWING_S, max(target.p95_s for target in targets))
    usual_s = min(max(least / rate, STRATA * swing_s), MOST_REQUESTS / rate)
    return min(max(whole_s, usual_s), most / rate)


def _longest_wait_s(
    streams: Sequence[Stream], targets: Sequence[Target], speed: ReplicaSpeed
) -> float:
    """The longest that a request may wait and still be answered within every limit."""
    demands = {stream.use_case: demand_of(stream) for stream in streams}
    left_s = []
    for target in targets:
        e2e_s, ttft_s = lone_s(speed, demands[target.use_case])
        left_s.append(target.p95_s - float(np.percentile(e2e_s, 95)))
        left_s.append(target.ttft_p95_s - float(np.percentile(ttft_s, 95)))
    return max(0.0, min(left_s))
