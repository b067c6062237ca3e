"""What an embedded site's GPUs tell Prometheus: simulated, by the names of NVIDIA's dcgm-exporter.

Utilization, power and heat follow from the load of the pod's simulated replica. A fault is injected
into a GPU itself, never by a label. Beside them stands `kube_pod_labels`, as a cluster's
kube-state-metrics tells it: it says to which pool and model a pod belongs.
"""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gpufleet.core.monitoring import gpus
from gpufleet.spec.gpu_faults import GpuFault, GpuFaultKind

_IDLE_POWER: Final = 0.15
"""Share of the rated power that a GPU with a loaded model takes without requests."""
_AMBIENT_C, _HOTTEST_C = 32.0, 78.0
_THROTTLED_C: Final = 90.0
_BUSY: Final = 0.5
"""Utilization from the first request on: it counts the time in which any kernel runs."""
_MIB: Final = 2**20
_BITS: Final = {
    # What NVML sets beside the reason itself: hardware slowdown.
    GpuFaultKind.THERMAL: 0x40 | 0x8,
    GpuFaultKind.POWER: 0x80 | 0x8,
}
_KINDS: Final = {
    gpus.UTILIZATION: "gauge",
    gpus.MEMORY_USED: "gauge",
    gpus.MEMORY_FREE: "gauge",
    gpus.POWER_W: "gauge",
    gpus.TEMPERATURE_C: "gauge",
    gpus.XID: "gauge",
    gpus.THROTTLE: "gauge",
    gpus.REMAP_FAILURE: "gauge",
    gpus.REMAPPED_ROWS: "counter",
}


@dataclass(frozen=True)
class GpuPod:
    """A pod that holds GPUs.

    Args:
        namespace: of the pod.
        pod: its name.
        container: that uses them.
        pool: its label, empty for none.
        model: its label, empty for none.
        node: where it runs.
        gpus: how many it holds.
        product: as the driver names them.
        memory_bytes: of one.
        power_w: rated, of one.
        memory_share: of a GPU's memory that its engine has taken, 0 to 1.
        load: share of its concurrency limit in use, 0 to 1.
    """

    namespace: str
    pod: str
    container: str
    pool: str
    model: str
    node: str
    gpus: int
    product: str
    memory_bytes: int
    power_w: float
    memory_share: float = 0.0
    load: float = 0.0


def gpu_series(pods: Sequence[GpuPod], faults: Iterable[GpuFault] = ()) -> str:
    """Every series of a site's GPUs in Prometheus' text format; GPUs that nobody holds have none.

    Args:
        pods: that hold GPUs.
        faults: that were injected.
    """
    told: dict[str, list[str]] = {name: [] for name in _KINDS}
    injected = tuple(faults)
    for pod, number in _numbered(pods):
        labels = _labels(pod, number)
        for name, value in _values(pod, _hits(pod, number, injected)).items():
            told[name].append(f"{name}{{{labels}}} {value:g}")
    lines = [
        line
        for name, kind in _KINDS.items()
        if told[name]
        for line in (f"# HELP {name} Simulated", f"# TYPE {name} {kind}", *told[name])
    ]
    if pods:
        lines += [f"# TYPE {gpus.POD_LABELS} gauge", *(_pod_labels(pod) for pod in pods)]
    return "".join(f"{line}\n" for line in lines)


def _numbered(pods: Iterable[GpuPod]) -> Iterator[tuple[GpuPod, int]]:
    """Each GPU of each pod with its number on the node, in an order that stays."""
    used: dict[str, int] = {}
    for pod in sorted(pods, key=lambda pod: (pod.node, pod.namespace, pod.pod)):
        first = used.get(pod.node, 0)
        used[pod.node] = first + pod.gpus
        for number in range(first, first + pod.gpus):
            yield pod, number


def _hits(pod: GpuPod, number: int, faults: Iterable[GpuFault]) -> tuple[GpuFault, ...]:
    return tuple(
        fault for fault in faults if fault.pod in {None, pod.pod} and fault.gpu in {None, number}
    )


def _values(pod: GpuPod, faults: Sequence[GpuFault]) -> dict[str, float]:
    load = min(1.0, max(0.0, pod.load))
    used = pod.memory_bytes * pod.memory_share
    kinds = {fault.kind for fault in faults}
    bits = 0
    for kind in kinds:
        bits |= _BITS.get(kind, 0)
    heat_c = _AMBIENT_C + (_HOTTEST_C - _AMBIENT_C) * load
    return {
        gpus.UTILIZATION: round(100 * (_BUSY + (1 - _BUSY) * load)) if load else 0,
        gpus.MEMORY_USED: round(used / _MIB),
        gpus.MEMORY_FREE: round((pod.memory_bytes - used) / _MIB),
        gpus.POWER_W: round(pod.power_w * (_IDLE_POWER + (1 - _IDLE_POWER) * load), 1),
        gpus.TEMPERATURE_C: _THROTTLED_C if GpuFaultKind.THERMAL in kinds else round(heat_c),
        gpus.XID: next((f.xid for f in reversed(faults) if f.kind is GpuFaultKind.XID), 0),
        gpus.THROTTLE: bits,
        gpus.REMAP_FAILURE: float(GpuFaultKind.REMAP in kinds),
        gpus.REMAPPED_ROWS: float(GpuFaultKind.REMAP in kinds),
    }


def _labels(pod: GpuPod, number: int) -> str:
    """The labels of dcgm-exporter."""
    own = uuid.uuid5(uuid.NAMESPACE_DNS, f"{pod.node}/{number}")
    return _written(
        gpu=str(number),
        UUID=f"GPU-{own}",
        Hostname=pod.node,
        modelName=pod.product,
        namespace=pod.namespace,
        pod=pod.pod,
        container=pod.container,
    )


def _pod_labels(pod: GpuPod) -> str:
    labels = _written(
        namespace=pod.namespace,
        pod=pod.pod,
        **{gpus.KUBE_POOL: pod.pool, gpus.KUBE_MODEL: pod.model},
    )
    return f"{gpus.POD_LABELS}{{{labels}}} 1"


def _written(**labels: str) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels.items())
