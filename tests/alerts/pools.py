"""Alerts on pools."""

from typing import Final

from tests.alerts.case import ENGINE, OF_POD, POD, Case, Cases, one

REPLICA_UP: Final = {f'up{{job="replicas",{POD}}}': "1x120"}
PREWARM: Final = (
    'gpufleet_prewarm_missing_replicas{pool="answers",site="main",window="quarter end"}'
)
WEIGHTS: Final = (
    'gpufleet_prewarm_weights_missing_nodes{pool="answers",site="main",window="quarter end"}'
)
LOOKED: Final = 'gpufleet_chore_last_success_timestamp_seconds{job="worker",chore="prewarm"}'
BATCH: Final = 'gpufleet_dev_pool="nightly",gpufleet_dev_model="llama-3.1-8b",pod="nightly-0"'
"""A pool of batch jobs, which is full all day."""
QUEUE: Final = "vllm:request_queue_time_seconds"


def queued(each: int, in_time: int) -> dict[str, str]:
    """An hour of requests of which so many a minute waited no longer than a second."""
    return {
        f"{QUEUE}_count{{{POD}}}": f"0+{each}x60",
        f'{QUEUE}_bucket{{{POD},le="1.0"}}': f"0+{in_time}x60",
    }


CASES: Final[dict[tuple[str, str], Cases]] = {
    ("PoolQueueDeep", "ticket"): one(
        {
            f"vllm:num_requests_waiting{{{POD}}}": "6x60",
            f"vllm:num_requests_running{{{POD}}}": "16x60",
        },
        {
            f"vllm:num_requests_waiting{{{POD}}}": "3x60",
            f"vllm:num_requests_running{{{POD}}}": "16x60",
        },
        {"gpufleet_dev_pool": "answers"},
    ),
    ("PoolQueueSlow", "page"): Cases(
        fires=(Case(queued(60, 50), {"gpufleet_dev_pool": "answers", "bound_s": "1"}),),
        quiet=(
            Case(queued(60, 59), None),
            # Two requests a minute: one that waits says nothing.
            Case(queued(2, 1), None),
        ),
    ),
    ("PoolNearLimit", "ticket"): one(
        {f"vllm:num_requests_running{{{POD}}}": "15x60"},
        {
            f"vllm:num_requests_running{{{POD}}}": "12x60",
            f"vllm:num_requests_running{{{BATCH}}}": "64x60",
            'pool:gpufleet_concurrency_limit:replica{gpufleet_dev_pool="nightly"}': "64x60",
        },
        {"gpufleet_dev_pool": "answers"},
    ),
    ("PoolReplicasMissing", "page"): Cases(
        fires=(
            Case({}, {"gpufleet_dev_pool": "answers"}),
            Case(REPLICA_UP, {"gpufleet_dev_pool": "answers"}),
        ),
        quiet=(
            Case(
                {f'up{{job="replicas",{ENGINE},pod="answers-{i}"}}': "1x60" for i in range(7)},
                None,
            ),
        ),
    ),
    ("ReplicaEjected", "ticket"): one(
        {'gpufleet_gateway_ejected_replicas{pool="answers"}': "1x60"},
        {'gpufleet_gateway_ejected_replicas{pool="answers"}': "0x60"},
        {"pool": "answers"},
    ),
    ("PrewarmStale", "page"): Cases(
        fires=(Case({LOOKED: "0+60x30 1800x30"}, {}), Case({}, {})),
        quiet=(Case({LOOKED: "0+60x60"}, None),),
    ),
    ("PrewarmMissing", "page"): one(
        {PREWARM: "2x60"},
        {PREWARM: "0x60"},
        {"pool": "answers", "window": "quarter end"},
    ),
    ("PrewarmWeightsMissing", "ticket"): one(
        {WEIGHTS: "1x60"},
        {WEIGHTS: "0x60"},
        {"pool": "answers", "window": "quarter end"},
    ),
    ("ScalerErrors", "ticket"): one(
        {'keda_scaled_object_errors_total{namespace="a",scaledObject="answers"}': "0+1x60"},
        # One, as Prometheus restarts.
        {'keda_scaled_object_errors_total{namespace="a",scaledObject="answers"}': "4x53 5x7"},
        {"scaledObject": "answers"},
    ),
    ("KvCacheFull", "ticket"): one(
        {f"vllm:kv_cache_usage_perc{{{POD}}}": "0.98x60"},
        {
            f"vllm:kv_cache_usage_perc{{{POD}}}": "0.9x60",
            f"vllm:kv_cache_usage_perc{{{BATCH}}}": "0.98x60",
        },
        {"gpufleet_dev_pool": "answers"},
    ),
    ("RequestsPreempted", "ticket"): one(
        {
            f"vllm:num_preemptions_total{{{POD}}}": "0+12x60",
            f"vllm:num_requests_running{{{POD}}}": "16x60",
        },
        {
            f"vllm:num_preemptions_total{{{POD}}}": "0+2x60",
            f"vllm:num_preemptions_total{{{BATCH}}}": "0+12x60",
            f"vllm:num_requests_running{{{BATCH}}}": "16x60",
            f"vllm:num_requests_running{{{POD}}}": "16x60",
        },
        {"gpufleet_dev_pool": "answers"},
    ),
}

BY_POOL: Final = '{namespace="gpufleet-interactive",pool="answers"}'

EMBEDDED: Final[dict[tuple[str, str], Cases]] = {
    ("ReplicaOutOfMemory", "page"): one(
        {f"gpufleet_agent_oom_kills_total{BY_POOL}": "0x55 1x5"},
        {f"gpufleet_agent_oom_kills_total{BY_POOL}": "1x60"},
        {"pool": "answers"},
    ),
    ("ReplicaRestarting", "page"): one(
        {f"gpufleet_agent_restarts_total{BY_POOL}": "0x40 1x5 2x5 4x10"},
        {f"gpufleet_agent_restarts_total{BY_POOL}": "0x40 1x20"},
        {"pool": "answers"},
    ),
}

_BY_MEMORY: Final = (
    "kube_pod_container_status_last_terminated_reason"
    f'{{{OF_POD},container="engine",reason="OOMKilled"}}'
)
_RESTARTS: Final = f'kube_pod_container_status_restarts_total{{{OF_POD},container="engine"}}'

ON_CLUSTER: Final[dict[tuple[str, str], Cases]] = {
    ("ReplicaOutOfMemory", "page"): one(
        {_RESTARTS: "0x55 1x5", _BY_MEMORY: "0x55 1x5"},
        {_RESTARTS: "0x55 1x5", _BY_MEMORY: "0x60"},
        {"pod": "answers-0"},
    ),
    ("ReplicaRestarting", "page"): one(
        {_RESTARTS: "0x40 1x5 2x5 4x10"},
        {_RESTARTS: "0x40 1x20"},
        {"pod": "answers-0"},
    ),
}
