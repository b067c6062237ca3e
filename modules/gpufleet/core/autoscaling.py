"""When a pool grows and shrinks: on time in queue and running requests, never on utilization."""

from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.capacity.prewarm import CannotSay, CronWindow, cron_windows
from gpufleet.core.serving import PoolAtSite
from gpufleet.spec.serving import Prewarm

RUNNING_TARGET: Final = 0.8
"""Share of a replica's concurrency limit in use at which one more replica is wanted."""
SCALE_IN_WINDOW_S: Final = 900
"""Scale-in looks this far back, so that the next burst still finds warm replicas."""


def scaled_object(pool: PoolAtSite, prometheus_url: str) -> dict[str, Any]:
    """The spec of KEDA's ScaledObject for an interactive pool.

    Losing Prometheus must not scale in: the fallback keeps the replicas that run.
    """
    target = "LeaderWorkerSet" if pool.spans_nodes else "Deployment"
    api = "leaderworkerset.x-k8s.io/v1" if pool.spans_nodes else "apps/v1"
    pool_label, site_label = names.metric_label(names.POOL), names.metric_label(names.SITE)
    selector = f'{{{pool_label}="{pool.name}",{site_label}="{pool.site}"}}'
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
                f"sum(vllm:num_requests_running{selector})",
                pool.concurrency_limit * RUNNING_TARGET,
            ),
            _trigger(
                prometheus_url,
                "queue-time",
                _queue_time(selector),
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


def _queue_time(selector: str) -> str:
    """The pool's p95 time in queue, s, times its replicas, since KEDA divides by them.

    Without any request the quantile is not a number, which would count as a lost metric and keep an
    idle pool as large as its last burst made it: then it is 0, as long as the engines answer.
    """
    replicas = f"count(vllm:num_requests_running{selector})"
    buckets = f"sum by (le) (rate(vllm:request_queue_time_seconds_bucket{selector}[1m]))"
    return f"((histogram_quantile(0.95, {buckets}) >= 0) or 0 * {replicas}) * {replicas}"


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
