"""Alerts on GPUs: held by a pod of a pool, by nobody, and well."""

from collections.abc import Mapping
from typing import Final

from tests.alerts.case import OF_POD, POD, POD_LABELS, Case, Cases, one

GPU: Final = 'Hostname="n1",gpu="0",UUID="GPU-1"'
SERVED: Final = {"gpufleet_dev_pool": "answers", "gpufleet_dev_model": "llama-3.1-8b"}


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
        # An exporter may tell them by both names.
        {
            "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": "72x60",
            "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": "72x60",
        },
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
            # It has run for five hours.
            Case(
                {**gpu("DCGM_FI_DEV_GPU_UTIL", "1x300", OF_POD), **POD_LABELS},
                None,
                300,
            ),
        ),
    ),
    ("ModelGpusBusyWithoutTokens", "page"): one(
        # It hangs, with requests.
        {
            **gpu("DCGM_FI_DEV_GPU_UTIL", "99x60", OF_POD),
            **POD_LABELS,
            f"vllm:num_requests_running{{{POD}}}": "3x60",
            f"vllm:generation_tokens_total{{{POD}}}": "0+600x30 18000x30",
        },
        {
            **gpu("DCGM_FI_DEV_GPU_UTIL", "99x60", OF_POD),
            **POD_LABELS,
            f"vllm:num_requests_running{{{POD}}}": "3x60",
            f"vllm:generation_tokens_total{{{POD}}}": "0+600x60",
        },
        {"gpufleet_dev_model": "llama-3.1-8b"},
    ),
}
