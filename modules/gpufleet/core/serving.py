"""Everything about a pool that follows from its declaration: budgets, drains, surge, spread.

A component only writes these numbers down; the arithmetic is here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.core.weights import Weights
from gpufleet.spec.checks import replicas_that_fit
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import GpuAccess, GpuType, NodeGroup
from gpufleet.spec.serving import ModelRevision, Placement, Pool, Prewarm, ServingClass

ENGINE_PORT: Final = 8000
STARTUP_MARGIN: Final = 3.0
"""A cold start may take this many times the measured load time before it counts as hung."""
STARTUP_PERIOD_S: Final = 10
DRAIN_MARGIN_S: Final = 15
"""Time between the last token of a drain and the kill, for logs and connections."""
ENDPOINT_PROPAGATION_S: Final = 5
"""Time until every proxy has stopped to send new requests to a pod that is going away."""
SHARED_MEMORY_BYTES_PER_GPU: Final = 2 * 2**30
"""NCCL's and vLLM's shared-memory segments; vLLM's own chart gives 2 GiB for each worker."""
HOST_OVERHEAD_BYTES: Final = 16 * 2**30
CPUS_PER_GPU: Final = 4
WEIGHTS_VOLUME_MARGIN: Final = 1.1
"""Tokenizer, configuration and a partly restored file beside the weights."""
LOCAL_RESTORE_BYTES_PER_S: Final = 1e9
"""Restore from the site's object store to local NVMe; conservative for 25 Gbit/s."""


@dataclass(frozen=True)
class Probe:
    """A Kubernetes probe's budget: it gives up after `period_s * failures`."""

    period_s: int
    timeout_s: int
    failures: int

    @property
    def budget_s(self) -> int:
        """Longest time until the probe gives up, s."""
        return self.period_s * self.failures


@dataclass(frozen=True)
class Surge:
    """How a rolling update may move: one of the two is always above zero, or it deadlocks."""

    max_surge: int
    max_unavailable: int


@dataclass(frozen=True)
class PoolAtSite:
    """One pool on one node group of one site, with every derived number."""

    name: str
    site: str
    class_: ServingClass
    namespace: str
    group_name: str
    gpu_type: GpuType
    gpu_access: GpuAccess
    model_name: str
    model: ModelRevision
    weights: Weights
    use_cases: tuple[str, ...]
    teams: tuple[str, ...]
    replicas: int
    max_replicas: int
    room: int
    """Replicas that the node group holds at most."""
    nodes_per_replica: int
    gpus_per_node: int
    racks: int
    surge: Surge
    disruptions: int
    """Replicas that a voluntary disruption may take away at once."""
    startup: Probe
    readiness: Probe
    liveness: Probe
    drain_s: int
    """Longest generation that is in flight when a pod is told to go, s."""
    grace_s: int
    not_ready_toleration_s: int
    concurrency_limit: int
    queue_time_target_s: float
    queue_limit: int | None
    """Requests that wait at one replica; None where nothing limits them."""
    prewarm: tuple[Prewarm, ...]
    """Peaks before which more replicas of this node group are started."""
    arguments: tuple[str, ...]
    cpus: int
    memory_bytes: int
    shared_memory_bytes: int
    weights_volume_bytes: int
    labels: Mapping[str, str]

    @property
    def claim_template(self) -> str | None:
        """Name of the ResourceClaimTemplate of its pods; None where a device plugin counts GPUs.

        The number stands in the name, because a template cannot be changed.
        """
        if self.gpu_access is not GpuAccess.DRA:
            return None
        return f"{self.name}-{self.gpus_per_node}-gpus"

    @property
    def spans_nodes(self) -> bool:
        """Whether a replica needs a LeaderWorkerSet."""
        return self.nodes_per_replica > 1

    @property
    def autoscaled(self) -> bool:
        """Whether an autoscaler owns the replica count."""
        return self.class_ is ServingClass.INTERACTIVE and self.max_replicas > self.replicas

    @property
    def gpus_per_replica(self) -> int:
        """GPUs of a replica over all its nodes."""
        return self.nodes_per_replica * self.gpus_per_node

    @property
    def pods(self) -> int:
        """Pods of all replicas that always run."""
        return self.replicas * self.nodes_per_replica

    @property
    def rollout_timeout_s(self) -> int:
        """Longest time of a rolling update, s: as many replicas as fit, one after the other.

        Not of those that are declared: a changed replica count would change every rollout's limit.
        """
        return self.room * (self.startup.budget_s + self.grace_s)


def pools_at(fleet: Fleet, site: str) -> tuple[PoolAtSite, ...]:
    """Every pool with a placement at a site, in the order of the fleet file."""
    return tuple(
        _pool_at_site(fleet, name, pool, group_name, pool.placements[group_name])
        for name, pool in fleet.pools.items()
        for group_name in pool.placements
        if fleet.node_groups[group_name].site == site
    )


def _pool_at_site(
    fleet: Fleet, name: str, pool: Pool, group_name: str, placement: Placement
) -> PoolAtSite:
    group = fleet.node_groups[group_name]
    model = fleet.models[pool.model]
    use_cases = [fleet.use_cases[use_case] for use_case in pool.use_cases]
    drain_s = longest_generation_s(fleet, pool)
    return PoolAtSite(
        name=name,
        site=group.site,
        class_=pool.class_,
        namespace=names.namespace_of(pool.class_),
        group_name=group_name,
        gpu_type=fleet.gpus[group.gpu_type],
        gpu_access=group.gpu_access,
        model_name=pool.model,
        model=model,
        weights=Weights.of(fleet, pool.model, group.site),
        use_cases=tuple(pool.use_cases),
        teams=tuple(sorted({use_case.team for use_case in use_cases})),
        replicas=placement.replicas,
        max_replicas=placement.ceiling,
        room=replicas_that_fit(placement, group),
        nodes_per_replica=placement.nodes_per_replica,
        gpus_per_node=placement.gpus_per_node,
        racks=len(set(group.racks)),
        surge=surge(placement, group),
        disruptions=disruptions(placement.replicas, pool.min_available),
        startup=startup_probe(model),
        readiness=Probe(period_s=5, timeout_s=4, failures=2),
        liveness=Probe(period_s=20, timeout_s=10, failures=6),
        drain_s=drain_s,
        grace_s=ENDPOINT_PROPAGATION_S + drain_s + DRAIN_MARGIN_S,
        not_ready_toleration_s=not_ready_toleration_s([u.rto_s for u in use_cases], model),
        concurrency_limit=pool.concurrency_limit,
        queue_time_target_s=pool.queue_time_target_s,
        queue_limit=pool.queue_limit,
        prewarm=tuple(peak for peak in pool.prewarm if group_name in peak.replicas),
        arguments=engine_arguments(pool, placement, model),
        cpus=placement.gpus_per_node * CPUS_PER_GPU,
        memory_bytes=host_memory_bytes(model, placement),
        shared_memory_bytes=placement.gpus_per_node * SHARED_MEMORY_BYTES_PER_GPU,
        weights_volume_bytes=math.ceil(model.size_bytes * WEIGHTS_VOLUME_MARGIN),
        labels=MappingProxyType(
            {
                names.FLEET: fleet.slug,
                names.POOL: name,
                names.CLASS: pool.class_.value,
                names.MODEL: pool.model,
                names.TEAM: _one_or_shared({use_case.team for use_case in use_cases}),
                names.USE_CASE: _one_or_shared(set(pool.use_cases)),
            }
        ),
    )


def _one_or_shared(values: set[str]) -> str:
    """A label has room for one value; a pool of several teams or use cases is shared."""
    return next(iter(values)) if len(values) == 1 else "shared"


def surge(placement: Placement, group: NodeGroup) -> Surge:
    """How a rolling update may move with the GPUs that are free.

    With no room for one more replica, an update with surge would wait for ever for a GPU that only
    the old replica can free; then one replica at a time goes away first.
    """
    spare = replicas_that_fit(placement, group) - placement.ceiling
    if spare <= 0:
        return Surge(max_surge=0, max_unavailable=1)
    return Surge(max_surge=min(spare, max(1, placement.ceiling // 4)), max_unavailable=0)


def disruptions(replicas: int, share: float) -> int:
    """Replicas that a voluntary disruption may take away at once and leave `share` of them.

    A budget that allows no disruption at all blocks every drain, so one replica may always go.
    """
    return max(1, replicas - math.ceil(replicas * share))


def startup_probe(model: ModelRevision) -> Probe:
    """A budget of `STARTUP_MARGIN` times the measured load time."""
    failures = math.ceil(model.load_time_s * STARTUP_MARGIN / STARTUP_PERIOD_S)
    return Probe(period_s=STARTUP_PERIOD_S, timeout_s=5, failures=max(3, failures))


def longest_generation_s(fleet: Fleet, pool: Pool) -> int:
    """How long a request that has just begun may run, s, over the pool's use cases.

    The time per output token that a use case can still accept is its p95 without the first token,
    spread over its 95th percentile of output; the longest allowed generation takes that often.
    A pool without use cases of its own (a fallback) serves whoever falls back to it.
    """
    served = [fleet.use_cases[name] for name in pool.use_cases] or [
        use_case for use_case in fleet.use_cases.values() if use_case.fallback == pool.model
    ]
    longest = 0.0
    for use_case in served:
        slo, tokens = use_case.slo, use_case.tokens
        decode_s = max(slo.p95_s - slo.ttft_p95_s, 0.1 * slo.p95_s)
        per_token_s = decode_s / tokens.output_p95
        longest = max(longest, slo.ttft_p95_s + per_token_s * tokens.output_max)
    return max(10, math.ceil(longest))


def not_ready_toleration_s(rto_s: list[float], model: ModelRevision) -> int:
    """How long a pod stays bound to a node that is lost: what the RTO leaves after a cold start.

    Kubernetes' default is 300 s; a lost node keeps its Node object, so waiting longer than the RTO
    allows means missing it.
    """
    if not rto_s:
        return 300
    left = min(rto_s) - model.load_time_s - model.size_bytes / LOCAL_RESTORE_BYTES_PER_S
    return int(min(300, max(10, left / 2)))


def engine_arguments(pool: Pool, placement: Placement, model: ModelRevision) -> tuple[str, ...]:
    """The arguments of `vllm serve` for a replica, in a stable order."""
    length = pool.max_model_length_tokens or model.max_context_tokens
    derived: dict[str, str | int | float | bool] = {
        "served-model-name": pool.model,
        "port": ENGINE_PORT,
        "tensor-parallel-size": placement.gpus_per_node,
        "max-num-seqs": pool.concurrency_limit,
        "max-model-len": min(length, model.max_context_tokens),
        "gpu-memory-utilization": pool.memory_utilization,
    }
    if placement.nodes_per_replica > 1:
        derived["pipeline-parallel-size"] = placement.nodes_per_replica
    merged = {**model.engine.arguments, **derived}
    return tuple(
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in merged.items()
        if value is not False
    )


def host_memory_bytes(model: ModelRevision, placement: Placement) -> int:
    """Host memory of one pod, bytes: its share of the weights while they load, shm, the engine."""
    weights = model.size_bytes // placement.nodes_per_replica
    shared = placement.gpus_per_node * SHARED_MEMORY_BYTES_PER_GPU
    gib = math.ceil((weights + shared + HOST_OVERHEAD_BYTES) / 2**30)
    return gib * 2**30
