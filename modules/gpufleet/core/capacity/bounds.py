"""What a replica can do by closed forms: its full rate, its fastest answer, how many might do.

Cheap, to prune options before any is simulated, and to begin the search where it will end.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from gpufleet.core.capacity.arrivals import (
    MAX_PROMPT,
    Stream,
    lengths,
    rate_variance,
)
from gpufleet.core.capacity.replica import ReplicaSpeed
from gpufleet.core.capacity.requests import Floats

MAX_LOAD: Final = 0.95
"""Share of its full rate that a pool is planned for at most: just below 1 a queue grows so slowly
that it passes every simulation of finite length."""
_SAMPLES: Final = 509
_GOLDEN: Final = 0.6180339887498949
_PEAK_DEVIATIONS: Final = 1.8
"""Of a skewed rate, standard deviations from the mean to where 95 % of the requests are below."""


class Unreachable(ValueError):
    """No number of replicas keeps a promise; the text says which, and what is reachable."""


@dataclass(frozen=True)
class Target:
    """What one use case was promised."""

    use_case: int
    """Its index."""
    p95_s: float
    """95th percentile from request to last token."""
    ttft_p95_s: float
    """95th percentile from request to first token."""
    error_rate: float
    """Largest share that may be shed or give up."""


@dataclass(frozen=True)
class Bounds:
    """Replicas by closed forms."""

    lower: int
    """Fewer are overloaded on average, whatever is promised."""
    likely: int
    """Where the simulation's answer is to be expected."""


@dataclass(frozen=True)
class Demand:
    """Lengths of a stream's requests, as a sample; both arrays have one shape."""

    prompt: Floats
    output: Floats


def demand_of(stream: Stream) -> Demand:
    """The lengths of a stream's trace, or an even sample of its declared ones."""
    if stream.trace is not None:
        return Demand(
            stream.trace.prompt_tokens.astype(float), stream.trace.output_tokens.astype(float)
        )
    tokens = stream.tokens
    return _even_sample(
        tokens.prompt_mean,
        tokens.prompt_p95,
        tokens.output_mean,
        tokens.output_p95,
        tokens.output_max,
    )


@functools.lru_cache(maxsize=256)
def _even_sample(
    prompt_mean: float, prompt_p95: float, output_mean: float, output_p95: float, output_max: int
) -> Demand:
    even = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    mixed = (np.arange(_SAMPLES) * _GOLDEN + 0.5) % 1.0
    prompt = lengths(prompt_mean, prompt_p95, MAX_PROMPT * prompt_p95, even)
    output = lengths(output_mean, output_p95, output_max, np.clip(mixed, 1e-6, 1 - 1e-6))
    return Demand(prompt.astype(float), output.astype(float))


def lone_s(speed: ReplicaSpeed, demand: Demand) -> tuple[Floats, Floats]:
    """Seconds of requests that each have a replica alone: to the last and to the first token."""
    chunks = np.ceil(demand.prompt / speed.chunk_tokens)
    ttft_s = speed.first_token_s + _prefill_s(speed, demand) + chunks * speed.decode_s[0]
    context = demand.prompt + demand.output / 2
    e2e_s = ttft_s + (demand.output - 1) * (speed.decode_s[1] + speed.kv_token_s * context)
    return e2e_s, ttft_s


def _prefill_s(speed: ReplicaSpeed, demand: Demand) -> Floats:
    prefill_s: Floats = (
        speed.prefill_token_s * demand.prompt + speed.attention_s * demand.prompt**2 / 2
    )
    return prefill_s


def check_reachable(
    streams: Sequence[Stream], targets: Sequence[Target], speed: ReplicaSpeed
) -> None:
    """Refuse promises that not even one request alone on a replica keeps.

    Raises:
        Unreachable: which promise, and what is reachable.
    """
    demands = {stream.use_case: demand_of(stream) for stream in streams}
    for target in targets:
        demand = demands[target.use_case]
        e2e_s, ttft_s = (float(np.percentile(each, 95)) for each in lone_s(speed, demand))
        for limit_s, alone_s, what in (
            (target.ttft_p95_s, ttft_s, "p95 of the time to the first token"),
            (target.p95_s, e2e_s, "p95 of the whole answer"),
        ):
            if alone_s > limit_s:
                raise Unreachable(
                    f"no number of replicas gives a {what} of {limit_s:g} s: a request that has a "
                    f"replica alone takes {alone_s:.3g} s"
                )
        too_long = float(np.mean(demand.prompt + demand.output > speed.kv_capacity_tokens))
        if too_long > target.error_rate:
            raise Unreachable(
                f"{too_long:.1%} of the requests are longer than the {speed.kv_capacity_tokens} "
                f"tokens that a replica's KV cache holds"
            )


def full_rates(speed: ReplicaSpeed, streams: Sequence[Stream]) -> Floats:
    """Requests/s of one replica by the number in flight, 1 to its limit, at the streams' mix.

    A step of `n` sequences gives `n` tokens; prompts are prefilled between.
    """
    output, prefill_s, held = _mean_work(speed, streams)
    in_flight = np.arange(1, speed.concurrency_limit + 1)
    step_s = np.array(speed.decode_s[1:]) + speed.kv_token_s * in_flight * held
    rates: Floats = 1 / (output * step_s / in_flight + prefill_s + 1e-12)
    room = max(1, int(speed.kv_capacity_tokens / (held + output / 2)))
    return rates[:room]


def _mean_work(speed: ReplicaSpeed, streams: Sequence[Stream]) -> tuple[float, float, float]:
    """Of a mean request: its answer's tokens, seconds of prefill, tokens held while it decodes."""
    total = sum(stream.rate_rps for stream in streams)
    output = prefill_s = held = 0.0
    for stream in streams:
        demand, share = demand_of(stream), stream.rate_rps / total
        output += share * float(demand.output.mean())
        prefill_s += share * float(_prefill_s(speed, demand).mean())
        held += share * float((demand.prompt + demand.output / 2).mean())
    return output, prefill_s, held


def closed_form_bounds(
    streams: Sequence[Stream], targets: Sequence[Target], speed: ReplicaSpeed
) -> Bounds:
    """How many replicas might do, without a simulation.

    Raises:
        Unreachable: no number does.
    """
    check_reachable(streams, targets, speed)
    rates = full_rates(speed, streams)
    total = sum(stream.rate_rps for stream in streams)
    lower = max(1, math.ceil(total / (MAX_LOAD * float(rates.max())) - 1e-9))
    patience_s = min(target.p95_s for target in targets)
    variance = sum(
        (stream.rate_rps / total) ** 2 * rate_variance(stream, patience_s) for stream in streams
    )
    peak = total * (1 + _PEAK_DEVIATIONS * math.sqrt(variance))
    quick = rates[: _most_in_flight(streams, targets, speed, rates)]
    return Bounds(lower, max(lower, math.ceil(peak / float(quick.max()))))


def _most_in_flight(
    streams: Sequence[Stream], targets: Sequence[Target], speed: ReplicaSpeed, rates: Floats
) -> int:
    """How many may share a replica so that each use case's p95 is still kept, at least 1."""
    demands = {stream.use_case: demand_of(stream) for stream in streams}
    _, prefill_s, held = _mean_work(speed, streams)
    longest = [float(np.percentile(demands[each.use_case].output, 95)) for each in targets]
    most = 1
    for number in range(len(rates), 0, -1):
        # Prefill of others takes its share of the time in which one decodes.
        decoding = max(0.05, 1 - float(rates[number - 1]) * prefill_s)
        step_s = (speed.decode_s[number] + speed.kv_token_s * number * held) / decoding
        if all(
            tokens * step_s <= each.p95_s for tokens, each in zip(longest, targets, strict=True)
        ):
            most = number
            break
    return most
