"""What a model's shape says of its size: parameters, cache for each token, experts in a batch."""

import difflib
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final

import numpy as np

from gpufleet.core.capacity.requests import Floats
from gpufleet.spec.serving import ModelRevision, Precision
from gpufleet.spec.shapes import ModelShape, built_in_shapes

QUERY_LORA_RANK: Final = 1536
"""Width of the compressed queries with multi-head latent attention (DeepSeek-V3, Kimi-K2)."""
LATENT_HEAD_DIM: Final = 128
"""Width of a head's values, and of its keys without positions, with latent attention (same)."""
MOST_SEQUENCES: Final = 4096
"""Sequences of one step beyond which every expert is taken to be hit."""


class AttentionKind(StrEnum):
    """How a model attends; each has kernels, and so overheads, of its own."""

    GROUPED = "grouped"
    SLIDING = "sliding"
    LINEAR = "linear"
    LATENT = "latent"
    SPARSE_LATENT = "sparse-latent"


@dataclass(frozen=True)
class ModelSize:
    """Numbers of parameters and of cached values, derived from a `ModelShape`."""

    layers: int
    hidden_size: int
    kind: AttentionKind
    dense_parameters: float
    """What every step reads whatever the batch: attention, dense layers, shared experts, router."""
    head_parameters: float
    """The output matrix; the input's embeddings are looked up, not read."""
    expert_parameters: float
    """One routed expert of one layer; 0 for a dense model."""
    expert_layers: int
    experts: int
    experts_per_token: int
    kv_heads: int
    """Shards that the cache may be cut into; 1 with latent attention, which all GPUs copy."""
    kv_values: float
    """Values cached for each token that attention looks back to without a limit."""
    window_values: float
    """Values cached for each token inside `window`, in the layers that look back no further."""
    window: int
    top_k: int
    """Tokens that a query looks at, of those that are cached; 0 where it looks at all."""
    attention_width: float
    """Products of a query and a key: heads times their width, over the layers that grow."""

    @property
    def parameters(self) -> float:
        """All parameters, embeddings included."""
        routed = self.expert_layers * self.experts * self.expert_parameters
        return self.dense_parameters + 2 * self.head_parameters + routed

    @property
    def active_parameters(self) -> float:
        """Parameters that one token is multiplied with."""
        routed = self.expert_layers * self.experts_per_token * self.expert_parameters
        return self.dense_parameters + self.head_parameters + routed

    def weights_bytes(self, precision: Precision) -> float:
        """Bytes of the weights in memory (see `dense_bytes`)."""
        routed = self.expert_layers * self.experts * self.expert_parameters
        wide = Precision.BF16.bytes_per_parameter
        return (
            self.dense_parameters * self.dense_bytes(precision)
            + 2 * self.head_parameters * wide
            + routed * precision.bytes_per_parameter
        )

    def dense_bytes(self, precision: Precision) -> float:
        """Bytes of a parameter outside the experts.

        Mixtures of experts that are published in four bits keep everything else in bf16 (gpt-oss,
        Kimi-K2, NVIDIA's NVFP4 checkpoints).
        """
        four_bits = precision in {Precision.FP4, Precision.INT4}
        kept = Precision.BF16 if self.experts and four_bits else precision
        return kept.bytes_per_parameter


_CHANGES_NO_DIMENSION: Final = re.compile(
    r"meta|instruct|chat|base|it|hf|thinking|bf16|fp8|fp4|nvfp4|mxfp4|int4|int8|awq|gptq|static"
    r"|dynamic|pertensor|block|w4a16|w8a8|[0-9]{4}"
)
"""Words of public names that tell a tuning, a number format or a release date."""


class UnknownModel(ValueError):
    """No shape is declared, and none is built in; the sentence names the nearest public names."""


def shape_of(model: ModelRevision) -> ModelShape:
    """The shape that a revision declares, or else the built-in one of its public name.

    Raises:
        UnknownModel: neither is there.
    """
    return model.shape or built_in_shape(model.model)


def built_in_shape(name: str) -> ModelShape:
    """A built-in shape by public name, or by that of a model it was tuned or quantized from.

    Owner, number format, release date and words such as Instruct change no dimension.

    Raises:
        UnknownModel: there is none.
    """
    known = built_in_shapes()
    if name in known:
        return known[name]
    if found := _by_architecture().get(_architecture(name)):
        return found
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    meant = f"; near are {', '.join(near)}" if near else ""
    raise UnknownModel(f"no shape is known of the model `{name:.80}`{meant}")


@cache
def _by_architecture() -> dict[str, ModelShape]:
    """Shapes by names without what changes none; where two differ all the same, neither."""
    found: dict[str, ModelShape | None] = {}
    for name, shape in built_in_shapes().items():
        key = _architecture(name)
        found[key] = shape if found.get(key, shape) == shape else None
    return {key: shape for key, shape in found.items() if shape is not None}


def _architecture(name: str) -> str:
    """`deepseek-r1` for `nvidia/DeepSeek-R1-0528-NVFP4`."""
    words = name.rsplit("/", 1)[-1].lower().replace("_", ".").split("-")
    return "-".join(word for word in words if not _CHANGES_NO_DIMENSION.fullmatch(word))


@cache
def size_of(shape: ModelShape) -> ModelSize:
    """Parameters and cache from the dimensions; published totals win where they are given."""
    width = shape.hidden_size
    latent = shape.kv_lora_rank > 0
    full_layers = shape.attention_layers or (0 if shape.sliding_window else shape.layers)
    expert_layers = shape.layers - shape.first_dense_layers if shape.experts else 0
    expert = 3.0 * width * shape.moe_intermediate_size
    dense = (
        shape.layers * _attention_parameters(shape)
        + (shape.layers - expert_layers) * 3.0 * width * shape.intermediate_size
        + expert_layers * (shape.shared_experts * expert + width * shape.experts)
    )
    head = float(shape.vocab_size * width)
    if shape.parameters and shape.active_parameters and shape.experts:
        # Two equations: all = rest + experts * routed, active = rest + experts_per_token * routed.
        idle = shape.experts - shape.experts_per_token
        routed = (shape.parameters - head - shape.active_parameters) / idle
        expert = routed / expert_layers
        dense = shape.active_parameters - head - shape.experts_per_token * routed
    elif shape.parameters:
        dense = shape.parameters - 2 * head
    keys_values = 2 * shape.kv_heads * shape.head_dim
    values = shape.kv_lora_rank + shape.qk_rope_head_dim if latent else keys_values
    head_width = LATENT_HEAD_DIM + shape.qk_rope_head_dim if latent else shape.head_dim
    return ModelSize(
        layers=shape.layers,
        hidden_size=width,
        kind=_kind(shape, full_layers),
        dense_parameters=dense,
        head_parameters=head,
        expert_parameters=expert if shape.experts else 0.0,
        expert_layers=expert_layers,
        experts=shape.experts,
        experts_per_token=shape.experts_per_token,
        kv_heads=1 if latent else shape.kv_heads,
        kv_values=float(values * full_layers),
        window_values=float(values * (shape.layers - full_layers) if shape.sliding_window else 0),
        window=shape.sliding_window,
        top_k=shape.attention_top_k,
        attention_width=float(shape.attention_heads * head_width * full_layers),
    )


def experts_hit(tokens: Floats, experts: Floats, experts_per_token: Floats) -> Floats:
    """Expected number of distinct experts that a layer reads for a step of so many tokens.

    Each token chooses `experts_per_token` of `experts`, taken to be uniform and independent: an
    expert is missed by all of them with (1 - k/E)^tokens. 0 for a dense model.
    """
    missed: Floats = (1 - experts_per_token / np.maximum(experts, 1)) ** tokens
    return experts * (1 - missed)


def _attention_parameters(shape: ModelShape) -> float:
    width, heads = shape.hidden_size, shape.attention_heads
    if shape.kv_lora_rank:
        rank, rope = shape.kv_lora_rank, shape.qk_rope_head_dim
        queries = QUERY_LORA_RANK * (width + heads * (LATENT_HEAD_DIM + rope))
        keys_values = width * (rank + rope) + rank * heads * 2 * LATENT_HEAD_DIM
        return float(queries + keys_values + heads * LATENT_HEAD_DIM * width)
    return float(2 * width * (heads + shape.kv_heads) * shape.head_dim)


def _kind(shape: ModelShape, full_layers: int) -> AttentionKind:
    if shape.kv_lora_rank:
        return AttentionKind.SPARSE_LATENT if shape.attention_top_k else AttentionKind.LATENT
    if full_layers == shape.layers:
        return AttentionKind.GROUPED
    return AttentionKind.SLIDING if shape.sliding_window else AttentionKind.LINEAR
