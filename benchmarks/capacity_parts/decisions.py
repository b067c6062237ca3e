"""Plans from a stream's summary beside the fewest replicas that hold when the stream is replayed.

The two Azure traces at several rates, on two replicas of plausible speed and with two promises
each: their times scaled (as a fleet file's `trace` is), four copies side by side, a random half.
A plan sees the mean rate, the index of dispersion, and mean and p95 of the lengths, as a fleet file
declares them; the replay sees the trace. Beside it what peers use, given the same replica's full
rate: the article's rule (rate over rate, rounded up), Erlang C with the same limit on waiting, and
square-root staffing.
"""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpufleet.core.capacity import queueing
from gpufleet.core.capacity.arrivals import Stream, Trace, index_of_dispersion
from gpufleet.core.capacity.bounds import Demand, Target, full_rates, lone_s
from gpufleet.core.capacity.replica import Evidence, ReplicaSpeed
from gpufleet.core.capacity.requests import Limits, Requests
from gpufleet.core.capacity.simulator import simulate
from gpufleet.core.capacity.sizing import fewest_replicas, first_true, keeps, predict
from gpufleet.spec.serving import Tokens

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TRACES = {
    "conversation": ("azure_conv_2023.csv.gz", 1000),
    "code": ("azure_code_2023.csv.gz", 2000),
}
"""File and longest answer, tokens."""
SCALES = (0.5, 1, 2, 4, 9)
QUICK_SCALES = (1, 4)
COPIES = 4
KEPT = 0.5
SPEEDS = {
    "8B": ReplicaSpeed(
        decode_s=tuple(np.linspace(0.008, 0.022, 65)),
        kv_token_s=1e-8,
        prefill_token_s=2e-5,
        attention_s=1e-9,
        first_token_s=0.01,
        kv_capacity_tokens=400_000,
        chunk_tokens=2048,
        evidence=Evidence.MEASURED_POINTS,
        source="made up, near an 8B model on one H100",
    ),
    "70B": ReplicaSpeed(
        decode_s=tuple(np.linspace(0.020, 0.045, 49)),
        kv_token_s=2e-8,
        prefill_token_s=8e-5,
        attention_s=1e-9,
        first_token_s=0.01,
        kv_capacity_tokens=400_000,
        chunk_tokens=2048,
        evidence=Evidence.MEASURED_POINTS,
        source="made up, near a 70B model on four H100",
    ),
}
PROMISES = {"tight": (1.6, 1.0), "loose": (2.5, 3.0)}
"""p95 as a multiple of what a lone request takes at p95; p95 of the time to the first token, s."""


def read(name: str) -> tuple[Trace, Tokens]:
    """A trace with the summary that a fleet file would declare."""
    file, longest = TRACES[name]
    with gzip.open(DATA / file, "rt") as stream:
        table = np.loadtxt(stream, delimiter=",", skiprows=1)
    prompt, output = (np.maximum(1, table[:, column]) for column in (1, 2))
    tokens = Tokens(
        prompt_mean=float(prompt.mean()),
        prompt_p95=float(np.percentile(prompt, 95)),
        output_mean=float(output.mean()),
        output_p95=float(np.percentile(output, 95)),
        output_max=longest,
    )
    return Trace(table[:, 0], prompt.astype(np.int64), output.astype(np.int64)), tokens


def scaled(trace: Trace, scale: float) -> Trace:
    """The trace `scale` times as fast."""
    return replace(trace, arrival_s=trace.arrival_s / scale)


def side_by_side(trace: Trace, copies: int) -> Trace:
    """Copies of a trace at once, each begun at another place."""
    span_s = trace.span_s
    shifts = [copy * span_s / copies for copy in range(copies)]
    arrival_s = np.concatenate([(trace.arrival_s + shift) % span_s for shift in shifts])
    order = np.argsort(arrival_s, kind="stable")
    lengths = (np.tile(each, copies) for each in (trace.prompt_tokens, trace.output_tokens))
    return Trace(arrival_s[order], *(each[order] for each in lengths))


def thinned(trace: Trace, share: float) -> Trace:
    """A random share of the requests."""
    kept = np.random.default_rng(1).random(len(trace)) < share
    return Trace(trace.arrival_s[kept], trace.prompt_tokens[kept], trace.output_tokens[kept])


def decision(
    trace: Trace, tokens: Tokens, speed: ReplicaSpeed, promise: tuple[float, float]
) -> dict[str, Any]:
    """One row: what the plan and the peers choose, and what holds."""
    arrival_s = trace.arrival_s
    rate_rps = len(trace) / trace.span_s
    requests = Requests(
        arrival_s, trace.prompt_tokens, trace.output_tokens, np.zeros(len(trace), np.int64)
    )
    demand = Demand(trace.prompt_tokens.astype(float), trace.output_tokens.astype(float))
    alone_s, alone_first_s = (float(np.percentile(each, 95)) for each in lone_s(speed, demand))
    target = Target(0, promise[0] * alone_s, promise[1], 0.01)
    index = max(1.0, index_of_dispersion(arrival_s))
    stream = Stream(0, rate_rps, index, tokens)
    sized = fewest_replicas([stream], [target], speed, most=10_000, seed=1)
    planned = sized.replicas if sized else 0

    def holds(replicas: int) -> bool:
        outcome = simulate(requests, speed, replicas, Limits(2**40, float("inf")))
        return keeps(predict([outcome], target), target)

    fewest = first_true(holds, 1, planned, 10_000) or 0
    replica_rps = float(full_rates(speed, [stream]).max())
    patience_s = min(target.p95_s - alone_s, target.ttft_p95_s - alone_first_s)
    return {
        "rate_rps": round(rate_rps, 1),
        "index": round(index, 1),
        "fewest": fewest,
        "plan": planned,
        "rule": queueing.replicas_by_rate(rate_rps, replica_rps),
        "erlang_c": queueing.replicas_by_erlang_c(rate_rps, replica_rps, patience_s),
        "square_root": queueing.replicas_by_square_root(rate_rps, replica_rps),
    }


def verdict(chosen: int, fewest: int) -> str:
    """`missed`: the promise is broken; `wasted`: more than one replica and 10 % too many."""
    if chosen < fewest:
        return "missed"
    return "good" if chosen - fewest <= max(1, 0.1 * fewest) else "wasted"


def rows(*, quick: bool = False) -> list[dict[str, Any]]:
    """A row for each trace, rate, replica and promise."""
    found = []
    for name in TRACES:
        recorded, tokens = read(name)
        made = {
            f"times {scale:g}": scaled(recorded, scale)
            for scale in (QUICK_SCALES if quick else SCALES)
        }
        if not quick:
            made[f"{COPIES} copies"] = side_by_side(recorded, COPIES)
            made["half"] = thinned(recorded, KEPT)
        for how, trace in made.items():
            for replica, speed in SPEEDS.items():
                for promise, limits in PROMISES.items():
                    row = decision(trace, tokens, speed, limits)
                    case = {"trace": name, "made": how, "replica": replica, "promise": promise}
                    found.append({**case, **row})
    return found


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Print the table, and how often each way to decide was good."""
    found = rows(quick=quick)
    print("\n".join(table(found)))
    return found


def table(found: list[dict[str, Any]]) -> list[str]:
    """Markdown: the rows, then the counts of verdicts."""
    ways = ("plan", "rule", "erlang_c", "square_root")
    head = ("trace", "made", "rate_rps", "index", "replica", "promise", "fewest", *ways)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(row[column]) for column in head) + " |" for row in found]
    lines += ["", "| chosen by | good | wasted | missed |", "|---|---|---|---|"]
    for way in ways:
        verdicts = [verdict(row[way], row["fewest"]) for row in found]
        counts = [str(verdicts.count(each)) for each in ("good", "wasted", "missed")]
        lines.append(f"| {way} | " + " | ".join(counts) + " |")
    return lines
