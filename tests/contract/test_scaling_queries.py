"""What autoscalers ask of Prometheus, answered by the real one on made-up series."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpufleet.core import engine_metrics as engine
from gpufleet.core.autoscaling import (
    FullReplica,
    in_flight_query,
    overflow_query,
    queue_time_query,
    scaled_object,
)
from gpufleet.core.gateway import series as gateway
from gpufleet.core.serving import pools_at
from gpufleet.edges.engines import Binaries
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet

POOL = replace(
    pools_at(load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml"), "fra1")[0],
    concurrency_limit=50,
    queue_time_target_s=0.25,
    grace_s=600,
)
FULL = FullReplica(in_flight=50, in_service_s=4, share=0.5)
THRESHOLD = FULL.threshold
"""40: four fifths of 50."""
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


def routed(route: str, values: str, use_case: str = POOL.use_cases[0]) -> Series:
    """What the gateway has counted for a use case."""
    labels = f'use_case="{use_case}",team="t",route="{route}",outcome="ok"'
    return {f"{gateway.REQUESTS}{{{labels}}}": values}


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
    "a replica that loads does not call for another": (
        {
            **gauges({"a": "40x20", "b": "40x20"}),
            **scraped({"a": "1x20", "b": "1x20", "c": "0x20"}),
        },
        "in flight",
        80,
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
    "what a smaller model and a hosted API took counts as if it were here, by this site's share": (
        {
            **gauges({"a": "40x20", "b": "45x20"}, {"a": "5x20"}),
            # 2 and 1 requests/s, of 4 s each, of which half is this placement's.
            **routed("fallback", "0+10x20"),
            **routed("hosted", "0+5x20"),
        },
        "overflow",
        90 + 6,
    ),
    "what the pool itself answered or refused, and others' overflow, is no overflow of it": (
        {
            **gauges({"a": "40x20"}),
            **routed("primary", "0+10x20"),
            **routed("summary", "0+10x20"),
            **routed("none", "0+10x20"),
            **routed("fallback", "0+10x20", use_case="of-another-pool"),
        },
        "overflow",
        40,
    ),
    "a gateway that is not seen adds nothing": ({**gauges({"a": "7x20"})}, "overflow", 7),
    "overflow without engines is no value": (routed("fallback", "0+10x20"), "overflow", None),
    "what new replicas take over is not counted twice: both are of the last minute": (
        # All went elsewhere until 30 s ago, none since; the pool has had it in flight since then.
        # It is 20 all the time; a rate of whole scrapes falls a little short of it.
        {**gauges({"a": "0x11 20x9"}), **routed("hosted", "0+50x11 550x9")},
        "overflow",
        18.939,
    ),
}
QUERIES = {
    "in flight": in_flight_query(POOL, THRESHOLD),
    "queue time": queue_time_query(POOL),
    "overflow": overflow_query(POOL, FULL),
}

LONG = 20
"""Minutes; longer than a pod of the pool may drain, shorter than a lost one is remembered."""
LOST_CASES: dict[str, tuple[Series, float]] = {
    "a replica that hangs counts as a full one, idle or not": (
        {
            **gauges({"a": "0x40", "b": "50x4 stale"}),
            **scraped({"a": "1x40", "b": "1x4 0x40"}),
        },
        THRESHOLD,
    ),
    "load on the others still counts": (
        {
            **gauges({"a": "50x40", "b": "50x40"}, {"a": "90x40"}),
            **scraped({"a": "1x40", "b": "1x40", "c": "1x4 0x40"}),
        },
        190 + THRESHOLD,
    ),
    "a node is lost and its replica runs elsewhere: one too many, and never more": (
        {
            **gauges(dict.fromkeys("abc", "20x40") | {"new": "_x6 20x40"}),
            **scraped(
                dict.fromkeys("abc", "1x40") | {"lost": "1x4 0x40", "new": "_x6 1x40"},
            ),
        },
        80 + THRESHOLD,
    ),
    "another replica for the lost one changes nothing": (
        {
            **gauges(dict.fromkeys("abc", "16x40") | {"new": "_x6 16x40", "newer": "_x8 16x40"}),
            **scraped(
                dict.fromkeys("abc", "1x40")
                | {"lost": "1x4 0x40", "new": "_x6 1x40", "newer": "_x8 1x40"},
            ),
        },
        80 + THRESHOLD,
    ),
    "a replica that drains after scale-in counts for nothing": (
        {
            **gauges(dict.fromkeys("abc", "25x40") | {"going": "5x12 stale"}),
            **scraped(dict.fromkeys("abc", "1x40") | {"going": "1x12 0x40"}),
        },
        75,
    ),
}


@pytest.mark.parametrize("name", LOST_CASES)
def test_what_autoscalers_see_of_replicas_that_do_not_answer(
    name: str, tmp_path: Path, binaries: Binaries
) -> None:
    series, value = LOST_CASES[name]
    check(in_flight_query(POOL, THRESHOLD), series, value, ("1m", f"{LONG}m"), tmp_path, binaries)


@pytest.mark.parametrize("name", CASES)
def test_what_autoscalers_see(name: str, tmp_path: Path, binaries: Binaries) -> None:
    series, which, value = CASES[name]
    query = QUERIES[which]
    assert query is not None
    assert query in {trigger["metadata"].get("query") for trigger in triggers()}
    check(query, series, value, ("5s", "90s"), tmp_path, binaries)


def check(
    query: str,
    series: Series,
    value: float | None,
    times: tuple[str, str],
    folder: Path,
    binaries: Binaries,
) -> None:
    """Ask Prometheus at the second time, of series scraped each first time."""
    expected = [] if value is None else [{"labels": "{}", "value": value}]
    test = {
        "evaluation_interval": times[0],
        "tests": [
            {
                "interval": times[0],
                "input_series": [
                    {"series": each, "values": values} for each, values in series.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": f"round({query}, 0.001)",
                        "eval_time": times[1],
                        "exp_samples": expected,
                    }
                ],
            }
        ],
    }
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [binaries.path("promtool"), "test", "rules", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def triggers() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = scaled_object(POOL, FULL, "http://prometheus")["triggers"]
    return found
