"""vLLM's metric names, with their renames, and the fixed bounds of its histograms.

Source: vllm-project/vllm, vllm/v1/metrics/loggers.py (Apache-2.0). Names have changed between
versions, so whoever reads an engine's metrics does it through `canonical`.
"""

from typing import Final

RUNNING: Final = "vllm:num_requests_running"
WAITING: Final = "vllm:num_requests_waiting"
KV_USAGE: Final = "vllm:kv_cache_usage_perc"
PREEMPTIONS: Final = "vllm:num_preemptions_total"
PROMPT_TOKENS: Final = "vllm:prompt_tokens_total"
GENERATION_TOKENS: Final = "vllm:generation_tokens_total"
FINISHED: Final = "vllm:request_success_total"
"""Label `finished_reason`: stop, length, abort."""
TTFT: Final = "vllm:time_to_first_token_seconds"
TOKEN_TIME: Final = "vllm:inter_token_latency_seconds"  # noqa: S105 - a metric's name
E2E: Final = "vllm:e2e_request_latency_seconds"
QUEUE_TIME: Final = "vllm:request_queue_time_seconds"
PREFILL_TIME: Final = "vllm:request_prefill_time_seconds"
DECODE_TIME: Final = "vllm:request_decode_time_seconds"

RENAMED: Final = {
    "vllm:gpu_cache_usage_perc": KV_USAGE,
    "vllm:time_per_output_token_seconds": TOKEN_TIME,
}
"""Earlier names, with what they are called since vLLM 0.11."""

TTFT_BOUNDS_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BOUNDS_S: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BOUNDS_S: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
"""Of whole requests, and of their time in queue, in prefill and in decode."""


def canonical(name: str) -> str:
    """Today's name of a metric, its suffix (`_bucket`, `_sum`, `_count`) kept."""
    for suffix in ("_bucket", "_sum", "_count"):
        if name.endswith(suffix):
            stem = name.removesuffix(suffix)
            return RENAMED.get(stem, stem) + suffix
    return RENAMED.get(name, name)


def stricter_bound(target_s: float, bounds: tuple[float, ...]) -> float:
    """The bucket bound that a target is alerted on: itself, or the next one below.

    Below the smallest bound that is the smallest: nothing stricter can be seen.
    """
    return max((bound for bound in bounds if bound <= target_s), default=bounds[0])
