"""What a worker counts for Prometheus; the names are in `gpufleet.core.gateway.series`."""

from decimal import Decimal
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from gpufleet.core.engine_metrics import REQUEST_BOUNDS_S, TTFT_BOUNDS_S
from gpufleet.core.gateway import series
from gpufleet.core.gateway.ladder import Way
from gpufleet.spec.gateway import Route

REQUESTS: Final = Counter(
    series.REQUESTS, "Requests by where they went.", ["use_case", "team", "route", "outcome"]
)
REQUEST_S: Final = Histogram(
    series.REQUEST_S, "Whole requests.", ["use_case"], buckets=REQUEST_BOUNDS_S
)
TTFT_S: Final = Histogram(
    series.TTFT_S, "Until the first token was sent.", ["use_case"], buckets=TTFT_BOUNDS_S
)
TOKENS: Final = Counter(series.TOKENS, "Tokens.", ["use_case", "model", "kind"])
PREDICTED_QUEUE_S: Final = Gauge(
    series.PREDICTED_QUEUE_S,
    "Predicted time in queue of one more request.",
    ["pool"],
    multiprocess_mode="livemax",
)
EJECTED: Final = Gauge(
    series.EJECTED, "Replicas that are kept out.", ["pool"], multiprocess_mode="livemax"
)
HOSTED_SPEND: Final = Gauge(
    series.HOSTED_SPEND, "This month's hosted spend.", ["use_case"], multiprocess_mode="livemax"
)
HOSTED_CAP: Final = Gauge(
    series.HOSTED_CAP, "What hosted APIs may cost.", ["use_case"], multiprocess_mode="livemax"
)
CACHE_HITS: Final = Counter(series.CACHE_HITS, "Answers given again.", ["use_case"])
CACHE_SAVED: Final = Counter(series.CACHE_SAVED, "Money that they saved.", ["use_case"])
AUDIT_GAPS: Final = Counter(series.AUDIT_GAPS, "Served and not recorded.", ["use_case"])
FILE_AGE_S: Final = Gauge(
    series.FILE_AGE_S, "Age of what workers go by.", ["file"], multiprocess_mode="livemax"
)

WORKER_SEEN_AT: Final = Gauge(
    series.WORKER_SEEN_AT, "When a worker said that it works.", multiprocess_mode="livemax"
)


def begin(name: str, route: Route) -> None:
    """Tell a use case's counters from 0 on: Prometheus does not see the event one begins with."""
    AUDIT_GAPS.labels(name)
    REQUEST_S.labels(name)
    TTFT_S.labels(name)
    ways = {
        Way.PRIMARY: True,
        Way.FALLBACK: route.fallback is not None,
        Way.HOSTED: route.hosted is not None,
        Way.SUMMARY: route.summary_tokens is not None,
    }
    for way in (way for way, is_there in ways.items() if is_there):
        for outcome in ("ok", "error"):
            REQUESTS.labels(name, route.team, way.value, outcome)
    for outcome in ("error", "refused"):
        REQUESTS.labels(name, route.team, Way.NONE.value, outcome)


def saved(use_case: str, cost: Decimal) -> None:
    """An answer was given again."""
    CACHE_HITS.labels(use_case).inc()
    CACHE_SAVED.labels(use_case).inc(float(cost))
