"""A replica's speed by the best evidence at hand: a measured rate, points, or physics."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from gpufleet.core.capacity.calibration import Calibration
from gpufleet.core.capacity.efficiencies import ENGINE, Case, shipped
from gpufleet.core.capacity.memory import CHUNK_TOKENS, kv_capacity_tokens
from gpufleet.core.capacity.predict import architecture
from gpufleet.core.capacity.replica import UNBOUNDED_TOKENS, Evidence, ReplicaSpeed
from gpufleet.core.capacity.requests import Floats
from gpufleet.core.capacity.roofline import (
    Candidate,
    Coefficients,
    Layout,
    Load,
    Replicas,
    cache_s,
    prompt_fixed_s,
    prompt_s,
    step_s,
)
from gpufleet.core.capacity.shapes import shape_of, size_of
from gpufleet.spec.evidence import Measurement
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import GpuType
from gpufleet.spec.serving import ModelRevision

FITTED_ON: Final = "fitted on the public measurements of ai-dynamo/aiconfigurator"


@dataclass(frozen=True)
class _Work:
    """What a replica is asked to do."""

    concurrency_limit: int
    prompt_tokens: float
    output_tokens: float


def speed_of(  # noqa: PLR0913 - what decides a replica's speed
    fleet: Fleet,
    revision: str,
    gpu_type: str,
    *,
    gpus_per_node: int,
    nodes_per_replica: int,
    concurrency_limit: int,
    memory_utilization: float,
    mean_prompt_tokens: float,
    mean_output_tokens: float,
) -> ReplicaSpeed:
    """The speed of one replica, from what the fleet file says was measured of it, or else physics.

    Only a measurement of exactly this revision, GPU type and number of GPUs counts; of several, a
    rate beats points, and a later day an earlier one.

    Args:
        fleet: the fleet file.
        revision: name of a model revision.
        gpu_type: name of a GPU type.
        gpus_per_node: GPUs of each of the replica's nodes (tensor parallel).
        nodes_per_replica: nodes of the replica (pipeline parallel).
        concurrency_limit: most requests in flight.
        memory_utilization: share of the GPU memory that the engine may take.
        mean_prompt_tokens: mean length of prompts.
        mean_output_tokens: mean length of answers.

    Raises:
        DoesNotFit: nothing was measured, and the weights leave no room for a KV cache.
        UnknownModel: nothing was measured, and the model's shape is not known.
    """
    model, gpu = fleet.models[revision], fleet.gpus[gpu_type]
    layout = Layout(gpus_per_node, nodes_per_replica)
    work = _Work(concurrency_limit, mean_prompt_tokens, mean_output_tokens)
    wanted = (revision, gpu_type, gpus_per_node, nodes_per_replica)
    measured = [each for each in fleet.measurements.values() if _subject(each) == wanted]
    measured.sort(key=lambda each: (each.rate_rps_per_gpu is not None, each.measured))
    best = measured[-1] if measured else None
    if best and best.rate_rps_per_gpu is not None:
        capacity = _known_capacity(model, gpu, layout, memory_utilization)
        return _from_rate(best, best.rate_rps_per_gpu * layout.gpus, work, capacity)
    capacity = kv_capacity_tokens(
        model,
        gpu,
        gpus=layout.gpus,
        nodes=nodes_per_replica,
        memory_utilization=memory_utilization,
    )
    shape = shape_of(model)
    candidate = Candidate(size_of(shape), model.precision, gpu, layout)
    if best:
        return _from_points(best, candidate, work, capacity)
    return _from_roofline(Case(candidate, architecture(shape)), gpu_type, work, capacity)


def _subject(measurement: Measurement) -> tuple[str, str, int, int]:
    return (
        measurement.model,
        measurement.gpu_type,
        measurement.gpus_per_node,
        measurement.nodes_per_replica,
    )


def _known_capacity(
    model: ModelRevision, gpu: GpuType, layout: Layout, memory_utilization: float
) -> int:
    """Tokens of the KV cache; without a bound where it cannot be told, for it was seen to run."""
    try:
        return kv_capacity_tokens(
            model,
            gpu,
            gpus=layout.gpus,
            nodes=layout.pipeline,
            memory_utilization=memory_utilization,
        )
    except ValueError:
        return UNBOUNDED_TOKENS


def _from_rate(
    measurement: Measurement, rate_rps: float, work: _Work, capacity: int
) -> ReplicaSpeed:
    """Processor sharing: the replica gives its rate however many requests are in flight."""
    token_s = 1 / (rate_rps * work.output_tokens)
    steps = [token_s * max(1, count) for count in range(work.concurrency_limit + 1)]
    return ReplicaSpeed(
        decode_s=tuple(steps),
        kv_token_s=0.0,
        prefill_token_s=0.0,
        attention_s=0.0,
        first_token_s=0.0,
        kv_capacity_tokens=capacity,
        chunk_tokens=CHUNK_TOKENS,
        evidence=Evidence.MEASURED_RATE,
        source=f"{measurement.source} ({measurement.measured.isoformat()})",
    )


def _from_points(
    measurement: Measurement, candidate: Candidate, work: _Work, capacity: int
) -> ReplicaSpeed:
    """The roofline, corrected by the points; what no scale explains moves the steps near them."""
    replica = Replicas.of([candidate])
    fitted = shipped().coefficients([candidate], ENGINE)
    calibration = Calibration.of(replica, fitted, measurement.points)
    counts = np.arange(1.0, work.concurrency_limit + 1)
    load = Load(
        np.full(len(counts), work.prompt_tokens), np.full(len(counts), work.output_tokens), counts
    )
    steps = np.ones(work.concurrency_limit + 1)
    steps[1:] = calibration.tpot_factor(load)
    return _speed(
        replica,
        calibration.coefficients,
        work,
        steps=steps,
        first=1.0,
        capacity=capacity,
        evidence=Evidence.MEASURED_POINTS,
        source=f"{measurement.source} ({measurement.measured.isoformat()}); between its "
        f"{len(measurement.points)} points a roofline {FITTED_ON}",
    )


def _from_roofline(case: Case, gpu_type: str, work: _Work, capacity: int) -> ReplicaSpeed:
    table = shipped()
    moved = table.residual(case, ENGINE)
    seen = f", {moved.rows} of them of this architecture on this GPU" if moved.rows else ""
    gpus = case.candidate.layout.gpus
    return _speed(
        Replicas.of([case.candidate]),
        table.coefficients([case.candidate], ENGINE),
        work,
        steps=np.full(work.concurrency_limit + 1, np.exp(moved.belief * moved.tpot)),
        first=float(np.exp(moved.belief * moved.ttft)),
        capacity=capacity,
        evidence=Evidence.ROOFLINE,
        source=f"roofline of {gpus} x {gpu_type}, {FITTED_ON}{seen}",
    )


def _speed(  # noqa: PLR0913 - the parts of a replica's speed
    replica: Replicas,
    c: Coefficients,
    work: _Work,
    *,
    steps: Floats,
    first: float,
    capacity: int,
    evidence: Evidence,
    source: str,
) -> ReplicaSpeed:
    """The physics in the simulator's terms, made linear at the mean lengths.

    Args:
        replica: one replica.
        c: its coefficients.
        work: the concurrency limit and mean lengths.
        steps: factor on a step by its number of sequences.
        first: factor on what comes before the first token.
        capacity: tokens of the KV cache.
        evidence: what it is known from.
        source: the same as a sentence.
    """
    prompt = np.array([work.prompt_tokens])
    context = prompt + work.output_tokens / 2
    fixed = prompt_fixed_s(replica, c, prompt)
    whole = prompt_s(replica, c, prompt)
    pairs = c.attention_compute * replica.attention_flop_s
    pairs = pairs * np.minimum(1, replica.top_k / (prompt / 2))
    by_length = whole - pairs * prompt**2 / 2
    shared = (c.prefill_share * by_length + c.prefill_fixed_share * fixed) * first
    attention = c.prefill_share * pairs * first
    cached = cache_s(replica, c, context) / context / replica.pipeline
    decode = step_s(replica, c, np.arange(work.concurrency_limit + 1.0)) * steps
    decode[0] = float((fixed + c.step_s)[0]) * steps[0]
    own = c.own_prefill * (whole + fixed) + c.joined_steps * decode[1]
    in_steps = decode[0] + shared + attention * prompt**2 / 2
    return ReplicaSpeed(
        decode_s=tuple(decode.tolist()),
        kv_token_s=float(cached[0] * steps[-1]),
        prefill_token_s=float((shared / prompt)[0]),
        attention_s=float(attention[0]),
        first_token_s=float(np.maximum(c.first_token_s, c.first_token_s + own - in_steps)[0])
        * first,
        kv_capacity_tokens=capacity,
        chunk_tokens=CHUNK_TOKENS,
        evidence=evidence,
        source=source,
    )
