"""What stands in a replica's GPU memory: weights, activations, buffers, and the KV cache's room."""

import math
from typing import Final, NamedTuple

from gpufleet.core.capacity.shapes import ModelSize, shape_of, size_of
from gpufleet.spec.hardware import GpuType
from gpufleet.spec.serving import ModelRevision

CHUNK_TOKENS: Final = 8192
"""Tokens of the largest step: vLLM's max-num-batched-tokens of a server on large GPUs."""
ACTIVATION_COPIES: Final = 10
"""Widths of the residual stream that are alive at once for each token of a step."""
ACTIVATION_BYTES: Final = 2
GRAPHS_BYTES: Final = 2**30
"""CUDA graphs of the decoding steps, on each GPU."""
COLLECTIVE_BYTES: Final = 2**29
"""NCCL's and the custom all-reduce's buffers, on each GPU that is not alone."""
FRAGMENTATION: Final = 0.04
"""Share of the KV cache that half-filled blocks waste (Kwon et al., SOSP 2023)."""


class DoesNotFit(ValueError):
    """The memory has no room for one request; the sentence says what is missing, and what fits."""


class Need(NamedTuple):
    """What a model takes of the memory before anything is cached."""

    name: str
    weights_bytes: float
    hidden_size: int


def cache_copies(model: ModelSize, gpus: int) -> float:
    """How often `gpus` that share a layer hold each cached value: heads are not cut further."""
    return max(1.0, gpus / model.kv_heads)


def cache_room_bytes(need: "Need", gpu: GpuType, gpus: int, memory_utilization: float) -> float:
    """Bytes that the KV cache may take over all GPUs of a replica; negative where nothing fits."""
    activations = ACTIVATION_COPIES * ACTIVATION_BYTES * CHUNK_TOKENS * need.hidden_size
    buffers = activations + GRAPHS_BYTES + (COLLECTIVE_BYTES if gpus > 1 else 0)
    room = gpus * (gpu.memory_bytes * memory_utilization - buffers) - need.weights_bytes
    return room * (1 - FRAGMENTATION) if room > 0 else room


def kv_capacity_tokens(
    model: ModelRevision, gpu: GpuType, *, gpus: int, memory_utilization: float, nodes: int = 1
) -> int:
    """Tokens that the KV cache of a replica holds, from what the revision declares.

    Args:
        model: its weights and its cache for each token count as declared.
        gpu: the GPU type.
        gpus: GPUs of the replica, over all its nodes.
        memory_utilization: share of the memory that the engine may take.
        nodes: nodes of the replica (pipeline parallel); layers are dealt to them.

    Raises:
        DoesNotFit: the weights and buffers leave no room for a request.
        UnknownModel: the model's shape is not known.
    """
    size = size_of(shape_of(model))
    need = Need(model.model, model.size_bytes, size.hidden_size)
    room = cache_room_bytes(need, gpu, gpus, memory_utilization)
    tokens = math.floor(room / (model.kv_bytes_per_token * cache_copies(size, gpus // nodes)))
    if tokens < 1:
        raise DoesNotFit(_sentence(need, gpu, gpus, memory_utilization))
    return tokens


def check_fits(need: Need, gpu: GpuType, gpus: int, memory_utilization: float) -> None:
    """Refuse a replica whose weights and buffers leave no room.

    Raises:
        DoesNotFit: with the numbers, and how many GPUs would do.
    """
    if cache_room_bytes(need, gpu, gpus, memory_utilization) <= 0:
        raise DoesNotFit(_sentence(need, gpu, gpus, memory_utilization))


def _sentence(need: Need, gpu: GpuType, gpus: int, memory_utilization: float) -> str:
    usable_bytes = gpu.memory_bytes * memory_utilization
    counts = [gpus * 2**power for power in range(1, 10)]
    fits = [count for count in counts if cache_room_bytes(need, gpu, count, memory_utilization) > 0]
    advice = f"{fits[0]} of them would do" if fits else "no number of them would do"
    noun = "GPU" if gpus == 1 else "GPUs"
    return (
        f"{need.name} does not fit on {gpus} {noun} of type {gpu.product}: "
        f"its weights take {need.weights_bytes / 2**30:.1f} GiB, and {gpus} x "
        f"{usable_bytes / 2**30:.1f} GiB may be used, activations and buffers included; {advice}"
    )
