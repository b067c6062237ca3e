"""Simulated GPUs tell what dcgm-exporter would, by the load of their replicas and their faults."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from gpufleet.core.monitoring import gpus
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.local.gpu_board import GpuBoard, write_gpus
from gpufleet.local.gpu_metrics import GpuPod, gpu_series
from gpufleet.local.pool_pod import PoolPod
from gpufleet.spec import load_fleet
from gpufleet.spec.gpu_faults import GpuFault, GpuFaultKind
from gpufleet.spec.simulation import SimulatedReplica

MIB = 2**20


def pod(name: str = "a-0", *, node: str = "n1", load: float = 0.0, count: int = 2) -> GpuPod:
    return GpuPod(
        namespace="gpufleet-interactive",
        pod=name,
        container="engine",
        pool="a",
        model="m-1",
        node=node,
        gpus=count,
        product="NVIDIA-H100-80GB-HBM3",
        memory_bytes=80_000 * MIB,
        power_w=700,
        memory_share=0.9,
        load=load,
    )


def told(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        yield from family.samples


def values(text: str, name: str) -> dict[tuple[str, str], float]:
    """By node and number."""
    return {
        (sample.labels["Hostname"], sample.labels["gpu"]): sample.value
        for sample in told(text)
        # As the parser calls a counter.
        if sample.name in {name, f"{name}_total"}
    }


def test_every_series_that_alerts_read_is_told_of_every_gpu() -> None:
    text = gpu_series([pod("a-0"), pod("a-1"), pod("b-0", node="n2", count=1)])
    for name in (
        *(gpus.UTILIZATION, gpus.MEMORY_USED, gpus.MEMORY_FREE, gpus.POWER_W, gpus.TEMPERATURE_C),
        *(gpus.XID, gpus.THROTTLE, gpus.REMAP_FAILURE, gpus.REMAPPED_ROWS),
    ):
        assert set(values(text, name)) == {
            ("n1", "0"),
            ("n1", "1"),
            ("n1", "2"),
            ("n1", "3"),
            ("n2", "0"),
        }
    uuids = {sample.labels["UUID"] for sample in told(text) if sample.name == gpus.UTILIZATION}
    assert len(uuids) == 5


@given(st.floats(0, 2), st.floats(0, 2))
def test_more_load_is_never_less_utilization_power_or_heat(one: float, other: float) -> None:
    low, high = sorted((one, other))
    idle, busy = (gpu_series([pod(load=load)]) for load in (low, high))
    for name in (gpus.UTILIZATION, gpus.POWER_W, gpus.TEMPERATURE_C):
        assert values(idle, name)["n1", "0"] <= values(busy, name)["n1", "0"]
    assert values(busy, gpus.POWER_W)["n1", "0"] <= 700
    assert values(busy, gpus.UTILIZATION)["n1", "0"] <= 100
    assert values(busy, gpus.XID)["n1", "0"] == 0


def test_memory_in_use_and_free_is_all_of_it() -> None:
    text = gpu_series([pod()])
    used, free = (values(text, name)["n1", "0"] for name in (gpus.MEMORY_USED, gpus.MEMORY_FREE))
    assert (used, free) == (72_000, 8_000)


def test_a_fault_hits_the_gpu_that_it_names_and_no_other() -> None:
    fault = GpuFault(kind=GpuFaultKind.XID, pod="a-1", gpu=3, xid=48)
    text = gpu_series([pod("a-0"), pod("a-1")], [fault])
    assert values(text, gpus.XID) == {
        ("n1", "0"): 0,
        ("n1", "1"): 0,
        ("n1", "2"): 0,
        ("n1", "3"): 48,
    }


@pytest.mark.parametrize(
    ("kind", "bits"),
    [(GpuFaultKind.THERMAL, gpus.THERMAL_BITS), (GpuFaultKind.POWER, gpus.POWER_BITS)],
)
def test_a_throttled_gpu_has_the_bits_that_alerts_look_for(
    kind: GpuFaultKind, bits: tuple[int, ...]
) -> None:
    text = gpu_series([pod()], [GpuFault(kind=kind)])
    found = int(values(text, gpus.THROTTLE)["n1", "0"])
    assert any(found & bit for bit in bits)


def test_no_gpu_tells_nothing() -> None:
    assert gpu_series([]) == ""


def held(name: str, **labels: str) -> PoolPod:
    return PoolPod(
        {
            "metadata": {
                "uid": f"uid-{name}",
                "namespace": "gpufleet-interactive",
                "name": name,
                "labels": {"gpufleet.dev/pool": "answers", "gpufleet.dev/model": "m", **labels},
            },
            "spec": {
                "nodeName": "n1",
                "nodeSelector": {"gpufleet.dev/node-group": "h100"},
                "containers": [{"name": "engine"}],
            },
            "status": {"phase": "Running"},
        }
    )


def replica(name: str, running: int) -> SimulatedReplica:
    return SimulatedReplica(
        pool="answers",
        namespace="gpufleet-interactive",
        pod=name,
        model="m",
        address="127.0.0.2",
        state="ready",
        restarts=0,
        running=running,
        waiting=0,
        kv_usage=0,
        faults=[],
        speed="",
    )


def test_gpus_are_as_busy_as_the_replica_that_holds_them(tmp_path: Path) -> None:
    fleet = load_fleet(PROJECT_ROOT / "fleets/article/production.yaml")
    write_gpus(tmp_path, fleet, "main")
    replicas = [replica("answers-0", 16), replica("answers-1", 0)]
    board = GpuBoard(tmp_path, lambda: [held("answers-0"), held("answers-1")], lambda: replicas)
    assert values(board.text(), gpus.UTILIZATION) == {("n1", "0"): 100, ("n1", "1"): 0}
    board.inject(GpuFault(kind=GpuFaultKind.XID, pod="answers-0"))
    assert values(board.text(), gpus.XID) == {("n1", "0"): 79, ("n1", "1"): 0}
    board.clear()
    assert values(board.text(), gpus.XID) == {("n1", "0"): 0, ("n1", "1"): 0}


def test_all_gpus_of_a_replica_over_nodes_are_busy(tmp_path: Path) -> None:
    fleet = load_fleet(PROJECT_ROOT / "fleets/article/production.yaml")
    write_gpus(tmp_path, fleet, "main")
    group = {
        "leaderworkerset.sigs.k8s.io/name": "answers",
        "leaderworkerset.sigs.k8s.io/group-index": "0",
    }
    pods = [held("answers-0", **group), held("answers-0-1", **group)]
    board = GpuBoard(tmp_path, lambda: pods, lambda: [replica("answers-0", 16)])
    assert values(board.text(), gpus.UTILIZATION) == {("n1", "0"): 100, ("n1", "1"): 100}
