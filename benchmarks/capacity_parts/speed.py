"""How long simulating and planning take, and how much memory.

A million requests through pools of several sizes; the fewest replicas of 100 pools of made-up use
cases, one after the other; the whole plan of 100 use cases over six GPU types; and
`./fleet plan.capacity` of the sample, as a person waits for it.
"""

import resource
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from decisions import SPEEDS
from large_fleet import large_fleet

from gpufleet.core.capacity.arrivals import Stream, arrivals
from gpufleet.core.capacity.bounds import Target, Unreachable, full_rates
from gpufleet.core.capacity.plan import make_plan
from gpufleet.core.capacity.requests import Limits
from gpufleet.core.capacity.simulator import simulate
from gpufleet.core.capacity.sizing import fewest_replicas
from gpufleet.core.sources import Sources
from gpufleet.spec.serving import Tokens
from gpufleet.spec.source import Document, Position

TARGETS = {"million_s": 3.0, "memory_mb": 500.0}
REQUESTS = 1_000_000
REPLICAS = (10, 50)
POOLS = 100
LOAD = 0.8
TOKENS = Tokens(prompt_mean=1155, prompt_p95=4083, output_mean=200, output_p95=451, output_max=1024)


def million(requests: int, replicas: int) -> dict[str, Any]:
    """Seconds of one core to simulate a stream at 80 % of a pool's full rate."""
    speed = SPEEDS["8B"]
    rate_rps = LOAD * replicas * float(full_rates(speed, [Stream(0, 1.0, 1.0, TOKENS)]).max())
    stream = Stream(0, rate_rps, 1.0, TOKENS)
    traffic = arrivals([stream], duration_s=requests / rate_rps, seed=1)
    started = time.process_time()
    simulate(traffic, speed, replicas, Limits(1000, 600.0))
    seconds = time.process_time() - started
    return {"what": f"{len(traffic)} requests, {replicas} replicas", "seconds": seconds}


def pools(count: int) -> dict[str, Any]:
    """Seconds of one core for each call of `fewest_replicas`."""
    random = np.random.default_rng(1)
    taken = []
    for number in range(count):
        speed = SPEEDS[("8B", "70B")[number % 2]]
        prompt, output = random.uniform(200, 4000), random.uniform(20, 400)
        tokens = Tokens(
            prompt_mean=prompt,
            prompt_p95=prompt * random.uniform(1.5, 3.5),
            output_mean=output,
            output_p95=output * random.uniform(1.5, 3),
            output_max=2048,
        )
        stream = Stream(0, random.uniform(0.5, 30), random.uniform(1, 20), tokens)
        target = Target(0, random.uniform(10, 30), random.uniform(1, 4), 0.01)
        started = time.process_time()
        try:
            fewest_replicas([stream], [target], speed, most=1000, seed=1)
        except Unreachable:
            continue
        taken.append(time.process_time() - started)
    return {
        "what": f"fewest replicas of {len(taken)} pools, one after the other",
        "seconds": sum(taken),
        "median_ms": 1000 * statistics.median(taken),
        "longest_ms": 1000 * max(taken),
    }


def large_plan() -> dict[str, Any]:
    """Seconds of wall time to plan a company's fleet, in this process."""
    fleet = large_fleet()
    started = time.monotonic()
    plan = make_plan(fleet, {}, Sources(Document({}, {(): Position("large_fleet.py", 1, 1)})))
    seconds = time.monotonic() - started
    return {
        "what": f"plan of {len(fleet.use_cases)} use cases, {plan.gpus} GPUs",
        "wall_s": seconds,
    }


def sample_plan() -> dict[str, Any]:
    """Seconds of wall time until the sample's plan is on the terminal."""
    root = Path(__file__).resolve().parents[2]
    started = time.monotonic()
    subprocess.run(["./fleet", "plan.capacity"], cwd=root, check=True, capture_output=True)
    return {"what": "./fleet plan.capacity of the sample", "wall_s": time.monotonic() - started}


def rows(*, quick: bool = False) -> list[dict[str, Any]]:
    """A row for each measurement."""
    share = 10 if quick else 1
    started = time.process_time()
    million(100, 1)
    found = [{"what": "first simulation of a process", "seconds": time.process_time() - started}]
    found += [million(REQUESTS // share, replicas) for replicas in REPLICAS]
    found += [pools(POOLS // share), large_plan(), sample_plan()]
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return [*found, {"what": "most memory of the whole process", "memory_mb": memory_mb}]


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Print what was measured."""
    found = rows(quick=quick)
    for row in found:
        numbers = ", ".join(f"{name} {row[name]:.2f}" for name in row if name != "what")
        print(f"{row['what']:60} {numbers}")
    return found
