"""GPUs: faults, heat, memory, and how busy they are by model.

Series are those of NVIDIA's dcgm-exporter (Apache-2.0); an embedded site's node agent gives the
same ones, simulated. Which pod holds a GPU comes as the labels namespace and pod.
"""

from typing import Final

from gpufleet.core import engine_metrics as engine
from gpufleet.core.monitoring.rules import MODEL, POOL, Alert, Group, Record, Severity, selector

GPU_JOB: Final = "dcgm"
UTILIZATION: Final = "DCGM_FI_DEV_GPU_UTIL"
"""Percent."""
MEMORY_USED: Final = "DCGM_FI_DEV_FB_USED"
"""MiB."""
MEMORY_FREE: Final = "DCGM_FI_DEV_FB_FREE"
"""MiB."""
POWER_W: Final = "DCGM_FI_DEV_POWER_USAGE"
TEMPERATURE_C: Final = "DCGM_FI_DEV_GPU_TEMP"
XID: Final = "DCGM_FI_DEV_XID_ERRORS"
"""Number of the last XID, 0 for none; it stays until the GPU is reset."""
THROTTLE: Final = "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS"
"""Bits, as NVML's nvmlClocksThrottleReasons has them."""
THROTTLE_SINCE_DCGM_4: Final = "DCGM_FI_DEV_CLOCKS_EVENT_REASONS"
REMAP_FAILURE: Final = "DCGM_FI_DEV_ROW_REMAP_FAILURE"
REMAPPED_ROWS: Final = "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS"

POD_LABELS: Final = "kube_pod_labels"
"""Of kube-state-metrics: 1, with a pod's own labels as `label_...`."""
KUBE_POOL: Final = f"label_{POOL}"
KUBE_MODEL: Final = f"label_{MODEL}"
POD_POOL: Final = "pod:gpufleet_pool:info"
"""1 for each pod of a pool, with the labels that tell its pool and model."""
MODEL_UTILIZATION: Final = "model:gpufleet_gpu_utilization:ratio"
MODEL_GPUS: Final = "model:gpufleet_gpus:count"
MODEL_POWER_W: Final = "model:gpufleet_gpu_power_watts:sum"

FATAL_XIDS: Final = (46, 48, 61, 62, 64, 74, 79, 92, 94, 95, 109, 119, 120, 136, 140, 143)
"""The GPU, its memory or its links are at fault: it has to be drained and reset, or replaced.

Source: NVIDIA's XID catalogue, those whose action is to reset the GPU or restart the machine."""
_HOT_C: Final = 87
_FULL: Final = 0.98
"""Engines take nine tenths; what comes above is not theirs."""
_IDLE: Final = 0.05
_BUSY: Final = 0.9
THERMAL_BITS: Final = (0x20, 0x40)
"""Software and hardware thermal slowdown."""
POWER_BITS: Final = (0x80,)
"""Hardware power brake: the rack or the supply asks for it. A software power cap (0x4) is usual
at full load."""


_WHOSE: Final = f"{{{{ with $labels.{MODEL} }}}} ({{{{ . }}}}){{{{ end }}}}"
"""The model that a GPU serves, where it serves one."""


def gpu_group() -> Group:
    """Recordings and alerts on every GPU of a site."""
    return Group("gpufleet-gpus", (*_records(), *_faults(), *_throttling(), *_use()))


def with_pool(expr: str) -> str:
    """A series of GPUs with the pool and model of the pod that holds each, where one does."""
    joined = f"on (namespace, pod) group_left ({POOL}, {MODEL}) {POD_POOL}"
    return f"(({expr}) * {joined} or ({expr}) unless on (namespace, pod) {POD_POOL})"


def _records() -> tuple[Record, ...]:
    ours = f"{POD_LABELS}{selector(**{KUBE_POOL: '!'})}"
    named = f'label_replace({ours}, "{POOL}", "$1", "{KUBE_POOL}", "(.+)")'
    named = f'label_replace({named}, "{MODEL}", "$1", "{KUBE_MODEL}", "(.+)")'
    info = f"max by (namespace, pod, {POOL}, {MODEL}) ({named})"
    joined = f"* on (namespace, pod) group_left ({POOL}, {MODEL}) {POD_POOL}"
    return (
        Record(POD_POOL, info),
        Record(MODEL_UTILIZATION, f"avg by ({MODEL}) ({UTILIZATION} / 100 {joined})"),
        Record(MODEL_GPUS, f"count by ({MODEL}) ({UTILIZATION} {joined})"),
        Record(MODEL_POWER_W, f"sum by ({MODEL}) ({POWER_W} {joined})"),
    )


def _faults() -> tuple[Alert, ...]:
    fatal = " or ".join(f"{XID} == {number}" for number in FATAL_XIDS)
    return (
        Alert(
            name="GpuFatalXid",
            expr=with_pool(fatal),
            severity=Severity.PAGE,
            runbook="gpus#xid",
            summary="{{ $labels.Hostname }} GPU {{ $labels.gpu }}: XID {{ $value }}" + _WHOSE,
            description=(
                "The GPU is at fault: drain the node and reset it. The number stays until then."
            ),
        ),
        Alert(
            name="GpuXid",
            # An engine's own fault: told for an hour, and not until the GPU is reset some day.
            expr=with_pool(
                f"({XID} > 0 and changes({XID}[1h]) > 0) unless ({fatal})",
            ),
            severity=Severity.TICKET,
            runbook="gpus#xid",
            summary="{{ $labels.Hostname }} GPU {{ $labels.gpu }}: XID {{ $value }}" + _WHOSE,
            description="Mostly the fault of a program; its replica restarts.",
        ),
        Alert(
            name="GpuRowRemapFailure",
            expr=with_pool(f"{REMAP_FAILURE} > 0"),
            severity=Severity.PAGE,
            runbook="gpus#memory-rows",
            summary="{{ $labels.Hostname }} GPU {{ $labels.gpu }}: a row remap failed" + _WHOSE,
            description="Its memory cannot be repaired any more: take it out, and return it.",
        ),
        Alert(
            name="GpuRowsRemapped",
            expr=with_pool(f"increase({REMAPPED_ROWS}[1d]) > 0"),
            severity=Severity.TICKET,
            runbook="gpus#memory-rows",
            summary="{{ $labels.Hostname }} GPU {{ $labels.gpu }}: rows were remapped" + _WHOSE,
            description="Uncorrectable memory errors; the remapping needs a reset to take effect.",
        ),
    )


def _throttling() -> tuple[Alert, ...]:
    return (
        Alert(
            name="GpuThermalThrottle",
            expr=with_pool(_any_bit(THERMAL_BITS)),
            severity=Severity.TICKET,
            for_s=300,
            runbook="gpus#heat-and-power",
            summary="{{ $labels.Hostname }} GPU {{ $labels.gpu }}: slowed down by heat" + _WHOSE,
            description="Its replica is slower than planned until the cooling is mended.",
        ),
        Alert(
            name="GpuPowerBrake",
            expr=with_pool(_any_bit(POWER_BITS)),
            severity=Severity.TICKET,
            for_s=300,
            runbook="gpus#heat-and-power",
            summary="{{ $labels.Hostname }} GPU {{ $labels.gpu }}: braked by its supply" + _WHOSE,
            description="Rack or power supply ask for less: see the rack's power.",
        ),
        Alert(
            name="GpuHot",
            expr=with_pool(f"{TEMPERATURE_C} > {_HOT_C}"),
            severity=Severity.TICKET,
            for_s=600,
            runbook="gpus#heat-and-power",
            summary="{{ $labels.Hostname }} GPU {{ $labels.gpu }}: {{ $value }} °C" + _WHOSE,
            description="It is about to slow down.",
        ),
    )


def _use() -> tuple[Alert, ...]:
    model = f"{{{{ $labels.{MODEL} }}}}"
    full = f"{MEMORY_USED} / ({MEMORY_USED} + {MEMORY_FREE})"
    tokens = f"sum by ({MODEL}) (rate({engine.GENERATION_TOKENS}[5m]))"
    # What did not exist yet has not been idle.
    existed = f"max_over_time({MODEL_UTILIZATION}[30m] offset 6h)"
    return (
        Alert(
            name="GpuMemoryFull",
            expr=with_pool(f"{full} > {_FULL}"),
            severity=Severity.TICKET,
            for_s=900,
            runbook="gpus#memory",
            summary=(
                "{{ $labels.Hostname }} GPU {{ $labels.gpu }}: "
                "{{ $value | humanizePercentage }} of its memory is taken" + _WHOSE
            ),
            description="More than its engine was given: the next allocation may fail.",
        ),
        Alert(
            name="ModelGpusIdle",
            expr=f"max_over_time({MODEL_UTILIZATION}[6h]) < {_IDLE} and on ({MODEL}) {existed}",
            severity=Severity.TICKET,
            for_s=3600,
            runbook="gpus#idle",
            summary=f"{model}: its GPUs have been idle for hours",
            description="They cost as much as busy ones; see cost.compare.",
        ),
        Alert(
            name="ModelGpusBusyWithoutTokens",
            expr=f"{MODEL_UTILIZATION} > {_BUSY} and on ({MODEL}) {tokens} == 0",
            severity=Severity.PAGE,
            for_s=600,
            runbook="gpus#busy-without-tokens",
            summary=f"{model}: GPUs are busy and no token is generated",
            description="Engines hang in a kernel, or somebody else's program runs on the GPUs.",
        ),
    )


def _any_bit(bits: tuple[int, ...]) -> str:
    """PromQL that keeps GPUs of which one of some throttle reasons is set."""
    # An exporter may tell both: two series of one GPU would be an error.
    both = f"({THROTTLE} or {THROTTLE_SINCE_DCGM_4})"
    # PromQL has no bits: a whole number over the bit is odd where the bit is set.
    return " or ".join(f"floor({both} / {bit}) % 2 == 1" for bit in bits)
