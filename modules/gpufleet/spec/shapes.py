"""Shapes of models: what of their public configuration files decides their speed and memory."""

import csv
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated

from pydantic import Field

from gpufleet.spec.quantities import Count, Integer, Spec, Whole

Parameters = Annotated[Integer, Field(ge=0, le=10**14)]
"""A number of parameters."""


class ModelShape(Spec):
    """Dimensions of a transformer, as in the model's `config.json`."""

    layers: Count
    """Number of layers (`num_hidden_layers`)."""
    hidden_size: Count
    """Width of the residual stream."""
    attention_heads: Count
    """Query heads."""
    kv_heads: Count
    """Key and value heads: fewer than `attention_heads` where they are grouped."""
    head_dim: Count
    """Width of one head."""
    intermediate_size: Whole = 0
    """Width of a dense feed-forward layer; 0 where every layer has experts."""
    vocab_size: Count
    """Number of tokens of the vocabulary."""
    experts: Whole = 0
    """Routed experts of a layer; 0 for a dense model."""
    experts_per_token: Whole = 0
    """Routed experts that each token passes through."""
    moe_intermediate_size: Whole = 0
    """Width of one expert."""
    shared_experts: Whole = 0
    """Experts that every token passes through."""
    first_dense_layers: Whole = 0
    """Layers before the first one with experts."""
    kv_lora_rank: Whole = 0
    """Width of the compressed keys and values (multi-head latent attention); 0 where none."""
    qk_rope_head_dim: Whole = 0
    """Width of the part of the keys that carries positions beside `kv_lora_rank`."""
    sliding_window: Annotated[Integer, Field(ge=0, le=10_000_000)] = 0
    """Tokens that attention looks back; 0 where it looks back to the first."""
    attention_layers: Whole = 0
    """Layers that look back to the first token, where others look back `sliding_window` tokens or,
    without one, keep a state of constant size (linear attention, Mamba); 0 where all are equal."""
    attention_top_k: Whole = 0
    """Tokens that an indexer picks for attention to look back to (`index_topk`); 0: all."""
    parameters: Parameters = 0
    """Published number of parameters, where the dimensions do not give it."""
    active_parameters: Parameters = 0
    """Published number of parameters that each token passes through, beside `parameters`."""


@cache
def built_in_shapes() -> Mapping[str, ModelShape]:
    """The shapes that ship with gpufleet, by the model's public name."""
    text = resources.files("gpufleet.spec").joinpath("model_shapes.csv").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {
        row.pop("model"): ModelShape.model_validate(
            {key: value for key, value in row.items() if value}
        )
        for row in csv.DictReader(lines)
    }
