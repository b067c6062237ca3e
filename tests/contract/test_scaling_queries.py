"""What autoscalers ask of Prometheus, answered by the real one on made-up series."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpufleet.core import engine_metrics as engine
from gpufleet.core.autoscaling import in_flight_query, queue_time_query, scaled_object
from gpufleet.core.serving import pools_at
from gpufleet.edges.engines import Binaries
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet

POOL = replace(
    pools_at(load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml"), "fra1")[0],
    concurrency_limit=50,
    queue_time_target_s=0.25,
)
THRESHOLD = 40.0
"""Four fifths of 50."""
OURS = f'gpufleet_dev_pool="{POOL.name}",gpufleet_dev_site="{POOL.site}"'
OTHERS = (
    f'gpufleet_dev_pool="{POOL.name}",gpufleet_dev_site="elsewhere"',
    f'gpufleet_dev_pool="another",gpufleet_dev_site="{POOL.site}"',
)
Series = dict[str, str]


def gauges(
    running: dict[str, str], waiting: dict[str, str] | None = None, labels: str = OURS
) -> Series:
    return {
        f'{name}{{{labels},instance="{instance}"}}': values
        for name, found in ((engine.RUNNING, running), (engine.WAITING, waiting or {}))
        for instance, values in found.items()
    }


def scraped(up: dict[str, str], labels: str = OURS) -> Series:
    return {f'up{{{labels},instance="{name}"}}': values for name, values in up.items()}


def queued(below: dict[str, str], labels: str = OURS) -> Series:
    """Buckets of the time in queue of one replica, by bound."""
    return {
        f'{engine.QUEUE_TIME}_bucket{{{labels},instance="a",le="{bound}"}}': values
        for bound, values in below.items()
    }


IDLE = "0x20"
CASES: dict[str, tuple[Series, str, float | None]] = {
    "requests that run or wait are counted over replicas": (
        {
            **gauges({"a": "30x20", "b": "20x20"}, {"a": "7x20", "b": IDLE}),
            **scraped({"a": "1x20", "b": "1x20"}),
        },
        "in flight",
        57,
    ),
    "an idle pool is 0, so that it shrinks": (
        {**gauges({"a": IDLE, "b": IDLE}), **scraped({"a": "1x20", "b": "1x20"})},
        "in flight",
        0,
    ),
    "a replica that hangs, idle or not, keeps the pool's size": (
        {
            **gauges({"a": IDLE, "b": "50 stale"}),
            **scraped({"a": "1x20", "b": "1x9 0x9"}),
        },
        "in flight",
        2 * THRESHOLD,
    ),
    "a replica that loads does not call for another": (
        {
            **gauges({"a": "40x20", "b": "40x20"}),
            **scraped({"a": "1x20", "b": "1x20", "c": "0x20"}),
        },
        "in flight",
        80,
    ),
    "load beyond what is unseen still counts": (
        {
            **gauges({"a": "50x20", "b": "50x20"}, {"a": "90x20"}),
            **scraped({"a": "1x20", "b": "1x20", "c": "1x9 0x9"}),
        },
        "in flight",
        190,
    ),
    "no engine at all is no value: KEDA keeps what runs": (
        scraped({"a": "0x20"}),
        "in flight",
        None,
    ),
    "no target at all is no value": ({}, "in flight", None),
    "other pools and sites do not count": (
        {
            **gauges({"a": "5x20"}),
            **scraped({"a": "1x20"}),
            **gauges({"x": "99x20"}, labels=OTHERS[0]),
            **gauges({"y": "99x20"}, labels=OTHERS[1]),
            **scraped({"x": "0x20"}, labels=OTHERS[0]),
            **scraped({"y": "0x20"}, labels=OTHERS[1]),
        },
        "in flight",
        5,
    ),
    "nobody waited: the first bucket's made-up quantile is 0": (
        {
            **gauges({"a": "1x20", "b": "1x20"}),
            **queued({"0.3": "0+10x20", "0.5": "0+10x20", "+Inf": "0+10x20"}),
        },
        "queue time",
        0,
    ),
    "time in queue is by replica": (
        {
            **gauges({"a": "1x20", "b": "1x20"}),
            # All within (0.5, 1.0]: the p95 stands at 0.975.
            **queued({"0.3": IDLE, "0.5": IDLE, "1.0": "0+10x20", "+Inf": "0+10x20"}),
        },
        "queue time",
        2 * 0.975,
    ),
    "without a request lately time in queue is 0": (
        {
            **gauges({"a": IDLE}),
            **queued({"0.3": "7x20", "0.5": "9x20", "+Inf": "9x20"}),
        },
        "queue time",
        0,
    ),
    "a Prometheus that has just begun has no rate, and is no reason to grow": (
        {**gauges({"a": "30x20"})},
        "queue time",
        0,
    ),
    "time in queue without engines is no value": (
        queued({"0.3": IDLE, "0.5": "0+10x20", "+Inf": "0+10x20"}),
        "queue time",
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_autoscalers_see(name: str, tmp_path: Path, binaries: Binaries) -> None:
    series, which, value = CASES[name]
    query = in_flight_query(POOL, THRESHOLD) if which == "in flight" else queue_time_query(POOL)
    assert query in {trigger["metadata"].get("query") for trigger in triggers()}
    expected = [] if value is None else [{"labels": "{}", "value": value}]
    test = {
        "evaluation_interval": "5s",
        "tests": [
            {
                "interval": "5s",
                "input_series": [
                    {"series": each, "values": values} for each, values in series.items()
                ],
                "promql_expr_test": [
                    {"expr": f"round({query}, 0.001)", "eval_time": "90s", "exp_samples": expected}
                ],
            }
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [binaries.path("promtool"), "test", "rules", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def triggers() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = scaled_object(POOL, "http://prometheus")["triggers"]
    return found
