"""Queues, caches, crashes and scaling of pools."""

import math
from collections.abc import Sequence
from typing import Final

from gpufleet.core import engine_metrics as engine
from gpufleet.core import vocabulary as names
from gpufleet.core.capacity.prewarm import lead_s
from gpufleet.core.engine_metrics import REQUEST_BOUNDS_S, stricter_bound
from gpufleet.core.gateway import series
from gpufleet.core.monitoring.objectives import SLOWER_ALLOWED, le
from gpufleet.core.monitoring.rules import POOL, Alert, Group, Record, Severity, selector
from gpufleet.core.serving import PoolAtSite

REPLICAS_JOB: Final = "replicas"
OOM_KILLS: Final = "gpufleet_agent_oom_kills_total"
"""Of the node agent of an embedded site, by pool; kube-state-metrics tells them by pod."""
RESTARTS: Final = "gpufleet_agent_restarts_total"
KUBE_RESTARTS: Final = "kube_pod_container_status_restarts_total"
KUBE_LAST_END: Final = "kube_pod_container_status_last_terminated_reason"
SCALER_ERRORS: Final = "keda_scaler_detail_errors_total"
SCALED_OBJECT_ERRORS: Final = "keda_scaled_object_errors_total"

DECLARED: Final = "pool:gpufleet_replicas:declared"
"""Replicas that always run."""
CONCURRENCY: Final = "pool:gpufleet_concurrency_limit:replica"
"""Requests in flight that one replica takes."""
DEPTH_LIMIT: Final = "pool:gpufleet_queue_depth_limit:replica"
"""Waiting requests of one replica from which on they are too many."""
SLOW_QUEUE: Final = "pool:gpufleet_queue_time_slow:ratio_rate5m"
"""Share of requests that waited longer than the pool's target; label bound_s: what it is measured
at, s."""
BOUND: Final = "bound_s"
ENGINES_UP: Final = "pool:gpufleet_engines_up:count"

_INTERACTIVE: Final = f"and on ({POOL}) {DEPTH_LIMIT}"
"""A batch pool is as full as it may be all day: that is its use."""
_DEPTH_OF_LIMIT: Final = 0.5
_DEPTH_OF_CONCURRENCY: Final = 0.25
_NEAR: Final = 0.9
_KV_FULL: Final = 0.95
_PREEMPTIONS_PER_S: Final = 0.1
"""Of one replica: each throws away the work on a request, which is then done again."""
_RESTARTS: Final = 3
_SCALER_ERRORS: Final = 3
"""A single one is a Prometheus that has just restarted."""
_WAITED: Final = 20
"""Requests; fewer in five minutes say little about shares."""
_START_MARGIN_S: Final = 300
"""Until Kubernetes has placed a new pod, and its engine was scraped."""


def pool_records(pools: Sequence[PoolAtSite]) -> Group:
    """What a site's alerts compare with: the declared numbers of its pools, and their sums."""
    records: list[Record] = []
    by_name: dict[str, list[PoolAtSite]] = {}
    for pool in pools:
        by_name.setdefault(pool.name, []).append(pool)
    for name, placed in by_name.items():
        labels, first = {POOL: name}, placed[0]
        replicas = sum(pool.replicas for pool in placed)
        records += [
            Record(DECLARED, f"vector({replicas})", labels),
            Record(CONCURRENCY, f"vector({first.concurrency_limit})", labels),
        ]
        if names.is_batch(first.class_):
            continue
        records += [
            Record(DEPTH_LIMIT, f"vector({queue_depth(first):g})", labels),
            Record(SLOW_QUEUE, _slow_queue(first), {**labels, BOUND: f"{queue_bound_s(first):g}"}),
        ]
    up = f"up{selector(job=REPLICAS_JOB)}"
    records.append(Record(ENGINES_UP, f"count by ({POOL}) ({up} == 1)"))
    return Group("gpufleet-pools", tuple(records))


def queue_depth(pool: PoolAtSite) -> float:
    """Waiting requests of one replica from which on an interactive pool is watched.

    Half of what the replica lets wait; where nothing limits that, a quarter of what runs at once.
    """
    if pool.queue_limit is not None:
        return max(1, pool.queue_limit * _DEPTH_OF_LIMIT)
    return max(1, pool.concurrency_limit * _DEPTH_OF_CONCURRENCY)


def queue_bound_s(pool: PoolAtSite) -> float:
    """The bucket bound at which a pool's time in queue is measured."""
    return stricter_bound(pool.queue_time_target_s, REQUEST_BOUNDS_S)


def longest_start_s(pools: Sequence[PoolAtSite]) -> int:
    """How long a replica of any of some pools may take until it answers, s, in whole minutes.

    A restore of its weights and a start as long as its probe allows, and some time to be placed.
    """
    longest_s = max((lead_s(pool.model) for pool in pools), default=0)
    return 60 * math.ceil((longest_s + _START_MARGIN_S) / 60)


def pool_alerts(pools: Sequence[PoolAtSite], *, embedded: bool) -> Group:
    """Alerts on every pool of a site.

    Args:
        pools: of the site.
        embedded: whether the node agent tells of crashes, or a cluster's kube-state-metrics.
    """
    alerts = (*_load(), *_replicas(longest_start_s(pools)), *_memory())
    return Group("gpufleet-pool-alerts", (*alerts, *_crashes(embedded=embedded)))


def _slow_queue(pool: PoolAtSite) -> str:
    of_pool = {POOL: pool.name}
    within = selector(**of_pool, le=le(queue_bound_s(pool)))
    fast = f"sum(rate({engine.QUEUE_TIME}_bucket{within}[5m]))"
    every = f"sum(rate({engine.QUEUE_TIME}_count{selector(**of_pool)}[5m]))"
    return f"1 - {fast} / ({every} > 0)"


def _load() -> tuple[Alert, ...]:
    pool = f"{{{{ $labels.{POOL} }}}}"
    running = f"sum by ({POOL}) ({engine.RUNNING})"
    waiting = f"sum by ({POOL}) ({engine.WAITING})"
    replicas = f"count by ({POOL}) ({engine.RUNNING})"
    waited = f"sum by ({POOL}) (increase({engine.QUEUE_TIME}_count[5m]))"
    return (
        Alert(
            name="PoolQueueDeep",
            expr=f"{waiting} / {replicas} > on ({POOL}) {DEPTH_LIMIT}",
            severity=Severity.TICKET,
            for_s=300,
            runbook="pools#queue",
            summary=f"{pool}: {{{{ $value | humanize }}}} requests wait at each replica",
            description=(
                "More requests wait at the pool's replicas than they soon take up. The gateway "
                "sends what comes next to the fallback once time in queue passes its limit."
            ),
        ),
        Alert(
            name="PoolQueueSlow",
            expr=f"{SLOW_QUEUE} > {SLOWER_ALLOWED} and on ({POOL}) {waited} >= {_WAITED}",
            severity=Severity.PAGE,
            for_s=300,
            runbook="pools#queue",
            summary=(
                f"{pool}: {{{{ $value | humanizePercentage }}}} of requests wait longer than "
                f"{{{{ $labels.{BOUND} }}}} s"
            ),
            description=(
                "The 95th percentile of time in queue is above the pool's queue_time_target_s, "
                "measured at the bucket bound at or below it, which the alert names. Users notice "
                "next."
            ),
        ),
        Alert(
            name="PoolNearLimit",
            expr=f"{running} / ({replicas} * on ({POOL}) {CONCURRENCY}) > {_NEAR} {_INTERACTIVE}",
            severity=Severity.TICKET,
            for_s=600,
            runbook="pools#near-the-limit",
            summary=f"{pool}: {{{{ $value | humanizePercentage }}}} of its concurrency is in use",
            description=(
                "The replicas that run are nearly full; the autoscaler has added what it may, or "
                "cannot."
            ),
        ),
    )


def _replicas(start_s: int) -> tuple[Alert, ...]:
    pool = f"{{{{ $labels.{POOL} }}}}"
    return (
        Alert(
            name="PoolReplicasMissing",
            expr=f"{DECLARED} - ({ENGINES_UP} or 0 * {DECLARED}) > 0",
            severity=Severity.PAGE,
            for_s=start_s,
            runbook="pools#replicas-missing",
            summary=f"{pool}: {{{{ $value }}}} of its declared replicas do not answer",
            description=(
                "Fewer engines answer Prometheus than the pool always has to have, for longer than "
                "any of the site's takes to restore its weights and to start."
            ),
        ),
        Alert(
            name="ReplicaEjected",
            expr=f"{series.EJECTED} > 0",
            severity=Severity.TICKET,
            for_s=300,
            runbook="pools#ejected",
            summary="{{ $labels.pool }}: the gateway keeps {{ $value }} replicas out",
            description="They failed or hung; the gateway tries them again, each time later.",
        ),
        Alert(
            name="ScalerErrors",
            expr=(
                "sum by (namespace, scaledObject) "
                f"(increase({SCALER_ERRORS}[10m])) >= {_SCALER_ERRORS} "
                "or sum by (namespace, scaledObject) "
                f"(increase({SCALED_OBJECT_ERRORS}[10m])) >= {_SCALER_ERRORS}"
            ),
            severity=Severity.TICKET,
            for_s=300,
            runbook="pools#scaler-errors",
            summary="{{ $labels.scaledObject }}: the autoscaler cannot read its metrics",
            description=(
                "KEDA keeps the replicas that run, and adds none. Its operator's log says why."
            ),
        ),
    )


def _memory() -> tuple[Alert, ...]:
    pool = f"{{{{ $labels.{POOL} }}}}"
    preempted = f"sum by ({POOL}) (rate({engine.PREEMPTIONS}[10m]))"
    return (
        Alert(
            name="KvCacheFull",
            expr=f"avg by ({POOL}) ({engine.KV_USAGE}) > {_KV_FULL} {_INTERACTIVE}",
            severity=Severity.TICKET,
            for_s=600,
            runbook="pools#kv-cache",
            summary=f"{pool}: {{{{ $value | humanizePercentage }}}} of its KV cache is in use",
            description="New requests wait for memory, whatever the concurrency limit says.",
        ),
        Alert(
            name="RequestsPreempted",
            expr=(
                f"{preempted} / count by ({POOL}) ({engine.RUNNING}) > {_PREEMPTIONS_PER_S} "
                f"{_INTERACTIVE}"
            ),
            severity=Severity.TICKET,
            for_s=600,
            runbook="pools#kv-cache",
            summary=f"{pool}: {{{{ $value | humanize }}}} requests/s preempted at each replica",
            description=(
                "The KV cache is too small or too fragmented for what runs: work is thrown away "
                "and done again. Lower the concurrency limit, or the longest context."
            ),
        ),
    )


def _crashes(*, embedded: bool) -> tuple[Alert, ...]:
    ours = selector(namespace=f"~{names.INTERACTIVE_NAMESPACE}|{names.BATCH_NAMESPACE}")
    if embedded:
        killed = f"sum by (namespace, pool) (increase({OOM_KILLS}[15m])) > 0"
        restarted = f"sum by (namespace, pool) (increase({RESTARTS}[30m])) >= {_RESTARTS}"
    else:
        by_memory = ours[:-1] + ',reason="OOMKilled"}'
        killed = (
            f"sum by (namespace, pod) (increase({KUBE_RESTARTS}{ours}[15m])) > 0 "
            f"and on (namespace, pod) max by (namespace, pod) ({KUBE_LAST_END}{by_memory}) == 1"
        )
        restarted = f"sum by (namespace, pod) (increase({KUBE_RESTARTS}{ours}[30m])) >= {_RESTARTS}"
    return (
        Alert(
            name="ReplicaOutOfMemory",
            expr=killed,
            severity=Severity.PAGE,
            runbook="pools#out-of-memory",
            summary="{{ or $labels.pod $labels.pool }}: killed for want of memory",
            description="Its requests were lost, and it loads its weights again.",
        ),
        Alert(
            name="ReplicaRestarting",
            expr=restarted,
            severity=Severity.PAGE,
            runbook="pools#restarts",
            summary="{{ or $labels.pod $labels.pool }}: restarted again and again",
            description="It comes up and ends: its last log and its node's GPU alerts say why.",
        ),
    )
