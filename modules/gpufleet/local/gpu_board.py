"""The simulated GPUs of an embedded site: which pod holds which, how busy they are, what is wrong.

The node agent tells it the pods; what a GPU is comes from the fleet file, by a file.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from gpufleet.local.files import read_json, write_rows
from gpufleet.local.gpu_metrics import GpuPod, gpu_series
from gpufleet.local.pool_pod import PoolPod
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.gpu_faults import GpuFault
from gpufleet.spec.simulation import SimulatedReplica

GPUS_FILE: Final = "gpus.json"


@dataclass(frozen=True)
class HeldGpus:
    """The GPUs of each pod of a pool on a node group."""

    gpus: int
    product: str
    memory_bytes: int
    power_w: float
    memory_share: float
    concurrency_limit: int


def write_gpus(folder: Path, fleet: Fleet, site: str, *, only: str = "") -> bool:
    """Keep what the GPUs of a site are; False if it was just that already.

    Args:
        folder: of the site.
        fleet: whose pools hold them.
        site: of it.
        only: how the names of the pools begin that are told of; all others stay as they are.
    """
    rows: list[dict[str, Any]] = []
    for name, pool in fleet.pools.items():
        for group, placement in pool.placements.items():
            if fleet.node_groups[group].site != site:
                continue
            kind = fleet.gpus[fleet.node_groups[group].gpu_type]
            held = HeldGpus(
                placement.gpus_per_node,
                kind.product,
                kind.memory_bytes,
                kind.power_w,
                pool.memory_utilization,
                pool.concurrency_limit,
            )
            rows.append({"pool": name, "node_group": group, **asdict(held)})
    return write_rows(folder / GPUS_FILE, rows, only)


class GpuBoard:
    """What Prometheus is told of a site's GPUs.

    Args:
        folder: of the site.
        pods: the pods of pools that have a node.
        replicas: the simulated replicas.
    """

    def __init__(
        self,
        folder: Path,
        pods: Callable[[], list[PoolPod]],
        replicas: Callable[[], list[SimulatedReplica]],
    ) -> None:
        self._file = folder / GPUS_FILE
        self._pods = pods
        self._replicas = replicas
        self._lock = threading.Lock()
        self._faults: list[GpuFault] = []

    def text(self) -> str:
        """In Prometheus' text format."""
        with self._lock:
            faults = tuple(self._faults)
        return gpu_series(self._held(), faults)

    def inject(self, fault: GpuFault) -> None:
        """Let something go wrong with GPUs until it is cleared."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """End every fault."""
        with self._lock:
            self._faults.clear()

    def _held(self) -> list[GpuPod]:
        rows = read_json(self._file) or []
        known = {
            (row.pop("pool"), row.pop("node_group")): HeldGpus(**row) for row in map(dict, rows)
        }
        pods = self._pods()
        running = _running(pods, self._replicas())
        return [
            GpuPod(
                namespace=pod.namespace,
                pod=pod.name,
                container=pod.container,
                pool=pod.pool,
                model=pod.model,
                node=pod.node,
                gpus=held.gpus,
                product=held.product,
                memory_bytes=held.memory_bytes,
                power_w=held.power_w,
                memory_share=held.memory_share if pod.uid in running else 0.0,
                load=running.get(pod.uid, 0) / held.concurrency_limit,
            )
            for pod in pods
            if (held := known.get((pod.pool, pod.node_group)))
        ]


def _running(pods: Iterable[PoolPod], replicas: Iterable[SimulatedReplica]) -> dict[str, int]:
    """Running requests by the uid of a pod: all pods of a replica over nodes run the same."""
    seen = {(each.namespace, each.pod): each.running for each in replicas}
    pods = list(pods)
    own = {
        pod.uid: seen[pod.namespace, pod.name] for pod in pods if (pod.namespace, pod.name) in seen
    }
    of_groups = {pod.group: own[pod.uid] for pod in pods if pod.group and pod.uid in own}
    led = {pod.uid: of_groups[pod.group] for pod in pods if pod.group in of_groups}
    return led | own
