"""When a pool grows and shrinks: on time in queue and requests in flight, never on utilization.

What cannot be seen is never taken for idle. All series missing is an error, for which KEDA keeps
what runs; each that is missing (a replica that hangs does not answer its scrape either) counts as a
full one; a Prometheus that has just begun has no rates yet, but its gauges at the first scrape, and
scale-in looks back longer than it needs.

The names are those of `core/engine_metrics`, which no version of vLLM has changed: its renames are
of other metrics. A pool whose minimum is 0 has no engine whose series could start it: only its
declared peaks do.
"""

from typing import Any, Final

from gpufleet.core import engine_metrics as engine
from gpufleet.core import vocabulary as names
from gpufleet.core.capacity.prewarm import CannotSay, CronWindow, cron_windows
from gpufleet.core.serving import PoolAtSite
from gpufleet.spec.serving import Prewarm

RUNNING_TARGET: Final = 0.8
"""Share of a replica's concurrency limit in use at which one more replica is wanted."""
SCALE_IN_WINDOW_S: Final = 900
"""Scale-in looks this far back, so that the next burst still finds warm replicas."""
_LOST_FOR: Final = "30m"
_DRAIN_MARGIN_S: Final = 60


def scaled_object(pool: PoolAtSite, prometheus_url: str) -> dict[str, Any]:
    """The spec of KEDA's ScaledObject for an interactive pool.

    Losing Prometheus must not scale in: the fallback keeps the replicas that run.
    """
    target = "LeaderWorkerSet" if pool.spans_nodes else "Deployment"
    api = "leaderworkerset.x-k8s.io/v1" if pool.spans_nodes else "apps/v1"
    threshold = pool.concurrency_limit * RUNNING_TARGET
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
    states = "|".join(
        name.removeprefix("vllm:num_requests_") for name in (engine.RUNNING, engine.WAITING)
    )
    series = f'{{__name__=~"vllm:num_requests_({states})",{_labels(pool)}}}'
    up = f"up{{{_labels(pool)}}}"
    silent = f"max_over_time({up}[{pool.grace_s + _DRAIN_MARGIN_S}s]) == 0"
    lost = f"count({up} == 0 and {silent} and max_over_time({up}[{_LOST_FOR}]) > 0)"
    return f"sum({series}) + {threshold:g} * scalar({lost} or vector(0))"


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
