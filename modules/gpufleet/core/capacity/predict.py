"""What a benchmark would measure: TTFT, TPOT and throughput at points that nobody has measured."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

import numpy as np

from gpufleet.core.capacity.calibration import Calibration
from gpufleet.core.capacity.efficiencies import ENGINE, Case, shipped
from gpufleet.core.capacity.memory import DoesNotFit, Need, cache_room_bytes, check_fits
from gpufleet.core.capacity.requests import Floats
from gpufleet.core.capacity.roofline import GPUS_OF_A_NODE, Candidate, Layout, Load, Replicas, Times
from gpufleet.core.capacity.shapes import ModelSize, size_of
from gpufleet.spec.evidence import MeasuredPoint
from gpufleet.spec.hardware import GpuType
from gpufleet.spec.serving import Precision
from gpufleet.spec.shapes import ModelShape, built_in_shapes

MEMORY_UTILIZATION: Final = 0.98
"""Share of the memory that a benchmark may have been allowed to take, at most."""
REFUSED_ABOVE: Final = 1.3
"""Share of the memory from which a point is refused. Records do not tell every spread of weights,
and parts of quantized models are wider: what is near to fitting was measured by somebody."""


class Point(NamedTuple):
    """One load of one replica, its names resolved."""

    shape: ModelShape
    name: str
    """What people call the model."""
    gpu: GpuType
    precision: Precision
    tensor: int
    pipeline: int
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    backend: str | None = None
    expert_parallel: int | None = None
    """GPUs that the experts of a layer are spread over; None where it was not recorded."""
    measured: tuple[MeasuredPoint, ...] = ()
    """Points that were measured of this replica, on gpufleet's own engine."""


class Predicted(NamedTuple):
    """Means of each point; seconds, and tokens for each second and GPU."""

    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats
    tokens_per_s_per_gpu: Floats


def predict(points: Sequence[Point]) -> Predicted:
    """The speed of each point, in order, from the fitted roofline.

    Raises:
        DoesNotFit: for a point's replica; `PointDoesNotFit.index` says which.
    """
    keys: dict[tuple[object, ...], int] = {}
    cases: list[Case] = []
    backends: list[str | None] = []
    rows = []
    for index, point in enumerate(points):
        key = (point.name, point.gpu.product, *point[3:6], point.backend, point.expert_parallel)
        if key not in keys:
            try:
                cases.append(case_of(point))
            except DoesNotFit as error:
                raise PointDoesNotFit(index, str(error)) from None
            backends.append(point.backend)
            keys[key] = len(keys)
        rows.append(keys[key])
    load = Load(
        *np.array(
            [(p.prompt_tokens, p.output_tokens, p.concurrency) for p in points], dtype=np.float64
        ).T
    )
    found = shipped().predict(cases, rows, load, backends)
    _calibrate(found, points, load)
    e2e_s = found.e2e_s(load.output_tokens)
    gpus = np.array([case.candidate.layout.gpus for case in cases])[rows]
    return Predicted(
        found.ttft_s, found.tpot_s, e2e_s, load.concurrency * load.output_tokens / e2e_s / gpus
    )


def _calibrate(found: Times, points: Sequence[Point], load: Load) -> None:
    """Put the calibrated roofline in place where points of the same replica were measured."""
    measured: dict[tuple[object, ...], list[int]] = {}
    for index, point in enumerate(points):
        if point.measured:
            key = (point.shape, point.gpu.product, *point[3:6], point.measured)
            measured.setdefault(key, []).append(index)
    for rows in measured.values():
        candidate = case_of(points[rows[0]]).candidate
        fitted = shipped().coefficients([candidate], ENGINE)
        calibration = Calibration.of(Replicas.of([candidate]), fitted, points[rows[0]].measured)
        times = calibration.times(Load(*(column[rows] for column in load)))
        found.ttft_s[rows], found.tpot_s[rows] = times


class PointDoesNotFit(DoesNotFit):
    """The replica of one of the points does not fit."""

    def __init__(self, index: int, sentence: str) -> None:
        super().__init__(sentence)
        self.index = index


def case_of(point: Point) -> Case:
    """The candidate of a point.

    Raises:
        DoesNotFit: its GPUs do not hold the weights.
    """
    size = size_of(point.shape)
    layout = layout_of(
        point.gpu, size, point.precision, point.tensor, point.pipeline, point.expert_parallel
    )
    name = f"{point.name} in {point.precision.value}"
    need = Need(name, size.weights_bytes(point.precision), size.hidden_size)
    if cache_room_bytes(need, point.gpu, layout.gpus, REFUSED_ABOVE) <= 0:
        check_fits(need, point.gpu, layout.gpus, MEMORY_UTILIZATION)
    return Case(Candidate(size, point.precision, point.gpu, layout), architecture(point.shape))


def layout_of(  # noqa: PLR0913, PLR0917 - what a benchmark's record says of its GPUs
    gpu: GpuType,
    model: ModelSize,
    precision: Precision,
    tensor: int,
    pipeline: int,
    expert_parallel: int | None = None,
) -> Layout:
    """How a recorded replica was spread, where records are known to differ from what they say.

    Records of mixtures of experts multiply tensor and expert parallel though both use the same
    GPUs (tp 64 with ep 8 is 8 GPUs), and write tp 1 where attention is data parallel over the GPUs
    of the experts. GPUs of a rack-scale link domain (their network is as fast as their links) run
    more than a node's worth of GPUs with data parallel attention.
    """
    experts = expert_parallel or 1
    if experts > 1 and tensor == 1:
        return Layout(experts, pipeline, attention_groups=experts)
    if model.experts and tensor == 1 and expert_parallel is None:
        return _smallest(gpu, model, precision, pipeline)
    if tensor <= GPUS_OF_A_NODE:
        return Layout(tensor, pipeline)
    if gpu.network_bytes_per_s >= gpu.link_bytes_per_s:
        return Layout(tensor, pipeline, attention_groups=tensor)
    root = math.isqrt(tensor)
    is_product = model.experts and root**2 == tensor and expert_parallel in {None, root}
    if is_product and _holds(gpu, root * pipeline, model, precision):
        return Layout(root, pipeline)
    return Layout(tensor, pipeline)


@cache
def architecture(shape: ModelShape) -> str:
    """The first public name of models with this shape; empty where none is built in."""
    return next((name for name, each in sorted(built_in_shapes().items()) if each == shape), "")


def _smallest(gpu: GpuType, model: ModelSize, precision: Precision, pipeline: int) -> Layout:
    """The fewest GPUs of a node that hold the experts, each attending to its own requests."""
    count = 1
    while count < GPUS_OF_A_NODE and not _holds(gpu, count * pipeline, model, precision):
        count *= 2
    return Layout(count, pipeline, attention_groups=count)


def _holds(gpu: GpuType, gpus: int, model: ModelSize, precision: Precision) -> bool:
    need = Need("", model.weights_bytes(precision), model.hidden_size)
    return cache_room_bytes(need, gpu, gpus, MEMORY_UTILIZATION) > 0
