"""Alerts on pools."""

from typing import Final

from tests.alerts.case import ENGINE, OF_POD, POD, Case, Cases, one

REPLICA_UP: Final = {f'up{{job="replicas",{POD}}}': "1x120"}
PREWARM: Final = (
    'gpufleet_prewarm_missing_replicas{pool="answers",site="main",window="quarter end"}'
)
QUEUE: Final = "vllm:request_queue_time_seconds"

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
    ("PoolQueueSlow", "page"): one(
        {f"{QUEUE}_count{{{POD}}}": "0+60x60", f'{QUEUE}_bucket{{{POD},le="1.0"}}': "0+50x60"},
        {f"{QUEUE}_count{{{POD}}}": "0+60x60", f'{QUEUE}_bucket{{{POD},le="1.0"}}': "0+59x60"},
        {"gpufleet_dev_pool": "answers"},
    ),
    ("PoolNearLimit", "ticket"): one(
        {f"vllm:num_requests_running{{{POD}}}": "15x60"},
        {f"vllm:num_requests_running{{{POD}}}": "12x60"},
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
    ("PrewarmMissing", "page"): one(
        {PREWARM: "2x60"},
        {PREWARM: "0x60"},
        {"pool": "answers", "window": "quarter end"},
    ),
    ("ScalerErrors", "ticket"): one(
        {'keda_scaled_object_errors_total{namespace="a",scaledObject="answers"}': "0+1x60"},
        {'keda_scaled_object_errors_total{namespace="a",scaledObject="answers"}': "4x60"},
        {"scaledObject": "answers"},
    ),
    ("KvCacheFull", "ticket"): one(
        {f"vllm:kv_cache_usage_perc{{{POD}}}": "0.98x60"},
        {f"vllm:kv_cache_usage_perc{{{POD}}}": "0.9x60"},
        {"gpufleet_dev_pool": "answers"},
    ),
    ("RequestsPreempted", "ticket"): one(
        {
            f"vllm:num_preemptions_total{{{POD}}}": "0+12x60",
            f"vllm:num_requests_running{{{POD}}}": "16x60",
        },
        {
            f"vllm:num_preemptions_total{{{POD}}}": "0+2x60",
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
