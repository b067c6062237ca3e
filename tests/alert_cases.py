"""For each alert: series with which it fires, and series with which it stays quiet.

Written as promtool reads them: `0+60x90` is a counter that grows by 60 at each of 90 minutes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

ENGINE: Final = 'gpufleet_dev_pool="answers",gpufleet_dev_model="llama-3.1-8b"'
POD: Final = f'{ENGINE},namespace="gpufleet-interactive",pod="answers-0"'
GPU: Final = 'Hostname="n1",gpu="0",UUID="GPU-1"'
OF_POD: Final = 'namespace="gpufleet-interactive",pod="answers-0"'
POD_LABELS: Final = {
    f'kube_pod_labels{{{OF_POD},label_gpufleet_dev_pool="answers",'
    'label_gpufleet_dev_model="llama-3.1-8b"}': "1x600"
}
REPLICA_UP: Final = {f'up{{job="replicas",{POD}}}': "1x120"}
SERVED: Final = {"gpufleet_dev_pool": "answers", "gpufleet_dev_model": "llama-3.1-8b"}


@dataclass(frozen=True)
class Case:
    """What Prometheus sees, and the labels of the alert that comes of it; None for no alert."""

    series: Mapping[str, str]
    labels: Mapping[str, str] | None
    at_min: int = 60
    step_min: int = 1


@dataclass(frozen=True)
class Cases:
    """At least one of each, or an alert proves nothing."""

    fires: tuple[Case, ...]
    quiet: tuple[Case, ...]


def one(
    fires: Mapping[str, str],
    quiet: Mapping[str, str],
    labels: Mapping[str, str],
    at_min: int = 60,
) -> Cases:
    """An alert with one case of each."""
    return Cases((Case(fires, labels, at_min),), (Case(quiet, None, at_min),))


def counter(*parts: tuple[float, int]) -> str:
    """A counter that grows by so much at each of so many steps, and then at another rate."""
    text, reached = "0", 0.0
    for rate, steps in parts:
        text += f" {reached + rate:g}+{rate:g}x{steps - 1}"
        reached += rate * steps
    return text


def requests(outcome: str, per_min: float, *, route: str = "primary") -> dict[str, str]:
    """An hour of requests of a use case with one outcome."""
    return {_requests(outcome, route): counter((per_min, 60))}


def _requests(outcome: str, route: str = "primary") -> str:
    labels = f'use_case="answers",team="support",route="{route}",outcome="{outcome}"'
    return f"gpufleet_gateway_requests_total{{{labels}}}"


def slow(stem: str, le: str, *parts: tuple[float, int], each: float = 60) -> dict[str, str]:
    """Shares of slow requests, each for so many steps."""
    return {
        f'{stem}_count{{use_case="answers"}}': counter(*((each, steps) for _, steps in parts)),
        f'{stem}_bucket{{use_case="answers",le="{le}"}}': counter(
            *((each * (1 - share), steps) for share, steps in parts)
        ),
    }


def failing(*parts: tuple[float, int], each: float = 60) -> dict[str, str]:
    """Shares of failed requests, each for so many steps."""
    return {
        _requests("ok"): counter(*((each * (1 - share), steps) for share, steps in parts)),
        _requests("error"): counter(*((each * share, steps) for share, steps in parts)),
    }


PREWARM: Final = (
    'gpufleet_prewarm_missing_replicas{pool="answers",site="main",window="quarter end"}'
)
UP: Final = 'up{job="gateway"}'


SEEN: Final = "gpufleet_gateway_worker_seen_timestamp_seconds"


def scraped(up: str, step_min: int = 1) -> dict[str, str]:
    """A gateway whose workers work, and whose control process answers Prometheus or not."""
    return {UP: up, SEEN: f"0+{60 * step_min}x500"}


def burning(stem: str, le: str, slo: str) -> dict[tuple[str, str], Cases]:
    """Cases of a latency's two alerts: each pair of windows, below, too few, and over already."""
    name = "LatencyBudgetBurn" if slo == "latency" else "TtftBudgetBurn"
    labels = {"use_case": "answers", "team": "support", "slo": slo}
    return {
        (name, "page"): Cases(
            fires=(
                Case(slow(stem, le, (0, 300), (0.8, 70)), labels, 365),
                Case(slow(stem, le, (0.4, 420)), labels, 400),
            ),
            quiet=(
                Case(slow(stem, le, (0.2, 420)), None, 400),
                Case(slow(stem, le, (0.8, 120), each=0.05), None, 90),
                # Most of the last hour was bad, and it is over: the short windows say so.
                Case(slow(stem, le, (1, 55), (0, 40)), None, 94),
            ),
        ),
        (name, "ticket"): Cases(
            fires=(Case(slow(stem, le, (0.2, 312)), labels, 1500, 5),),
            quiet=(
                Case(slow(stem, le, (0.04, 312)), None, 1500, 5),
                Case(slow(stem, le, (0.2, 312), each=0.03), None, 1500, 5),
            ),
        ),
    }


LATENCY: Final = {"use_case": "answers", "team": "support", "slo": "latency"}
ERRORS: Final = {"use_case": "answers", "team": "support", "slo": "errors"}
AVAILABILITY: Final = {"use_case": "answers", "team": "support", "slo": "availability"}
QUEUE: Final = "vllm:request_queue_time_seconds"


def gpu(series: str, values: str, pod: str = "") -> dict[str, str]:
    """A series of one GPU, which a pod holds or nobody."""
    return {f"{series}{{{GPU}{',' + pod if pod else ''}}}": values}


def gpu_cases(fires: Mapping[str, str], quiet: Mapping[str, str]) -> Cases:
    """A GPU that serves a model, one that nobody holds, and a healthy one.

    Args:
        fires: values by series with which the alert fires.
        quiet: values with which it does not.
    """

    def held(values: Mapping[str, str], pod: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, text in values.items():
            found |= gpu(name, text, pod)
        return found

    return Cases(
        fires=(
            Case(held(fires, OF_POD) | POD_LABELS, {"gpu": "0", "Hostname": "n1", **SERVED}),
            Case(held(fires, ""), {"gpu": "0", "Hostname": "n1"}),
        ),
        quiet=(Case(held(quiet, OF_POD) | POD_LABELS, None),),
    )


CASES: Final[dict[tuple[str, str], Cases]] = {
    **burning("gpufleet_gateway_request_seconds", "2.0", "latency"),
    **burning("gpufleet_gateway_ttft_seconds", "0.5", "ttft"),
    ("ErrorBudgetBurn", "page"): Cases(
        fires=(
            Case(failing((0, 300), (0.02, 70)), ERRORS, 365),
            Case(failing((0.008, 420)), ERRORS, 400),
        ),
        quiet=(
            Case(failing((0.004, 420)), None, 400),
            # One of 50 requests failed: the share is 2 %, and says nothing.
            Case(failing((0.02, 120), each=0.8), None, 60),
            Case(requests("ok", 60), None),
        ),
    ),
    ("ErrorBudgetBurn", "ticket"): Cases(
        fires=(Case(failing((0.004, 312)), ERRORS, 1500, 5),),
        quiet=(Case(failing((0.0008, 312)), None, 1500, 5),),
    ),
    ("AvailabilityBudgetBurn", "page"): Cases(
        fires=(
            Case(scraped("1x60 0x20"), AVAILABILITY, 75),
            Case(requests("refused", 30), AVAILABILITY),
            # 3.3 % of six hours, and over: the half hour still holds it.
            Case(scraped("1x380 0x11 1x20"), AVAILABILITY, 400),
        ),
        quiet=(
            Case(scraped("1x60") | requests("ok", 60), None),
            # Two failures in the window say nothing.
            Case(scraped("1x60") | requests("error", 0.5), None),
        ),
    ),
    ("AvailabilityBudgetBurn", "ticket"): Cases(
        fires=(Case(scraped("1x360 0x20", 4), AVAILABILITY, 1500, 4),),
        quiet=(Case(scraped("1x380", 4), None, 1500, 4),),
    ),
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
    ("GatewayDown", "page"): Cases(
        fires=(
            Case(scraped("1x50 0x10"), {}),
            # The control process outlives the workers.
            Case({UP: "1x60", SEEN: "0+60x50 3000x10"}, {}),
            Case({UP: "1x60"}, {}),
            Case({}, {}),
        ),
        quiet=(Case(scraped("1x60"), None),),
    ),
    ("GatewayFilesStale", "page"): one(
        {'gpufleet_gateway_file_age_seconds{file="keys"}': "5x30 300x30"},
        {'gpufleet_gateway_file_age_seconds{file="keys"}': "5x60"},
        {"file": "keys"},
    ),
    # promtool's clock begins at 0: the hour is 3600.
    ("CertificateExpiresSoon", "ticket"): one(
        {'gpufleet_certificate_expiry_timestamp_seconds{name="gateway"}': "864000x60"},
        {'gpufleet_certificate_expiry_timestamp_seconds{name="gateway"}': "2592000x60"},
        {"name": "gateway"},
    ),
    ("CertificateExpires", "page"): one(
        {'gpufleet_certificate_expiry_timestamp_seconds{name="gateway"}': "86400x60"},
        {'gpufleet_certificate_expiry_timestamp_seconds{name="gateway"}': "864000x60"},
        {"name": "gateway"},
    ),
    ("RequestsRefused", "ticket"): Cases(
        fires=(Case(requests("ok", 54) | requests("refused", 6), {"use_case": "answers"}),),
        quiet=(
            Case(requests("ok", 59) | requests("refused", 1), None),
            Case(requests("ok", 0.4) | requests("refused", 0.6), None),
        ),
    ),
    ("RequestsOverflow", "ticket"): one(
        requests("ok", 40) | requests("ok", 20, route="fallback"),
        requests("ok", 58) | requests("ok", 2, route="fallback"),
        {"use_case": "answers"},
    ),
    ("HostedSpendFast", "ticket"): Cases(
        # Two hours of January are gone.
        fires=(
            Case(
                {
                    'gpufleet_gateway_hosted_spend{use_case="answers"}': "300x180",
                    'gpufleet_gateway_hosted_cap{use_case="answers"}': "1000x180",
                },
                {"use_case": "answers"},
                120,
            ),
        ),
        quiet=(
            Case(
                {
                    'gpufleet_gateway_hosted_spend{use_case="answers"}': "50x180",
                    'gpufleet_gateway_hosted_cap{use_case="answers"}': "1000x180",
                },
                None,
                120,
            ),
            # Ten days of the month are gone, and a third of the money.
            Case(
                {
                    'gpufleet_gateway_hosted_spend{use_case="answers"}': "330x3000",
                    'gpufleet_gateway_hosted_cap{use_case="answers"}': "1000x3000",
                },
                None,
                14_400,
                5,
            ),
        ),
    ),
    ("HostedCapNear", "ticket"): one(
        {
            'gpufleet_gateway_hosted_spend{use_case="answers"}': "950x60",
            'gpufleet_gateway_hosted_cap{use_case="answers"}': "1000x60",
        },
        {
            'gpufleet_gateway_hosted_spend{use_case="answers"}': "850x60",
            'gpufleet_gateway_hosted_cap{use_case="answers"}': "1000x60",
        },
        {"use_case": "answers"},
    ),
    ("AuditGaps", "page"): one(
        {'gpufleet_gateway_audit_gaps_total{use_case="answers"}': "0x55 3x5"},
        {'gpufleet_gateway_audit_gaps_total{use_case="answers"}': "3x60"},
        {"use_case": "answers"},
    ),
    ("AuditUnshipped", "ticket"): one(
        {"gpufleet_gateway_audit_unshipped_seconds": "0+60x60"},
        {"gpufleet_gateway_audit_unshipped_seconds": "60x60"},
        {},
    ),
    ("GpuFatalXid", "page"): gpu_cases(
        {"DCGM_FI_DEV_XID_ERRORS": "79x60"}, {"DCGM_FI_DEV_XID_ERRORS": "31x60"}
    ),
    ("GpuXid", "ticket"): Cases(
        fires=(
            Case(
                gpu("DCGM_FI_DEV_XID_ERRORS", "0x50 31x10", OF_POD) | POD_LABELS,
                {"gpu": "0", **SERVED},
            ),
            Case(gpu("DCGM_FI_DEV_XID_ERRORS", "0x50 13x10"), {"gpu": "0"}),
        ),
        quiet=(
            Case(gpu("DCGM_FI_DEV_XID_ERRORS", "0x120"), None),
            Case(gpu("DCGM_FI_DEV_XID_ERRORS", "0x50 79x10"), None),
            # Long ago.
            Case(gpu("DCGM_FI_DEV_XID_ERRORS", "0x10 31x110"), None, 110),
        ),
    ),
    ("GpuRowRemapFailure", "page"): gpu_cases(
        {"DCGM_FI_DEV_ROW_REMAP_FAILURE": "1x60"}, {"DCGM_FI_DEV_ROW_REMAP_FAILURE": "0x60"}
    ),
    ("GpuRowsRemapped", "ticket"): gpu_cases(
        {"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": "0x30 1x30"},
        {"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": "1x60"},
    ),
    # 0x40 | 0x8: hardware thermal slowdown; 0x4: the usual power cap.
    ("GpuThermalThrottle", "ticket"): gpu_cases(
        {"DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": "72x60"},
        {"DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": "4x60"},
    ),
    ("GpuPowerBrake", "ticket"): gpu_cases(
        {"DCGM_FI_DEV_CLOCKS_EVENT_REASONS": "136x60"},
        {"DCGM_FI_DEV_CLOCKS_EVENT_REASONS": "64x60"},
    ),
    ("GpuHot", "ticket"): gpu_cases(
        {"DCGM_FI_DEV_GPU_TEMP": "91x60"}, {"DCGM_FI_DEV_GPU_TEMP": "80x60"}
    ),
    ("GpuMemoryFull", "ticket"): gpu_cases(
        {"DCGM_FI_DEV_FB_USED": "81000x60", "DCGM_FI_DEV_FB_FREE": "500x60"},
        {"DCGM_FI_DEV_FB_USED": "73000x60", "DCGM_FI_DEV_FB_FREE": "8000x60"},
    ),
    ("ModelGpusIdle", "ticket"): Cases(
        fires=(
            Case(
                {
                    **gpu("DCGM_FI_DEV_GPU_UTIL", "1x600", OF_POD),
                    **POD_LABELS,
                },
                {"gpufleet_dev_model": "llama-3.1-8b"},
                500,
            ),
        ),
        quiet=(
            Case(
                {
                    **gpu("DCGM_FI_DEV_GPU_UTIL", "1x300 40x10 1x290", OF_POD),
                    **POD_LABELS,
                },
                None,
                500,
            ),
        ),
    ),
    ("ModelGpusBusyWithoutRequests", "page"): one(
        {
            **gpu("DCGM_FI_DEV_GPU_UTIL", "99x60", OF_POD),
            **POD_LABELS,
            f"vllm:num_requests_running{{{POD}}}": "0x60",
        },
        {
            **gpu("DCGM_FI_DEV_GPU_UTIL", "99x60", OF_POD),
            **POD_LABELS,
            f"vllm:num_requests_running{{{POD}}}": "3x60",
        },
        {"gpufleet_dev_model": "llama-3.1-8b"},
    ),
    ("TargetDown", "ticket"): one(
        {'up{job="keda",instance="a:1"}': "0x60"},
        {'up{job="keda",instance="a:1"}': "1x60", 'up{job="gateway",instance="a:2"}': "0x60"},
        {"job": "keda", "instance": "a:1"},
    ),
    ("RuleFailures", "ticket"): one(
        {'prometheus_rule_evaluation_failures_total{rule_group="g"}': "0+1x60"},
        {'prometheus_rule_evaluation_failures_total{rule_group="g"}': "5x60"},
        {"rule_group": "g"},
    ),
    ("WorkerDown", "ticket"): Cases(
        fires=(Case({'up{job="worker"}': "0x60"}, {}), Case({}, {})),
        quiet=(Case({'up{job="worker"}': "1x60"}, None),),
    ),
    ("FreezeSyncStale", "ticket"): one(
        {'gpufleet_chore_last_success_timestamp_seconds{chore="freeze"}': "0+60x30 1800x30"},
        {'gpufleet_chore_last_success_timestamp_seconds{chore="freeze"}': "0+60x60"},
        {},
    ),
    ("ChoresFail", "ticket"): Cases(
        fires=(
            Case(
                {
                    'gpufleet_chore_failures_total{job="worker",chore="anchor"}': "0+1x60",
                    'gpufleet_chore_last_success_timestamp_seconds{job="worker",chore="anchor"}': (
                        "600x60"
                    ),
                },
                {"job": "worker", "chore": "anchor"},
            ),
            # It never ended well.
            Case(
                {'gpufleet_chore_failures_total{job="gateway",chore="routes"}': "0+1x60"},
                {"job": "gateway", "chore": "routes"},
            ),
        ),
        quiet=(
            Case({'gpufleet_chore_failures_total{job="worker",chore="anchor"}': "9x60"}, None),
            # It failed until a minute ago.
            Case(
                {
                    'gpufleet_chore_failures_total{job="gateway",chore="routes"}': "0+1x58 59x10",
                    'gpufleet_chore_last_success_timestamp_seconds{job="gateway",chore="routes"}': (
                        "_x59 3540+60x10"
                    ),
                },
                None,
            ),
        ),
    ),
}
"""By name and severity; what differs between an embedded site and a cluster comes after."""

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

CLUSTER: Final[dict[tuple[str, str], Cases]] = {
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
    ("HostSwapping", "ticket"): one(
        {
            'node_vmstat_pswpin{instance="n1"}': "0+9000x60",
            'node_vmstat_pswpout{instance="n1"}': "0+9000x60",
        },
        {
            'node_vmstat_pswpin{instance="n1"}': "0+60x60",
            'node_vmstat_pswpout{instance="n1"}': "0+60x60",
        },
        {"instance": "n1"},
    ),
    # The pair of three days and six hours, which a day of retention cannot hold.
    ("LatencyBudgetBurn", "ticket"): Cases(
        fires=(
            Case(
                slow("gpufleet_gateway_request_seconds", "2.0", (0.08, 900)),
                LATENCY,
                4440,
                5,
            ),
        ),
        quiet=(Case(slow("gpufleet_gateway_request_seconds", "2.0", (0.04, 900)), None, 4440, 5),),
    ),
}
"""What is told by kube-state-metrics and node exporter, and what needs days of retention."""
