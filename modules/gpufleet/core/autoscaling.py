"""When a pool grows and shrinks: on time in queue and requests in flight, never on utilization.

A replica is full where the gateway takes it for full: from what keeps its use cases' promise on,
which may be far below its concurrency limit. From there on requests go elsewhere, so what went to a
smaller model or a hosted API counts as well: else whoever helps a pool would keep it small.

What cannot be seen is never taken for idle. All series missing is an error, for which KEDA keeps
what runs; each that is missing (a replica that hangs does not answer its scrape either) counts as a
full one; a Prometheus that has just begun has no rates yet, but its gauges at the first scrape, and
scale-in looks back longer than it needs.

The names are those of `core/engine_metrics`, which no version of vLLM has changed: its renames are
of other metrics. A pool whose minimum is 0 has no engine whose series could start it: only its
declared peaks do.
"""

from dataclasses import dataclass
from typing import Any, Final

from gpufleet.core import engine_metrics as engine
from gpufleet.core import vocabulary as names
from gpufleet.core.capacity.prewarm import CannotSay, CronWindow, cron_windows
from gpufleet.core.gateway import series
from gpufleet.core.gateway.ladder import Way
from gpufleet.core.gateway.pool_speed import pool_speed
from gpufleet.core.serving import PoolAtSite
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.serving import Prewarm

RUNNING_TARGET: Final = 0.8
"""Share of a full replica's requests in flight at which one more replica is wanted."""
SCALE_IN_WINDOW_S: Final = 900
"""Scale-in looks this far back, so that the next burst still finds warm replicas."""
_LOST_FOR: Final = "30m"
_DRAIN_MARGIN_S: Final = 60


@dataclass(frozen=True)
class FullReplica:
    """What a replica has when the gateway takes it for full."""

    in_flight: int
    """Requests; at most its concurrency limit."""
    in_service_s: float
    """How long a mean one of them takes, s."""
    share: float
    """Of the requests that the whole pool could not take, those that this placement would."""

    @property
    def threshold(self) -> float:
        """Requests in flight for each replica from which on one more is wanted."""
        return self.in_flight * RUNNING_TARGET


def full_replica(fleet: Fleet, pool: PoolAtSite) -> FullReplica:
    """As the gateway's routes have it; the whole concurrency limit where no use case reaches it."""
    declared = fleet.pools[pool.name]
    share = pool.max_replicas / sum(each.ceiling for each in declared.placements.values())
    speed = pool_speed(fleet, declared)
    if speed is None:
        return FullReplica(pool.concurrency_limit, 0, share)
    return FullReplica(
        min(pool.concurrency_limit, speed.promised_at), float(f"{speed.promised_s:.3g}"), share
    )


def scaled_object(pool: PoolAtSite, full: FullReplica, prometheus_url: str) -> dict[str, Any]:
    """The spec of KEDA's ScaledObject for an interactive pool.

    Losing Prometheus must not scale in: the fallback keeps the replicas that run.
    """
    target = "LeaderWorkerSet" if pool.spans_nodes else "Deployment"
    api = "leaderworkerset.x-k8s.io/v1" if pool.spans_nodes else "apps/v1"
    threshold = full.threshold
    overflow = overflow_query(pool, full)
    return {
        "scaleTargetRef": {"apiVersion": api, "kind": target, "name": pool.name},
        "minReplicaCount": pool.replicas,
        "maxReplicaCount": pool.max_replicas,
        "pollingInterval": 10,
        "cooldownPeriod": SCALE_IN_WINDOW_S,
        "fallback": {
            "failureThreshold": 3,
            "replicas": pool.replicas,
            "behavior": "currentReplicasIfHigher",
        },
        "advanced": {
            "horizontalPodAutoscalerConfig": {
                "behavior": {
                    "scaleUp": {
                        "stabilizationWindowSeconds": 0,
                        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 30}],
                    },
                    "scaleDown": {
                        "stabilizationWindowSeconds": SCALE_IN_WINDOW_S,
                        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}],
                    },
                }
            }
        },
        "triggers": [
            _trigger(
                prometheus_url,
                "running",
                in_flight_query(pool, threshold),
                threshold,
            ),
            _trigger(
                prometheus_url,
                "queue-time",
                queue_time_query(pool),
                pool.queue_time_target_s,
            ),
            *([_trigger(prometheus_url, "overflow", overflow, threshold)] if overflow else []),
            *prewarm_triggers(pool),
        ],
    }


def prewarm_triggers(pool: PoolAtSite) -> list[dict[str, Any]]:
    """KEDA's cron triggers: replicas that run from before a declared peak to its end.

    A peak that cron has no words for gets none; the plan has warned of it.
    """
    return [
        {
            "type": "cron",
            "name": f"prewarm-{index}-{part}",
            "metadata": {
                "timezone": peak.time_zone,
                "start": window.start,
                "end": window.end,
                "desiredReplicas": str(peak.replicas[pool.group_name]),
            },
        }
        for index, peak in enumerate(pool.prewarm, 1)
        for part, window in enumerate(_windows(peak), 1)
    ]


def _windows(peak: Prewarm) -> tuple[CronWindow, ...]:
    try:
        return cron_windows(peak)
    except CannotSay:
        return ()


def in_flight_query(pool: PoolAtSite, threshold: float) -> str:
    """Requests that the pool's engines run or have waiting.

    Those that wait count at once, while their time in queue is known only when they have left it.
    A replica that has not answered its scrape for as long as a pod may drain, but has within the
    last half hour, hangs, loads again or is lost: it counts as a full one, `threshold`, since what
    it works on is not known. The number of replicas is no part of it: it would grow by itself, with
    each replacement. One that drains is not lost; its port is closed before its pod is gone, and
    scale-in, which looks back longer, would be undone. One that never answered has no work yet.
    """
    up = f"up{{{_labels(pool)}}}"
    silent = f"max_over_time({up}[{pool.grace_s + _DRAIN_MARGIN_S}s]) == 0"
    lost = f"count({up} == 0 and {silent} and max_over_time({up}[{_LOST_FOR}]) > 0)"
    return f"{_in_flight(pool)} + {threshold:g} * scalar({lost} or vector(0))"


def overflow_query(pool: PoolAtSite, full: FullReplica) -> str | None:
    """Requests that the pool would have in flight if it had taken those that went elsewhere.

    By Little's law: requests/s that left, times how long each takes here. Of the last minute, both:
    while new replicas take over, nothing counts twice. None where no use case has the pool as its
    own. A gateway that is not seen adds nothing.
    """
    if not pool.use_cases:
        return None
    left = f"{Way.FALLBACK}|{Way.HOSTED}"
    of = f'use_case=~"{"|".join(pool.use_cases)}",route=~"{left}"'
    each_s = full.in_service_s * full.share
    gone = f"sum(rate({series.REQUESTS}{{{of}}}[1m])) or vector(0)"
    return f"avg_over_time({_in_flight(pool)}[1m:5s]) + {each_s:g} * ({gone})"


def _in_flight(pool: PoolAtSite) -> str:
    states = "|".join(
        name.removeprefix("vllm:num_requests_") for name in (engine.RUNNING, engine.WAITING)
    )
    return f'sum({{__name__=~"vllm:num_requests_({states})",{_labels(pool)}}})'


def queue_time_query(pool: PoolAtSite) -> str:
    """The pool's p95 time in queue, s, times its replicas, since KEDA divides by them.

    A quantile within the first bucket is made up between 0 and its bound, also where nobody waited:
    it counts as 0, and so does that of no request, which is not a number. A target below the bound
    therefore acts from the bound on.
    """
    selector = f"{{{_labels(pool)}}}"
    replicas = f"count({engine.RUNNING}{selector})"
    buckets = f"sum by (le) (rate({engine.QUEUE_TIME}_bucket{selector}[1m]))"
    waited = f"histogram_quantile(0.95, {buckets}) > {engine.REQUEST_BOUNDS_S[0]:g}"
    return f"(({waited}) or 0 * {replicas}) * {replicas}"


def _labels(pool: PoolAtSite) -> str:
    """Matchers of the pool's series, as scrape configurations label them."""
    labels = ((names.POOL, pool.name), (names.SITE, pool.site))
    return ",".join(f'{names.metric_label(label)}="{value}"' for label, value in labels)


def _trigger(prometheus_url: str, name: str, query: str, threshold: float) -> dict[str, Any]:
    return {
        "type": "prometheus",
        "name": name,
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": prometheus_url,
            "query": query,
            "threshold": f"{threshold:g}",
            "ignoreNullValues": "false",
        },
    }
