"""When each request of a load is sent, and how long it is."""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from gpufleet.core.capacity.arrivals import MAX_PROMPT, Stream, Trace, lengths
from gpufleet.core.capacity.arrivals import arrivals as recorded
from gpufleet.core.capacity.requests import Floats, Integers
from gpufleet.spec.errors import BadInput
from gpufleet.spec.serving import Tokens
from gpufleet.spec.serving_bench import Sending

Kind = Literal["poisson", "gamma", "constant", "trace"]
LONGEST_S: Final = 86_400.0
MOST_REQUESTS: Final = 2_000_000
MOST_DISPERSED: Final = 1000.0
_FORMS: Final = "poisson, constant, gamma:DISPERSION such as gamma:4, or trace:FILE.csv"


@dataclass(frozen=True)
class Arrivals:
    """An arrival process.

    `gamma` is a renewal process: times between requests are gamma distributed, and their squared
    coefficient of variation is the index of dispersion (variance over mean of the counts) of long
    windows; 1 is Poisson. Source: D. R. Cox, "Renewal Theory", 1962, chapter 4.
    """

    kind: Kind
    dispersion: float = 1.0
    file: str = ""
    """Of recorded requests; replayed with their own lengths, their times scaled to the rate."""

    def __str__(self) -> str:
        match self.kind:
            case "gamma":
                return f"gamma:{self.dispersion:g}"
            case "trace":
                return f"trace:{self.file}"
            case _:
                return self.kind


def arrivals_of(text: str) -> Arrivals:
    """The arrival process that a word names.

    Raises:
        BadInput: it names none.
    """
    kind, _, rest = text.partition(":")
    match kind:
        case "poisson" | "constant" if not rest:
            return Arrivals("poisson" if kind == "poisson" else "constant")
        case "gamma" if rest:
            try:
                dispersion = float(rest)
            except ValueError:
                dispersion = math.nan
            if 0 < dispersion <= MOST_DISPERSED:
                return Arrivals("gamma", dispersion)
            what = f"`{rest:.40}` is not an index of dispersion from 0 to {MOST_DISPERSED:g}"
            raise BadInput(what, where="--arrivals", mend=f"one of {_FORMS}")
        case "trace" if rest:
            return Arrivals("trace", file=rest)
    raise BadInput(
        f"`{text:.40}` is not an arrival process", where="--arrivals", mend=f"one of {_FORMS}"
    )


def sendings(  # noqa: PLR0913 - a load has that many parts
    arrivals: Arrivals,
    *,
    rate_rps: float,
    duration_s: float,
    tokens: Tokens,
    stream_share: float,
    seed: int,
    trace: Trace | None = None,
) -> tuple[Sending, ...]:
    """Every request of an open load, in the order in which it is sent; the same for the same seed.

    Args:
        arrivals: the process.
        rate_rps: mean rate.
        duration_s: requests are sent in [0, `duration_s`).
        tokens: lengths, where no trace gives them.
        stream_share: share of the requests whose answer is streamed.
        seed: of everything random.
        trace: of the process `trace`.

    Raises:
        BadInput: it would be too long, or too many.
    """
    if not 0 < duration_s <= LONGEST_S:
        raise BadInput(f"has to last up to {LONGEST_S:g} s", where="--duration-s")
    if not 0 < rate_rps * duration_s <= MOST_REQUESTS:
        raise BadInput(
            f"{rate_rps:g}/s for {duration_s:g} s is not from 1 to {MOST_REQUESTS:,} requests",
            where="--rate",
        )
    clock, sizes, choice = (np.random.default_rng([seed, part]) for part in range(3))
    if trace is not None:
        stream = Stream(0, rate_rps, 1.0, tokens, trace)
        replayed = recorded([stream], duration_s=duration_s, seed=seed)
        at_s, prompts, outputs = replayed.arrival_s, replayed.prompt_tokens, replayed.output_tokens
    else:
        at_s = _times(arrivals, rate_rps, duration_s, clock)
        prompts, outputs = token_counts(tokens, len(at_s), sizes)
    streamed = choice.random(len(at_s)) < stream_share
    return tuple(
        Sending(float(at), int(prompt), int(output), bool(stream))
        for at, prompt, output, stream in zip(at_s, prompts, outputs, streamed, strict=True)
    )


def token_counts(
    tokens: Tokens, count: int, generator: np.random.Generator
) -> tuple[Integers, Integers]:
    """Lengths of so many prompts and answers, lognormal as capacity plans have them."""
    uniform = np.clip(generator.random((count, 2)), 1e-9, 1 - 1e-9)
    longest = MAX_PROMPT * tokens.prompt_p95
    return (
        lengths(tokens.prompt_mean, tokens.prompt_p95, longest, uniform[:, 0]),
        lengths(tokens.output_mean, tokens.output_p95, tokens.output_max, uniform[:, 1]),
    )


def _times(
    arrivals: Arrivals, rate_rps: float, duration_s: float, clock: np.random.Generator
) -> Floats:
    if arrivals.kind == "constant":
        # Not at 0: half a gap in, so that the last one has its full gap before the end too.
        count = max(1, round(rate_rps * duration_s))
        return np.asarray((np.arange(count) + 0.5) * (duration_s / count), np.float64)
    shape = 1 / arrivals.dispersion
    parts = []
    until_s = 0.0
    while until_s < duration_s:
        gaps = clock.gamma(shape, 1 / (shape * rate_rps), size=1024)
        part = until_s + np.cumsum(gaps)
        until_s = float(part[-1])
        parts.append(part)
    at_s: Floats = np.concatenate(parts)
    return at_s[at_s < duration_s]
