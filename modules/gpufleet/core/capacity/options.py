"""The ways in which a pool can be served: GPU type, GPUs of a replica, concurrency limit."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gpufleet.core.capacity.demand import PoolDemand
from gpufleet.core.capacity.memory import DoesNotFit
from gpufleet.core.capacity.replica import Evidence, ReplicaSpeed
from gpufleet.core.capacity.speed import speed_of
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.serving import Pool
from gpufleet.spec.shapes import built_in_shapes

MOST_IN_FLIGHT: Final = 512
"""Highest concurrency limit that is tried; engines' own default is 256 to 1,024 by hardware."""
_DECODE_SHARE: Final = 0.8
"""Share of the time after the first token that full batches may take: the rest is for prefills
of others in between, and for bursts."""
_RANK: Final = {Evidence.MEASURED_RATE: 0, Evidence.MEASURED_POINTS: 1, Evidence.ROOFLINE: 2}


@dataclass(frozen=True)
class Candidate:
    """One way to serve a pool, with the speed of its replicas."""

    gpu_type: str
    gpus_per_node: int
    nodes_per_replica: int
    concurrency_limit: int
    speed: ReplicaSpeed

    @property
    def gpus_per_replica(self) -> int:
        """GPUs of one replica over all its nodes."""
        return self.gpus_per_node * self.nodes_per_replica


@dataclass(frozen=True)
class Candidates:
    """What a pool may be served with, nearest to what is declared first, and what it may not."""

    found: tuple[Candidate, ...]
    reasons: tuple[str, ...]
    """Why others are none, a sentence each."""


def candidates(
    fleet: Fleet, pool_name: str, demand: PoolDemand, stands: Sequence[str]
) -> Candidates:
    """Every way to serve a pool on the node groups that it may stand on.

    Where something is measured of the model on a GPU type, ways on that type of which less is known
    are left out: a guess is not compared with a measurement.
    """
    pool, reasons = fleet.pools[pool_name], dict[str, None]()
    found: list[Candidate] = []
    for gpu_type in dict.fromkeys(fleet.node_groups[name].gpu_type for name in stands):
        of_type: list[Candidate] = []
        for tp, pp in _shapes(fleet, pool, gpu_type, stands):
            try:
                of_type += _of_shape(fleet, pool, demand, gpu_type, tp, pp)
            except ValueError as why:
                reasons[f"{pp} x {tp} {gpu_type}: {why}"] = None
        best = min((_RANK[each.speed.evidence] for each in of_type), default=0)
        found += [each for each in of_type if _RANK[each.speed.evidence] == best]
    declared = _declared(fleet, pool)
    found.sort(key=lambda each: _distance(each, declared))
    return Candidates(tuple(found), tuple(reasons))


def _declared(fleet: Fleet, pool: Pool) -> tuple[str, int, int, int]:
    name, placement = next(iter(pool.placements.items()))
    gpu_type = fleet.node_groups[name].gpu_type
    return gpu_type, placement.gpus_per_node, placement.nodes_per_replica, pool.concurrency_limit


def _distance(candidate: Candidate, declared: tuple[str, int, int, int]) -> tuple[object, ...]:
    gpu_type, tp, pp, limit = declared
    return (
        candidate.gpu_type != gpu_type,
        candidate.nodes_per_replica != pp,
        candidate.gpus_per_node != tp,
        abs(math.log2(candidate.gpus_per_replica / (tp * pp))),
        abs(math.log2(candidate.concurrency_limit / limit)),
        candidate.concurrency_limit,
    )


def _shapes(
    fleet: Fleet, pool: Pool, gpu_type: str, stands: Sequence[str]
) -> Iterator[tuple[int, int]]:
    """GPUs on each node, and nodes, of a replica: one node, and as declared where it spans more.

    Powers of two that divide the attention heads (as vLLM demands), and what is declared.
    """
    model = fleet.models[pool.model]
    groups = [
        fleet.node_groups[name] for name in stands if fleet.node_groups[name].gpu_type == gpu_type
    ]
    shape = model.shape or built_in_shapes().get(model.model)
    heads = shape.attention_heads if shape else 0
    widest = max(group.gpus_per_node for group in groups)
    widths = {2**power for power in range(5) if 2**power <= widest and heads % 2**power == 0}
    pairs = {(width, 1) for width in widths}
    for placement in pool.placements.values():
        if placement.gpus_per_node <= widest:
            pairs.add((placement.gpus_per_node, placement.nodes_per_replica))
    yield from sorted(pairs)


def _of_shape(  # noqa: PLR0913, PLR0917 - one replica's place
    fleet: Fleet, pool: Pool, demand: PoolDemand, gpu_type: str, tp: int, pp: int
) -> Iterator[Candidate]:
    longest = max(
        math.ceil(use_case.tokens.prompt_p95) + use_case.tokens.output_max
        for use_case in demand.use_cases
    )
    prompt, output = demand.mean_tokens()

    def speed(limit: int) -> ReplicaSpeed:
        return speed_of(
            fleet,
            pool.model,
            gpu_type,
            gpus_per_node=tp,
            nodes_per_replica=pp,
            concurrency_limit=limit,
            memory_utilization=pool.memory_utilization,
            mean_prompt_tokens=prompt,
            mean_output_tokens=output,
        )

    full = speed(max(MOST_IN_FLIGHT, pool.concurrency_limit))
    if full.kv_capacity_tokens < longest:
        raise DoesNotFit(
            f"the KV cache holds {full.kv_capacity_tokens} tokens, and a request needs {longest}"
        )
    if full.evidence is Evidence.MEASURED_RATE:
        # A rate was measured with the engine as it is configured.
        limit = pool.concurrency_limit
        yield Candidate(gpu_type, tp, pp, limit, speed(limit))
        return
    limits = {_best_limit(full, demand, prompt + output)}
    if gpu_type in {fleet.node_groups[name].gpu_type for name in pool.placements}:
        limits.add(pool.concurrency_limit)
    for limit in sorted(limits):
        # A replica with a lower limit is the same one, with shorter steps at most.
        limited = replace(full, decode_s=full.decode_s[: limit + 1])
        yield Candidate(gpu_type, tp, pp, limit, limited)


def _best_limit(speed: ReplicaSpeed, demand: PoolDemand, mean_tokens: float) -> int:
    """The largest power of two that the KV cache holds, and that no answer gets too slow by.

    More in flight share the weights that each step reads, and so a replica serves more; but each
    answer takes longer, and has to end within its target.
    """
    by_memory = speed.kv_capacity_tokens / mean_tokens
    limit = 1
    while 2 * limit <= min(by_memory, speed.concurrency_limit) and all(
        (speed.decode_s[2 * limit] + speed.kv_token_s * 2 * limit * mean_tokens)
        * use_case.tokens.output_p95
        <= _DECODE_SHARE * (use_case.slo.p95_s - _prefill_s(speed, use_case.tokens.prompt_p95))
        for use_case in demand.use_cases
    ):
        limit *= 2
    return limit


def _prefill_s(speed: ReplicaSpeed, tokens: float) -> float:
    return speed.first_token_s + tokens * (speed.prefill_token_s + speed.attention_s * tokens / 2)
