"""How long an engine takes for a step, a prompt and a request, from physics and efficiencies.

A step reads the weights once, reads every sequence's KV cache, multiplies, exchanges activations
between GPUs, and starts kernels; nothing overlaps but reading weights with multiplying. A prompt
takes its multiplications and, where it is not mixed into decoding steps, a reading of the weights.
In a closed loop each request lives through one prefill of each of the others, either while it
waits for its first token or while it decodes.

Every quantity is an array with one element for each replica or point; bytes, FLOP, seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np

from gpufleet.core.capacity.memory import Need, cache_copies, cache_room_bytes
from gpufleet.core.capacity.requests import Floats, Integers
from gpufleet.core.capacity.shapes import ModelSize, experts_hit
from gpufleet.spec.hardware import GpuType
from gpufleet.spec.serving import Precision

GPUS_OF_A_NODE: Final = 8
ACTIVATION_BYTES: Final = 2
"""Activations are exchanged and kept in bf16."""
LENGTH_MEAN: Final = 0.9
"""Benchmarks draw lengths from 80 to 100 % of the nominal ones (InferenceMAX: range ratio 0.8)."""
GROWTH: Final = 0.75
"""Share of the answer that an admitted request holds on average in a cache that is full."""


class Layout(NamedTuple):
    """How a replica is spread over its GPUs."""

    tensor: int
    """GPUs that share each layer's weights."""
    pipeline: int = 1
    """Stages that the layers are cut into."""
    attention_groups: int = 1
    """Groups of the tensor GPUs that attend to requests of their own (data parallel attention)."""

    @property
    def gpus(self) -> int:
        """GPUs of the replica."""
        return self.tensor * self.pipeline


class Candidate(NamedTuple):
    """One model on one layout of one GPU type."""

    model: ModelSize
    precision: Precision
    gpu: GpuType
    layout: Layout


class Coefficients(NamedTuple):
    """What separates real engines from data sheets; `efficiencies.csv` holds the fitted ones.

    Factors are times the ideal: 1 / 0.75 is 75 % of the data sheet's bandwidth.
    """

    dense_read: Floats
    expert_read: Floats
    expert_spread: Floats
    """Tokens whose experts are independent, for each token of the step."""
    cache_read: Floats
    decode_compute: Floats
    dense_compute: Floats
    """Of prompts, as the next two."""
    expert_compute: Floats
    attention_compute: Floats
    step_s: Floats
    layer_s: Floats
    expert_layer_s: Floats
    prompt_layer_s: Floats
    """Starting a layer's kernels for a prompt, which no graph has captured."""
    activation: Floats
    """Readings and writings of a token's activations in each layer."""
    dispatch: Floats
    """The same for each expert that a token passes through."""
    collective_s: Floats
    collective_read: Floats
    prefill_share: Floats
    """Share of the others' prefill that a request lives through; below 1 where it overlaps."""
    prefill_fixed_share: Floats
    """The same for what a prefill takes whatever its length."""
    first_token_s: Floats
    """Network, tokenizer, scheduling."""
    own_prefill: Floats
    burst: Floats
    """Odds that others' prefill falls before the first token rather than between later ones."""
    joined_steps: Floats
    """Steps that a request waits for before its first chunk is taken."""
    queue_s: Floats
    """Handling of each request in flight, before the first token."""
    full_wait: Floats
    """Share of the wait for a full cache that shows in the time to the first token."""


class Load(NamedTuple):
    """A closed loop: so many requests of equal lengths in flight at one replica."""

    prompt_tokens: Floats
    output_tokens: Floats
    concurrency: Floats


class Times(NamedTuple):
    """Means over the requests of a load."""

    ttft_s: Floats
    tpot_s: Floats

    def e2e_s(self, output_tokens: Floats) -> Floats:
        """From the request to its last token."""
        return self.ttft_s + self.tpot_s * np.maximum(output_tokens - 1, 0)


@dataclass(frozen=True)
class Replicas:
    """Everything of some candidates that does not depend on their load."""

    layers: Floats
    hidden_size: Floats
    dense_bytes: Floats
    """Read on each GPU for every step, the output matrix included."""
    expert_bytes: Floats
    """One routed expert of every layer, divided by the GPUs."""
    expert_layers: Floats
    experts: Floats
    experts_per_token: Floats
    cache_bytes: Floats
    """Read on the busiest GPU for each token of context without a limit."""
    window_bytes: Floats
    window: Floats
    top_k: Floats
    dense_flop_s: Floats
    """Seconds of the multiplications of one token outside the experts, at the data sheet's rate."""
    expert_flop_s: Floats
    attention_flop_s: Floats
    """The same for each pair of a token and one before it."""
    bandwidth: Floats
    link: Floats
    tensor: Floats
    pipeline: Floats
    attention_groups: Floats
    cache_tokens: Floats

    @classmethod
    def of(cls, candidates: Sequence[Candidate], *, memory_utilization: float = 0.9) -> Self:
        """Columns of some candidates; `cache_tokens` is at least 1, whatever fits."""

        def column(values: list[float]) -> Floats:
            return np.array(values, dtype=np.float64)

        models = [each.model for each in candidates]
        gpus = [each.gpu for each in candidates]
        tensor = column([each.layout.tensor for each in candidates])
        groups = column([each.layout.attention_groups for each in candidates])
        copies = column([_copies(each) for each in candidates])
        cached = column([cached_value_bytes(each.precision) for each in candidates])
        # Of all cached values, this share stands on each GPU of a stage.
        share = copies / tensor
        bandwidth = column([gpu.memory_bandwidth_bytes_per_s for gpu in gpus])
        dense = column([m.dense_parameters for m in models])
        dense_size = column([e.model.dense_bytes(e.precision) for e in candidates])
        size = column([e.precision.bytes_per_parameter for e in candidates])
        head = column([m.head_parameters for m in models])
        expert = column([m.expert_parameters for m in models])
        expert_layers = column([m.expert_layers for m in models])
        chosen = column([m.experts_per_token for m in models])
        dense_rate = column([_flops(e.gpu, dense_precision(e)) for e in candidates])
        expert_rate = column([_flops(e.gpu, e.precision) for e in candidates])
        return cls(
            layers=column([m.layers for m in models]),
            hidden_size=column([m.hidden_size for m in models]),
            dense_bytes=dense * dense_size * groups / tensor + head * ACTIVATION_BYTES / tensor,
            expert_bytes=expert_layers * expert * size / tensor,
            expert_layers=expert_layers,
            experts=column([m.experts for m in models]),
            experts_per_token=chosen,
            cache_bytes=column([m.kv_values for m in models]) * cached * share,
            window_bytes=column([m.window_values for m in models]) * cached * share,
            window=column([m.window for m in models]),
            top_k=column([m.top_k or np.inf for m in models]),
            dense_flop_s=2 * dense / tensor / dense_rate,
            expert_flop_s=2 * expert_layers * chosen * expert / tensor / expert_rate,
            attention_flop_s=4
            * column([m.attention_width for m in models])
            / tensor
            / column([gpu.bf16_flops_per_s for gpu in gpus]),
            bandwidth=bandwidth,
            link=column([_link(e) for e in candidates]),
            tensor=tensor,
            pipeline=column([each.layout.pipeline for each in candidates]),
            attention_groups=groups,
            cache_tokens=column([_cache_tokens(e, memory_utilization) for e in candidates]),
        )

    def at(self, rows: slice | Sequence[int] | Integers) -> Self:
        """Some of them, in the order of `rows`, with repetitions."""
        return type(self)(**{name: values[rows] for name, values in vars(self).items()})


def step_s(replicas: Replicas, c: Coefficients, sequences: Floats) -> Floats:
    """A decoding step of so many sequences, without their KV cache; one stage's share of them."""
    here = np.maximum(sequences / replicas.pipeline, 1)
    read = _weights_s(replicas, c, here)
    compute = c.decode_compute * here * (replicas.dense_flop_s + replicas.expert_flop_s)
    return (
        np.hypot(read, compute)
        + c.step_s
        + replicas.layers * c.layer_s
        + replicas.expert_layers * c.expert_layer_s
        + _exchange_s(replicas, c, here / replicas.attention_groups)
        + _collectives_s(replicas, c)
        + _activations_s(replicas, c, here / replicas.attention_groups)
    )


def cache_s(replicas: Replicas, c: Coefficients, context_tokens: Floats) -> Floats:
    """Reading one sequence's cache of so many tokens in a step."""
    seen = np.minimum(context_tokens, replicas.top_k) * replicas.cache_bytes
    near = np.minimum(context_tokens, replicas.window) * replicas.window_bytes
    return c.cache_read * (seen + near) / replicas.bandwidth


def prompt_s(replicas: Replicas, c: Coefficients, tokens: Floats) -> Floats:
    """What a prompt of so many tokens adds, by its length."""
    pairs = tokens * np.minimum(tokens / 2, replicas.top_k)
    return (
        c.dense_compute * tokens * replicas.dense_flop_s
        + c.expert_compute * tokens * replicas.expert_flop_s
        + c.attention_compute * pairs * replicas.attention_flop_s
        + _exchange_s(replicas, c, tokens)
        + _activations_s(replicas, c, tokens / replicas.attention_groups)
    )


def prompt_fixed_s(replicas: Replicas, c: Coefficients, tokens: Floats) -> Floats:
    """What a prompt takes whatever its length: the weights that it reads, and its kernels."""
    return (
        _weights_s(replicas, c, tokens)
        + replicas.layers * c.prompt_layer_s
        + _collectives_s(replicas, c)
    )


def running(replicas: Replicas, load: Load) -> Floats:
    """Requests in flight that the KV cache has room for."""
    held = load.prompt_tokens + GROWTH * load.output_tokens
    return np.minimum(load.concurrency, np.maximum(replicas.cache_tokens / held, 1))


def times(replicas: Replicas, c: Coefficients, load: Load) -> Times:
    """Mean time to the first token and for each later one, in a closed loop."""
    n = running(replicas, load)
    context = LENGTH_MEAN * (load.prompt_tokens + load.output_tokens / 2)
    here = np.maximum(n / replicas.pipeline, 1)
    decode = step_s(replicas, c, n) + here * cache_s(replicas, c, context)
    vary = prompt_s(replicas, c, load.prompt_tokens)
    fixed = prompt_fixed_s(replicas, c, load.prompt_tokens)
    others = np.maximum(n - 1, 0) / replicas.pipeline
    prefills = others * (c.prefill_share * vary + c.prefill_fixed_share * fixed)
    early = c.burst / (1 + c.burst)
    tpot = decode + (1 - early) * prefills / load.output_tokens
    full = c.full_wait * np.maximum(load.concurrency / n - 1, 0) * load.output_tokens * tpot
    ttft = (
        c.first_token_s
        + c.own_prefill * (vary + fixed)
        + early * prefills
        + c.joined_steps * decode
        + c.queue_s * n
        + full
    )
    return Times(ttft, tpot)


def _weights_s(replicas: Replicas, c: Coefficients, tokens: Floats) -> Floats:
    distinct = np.maximum(tokens * c.expert_spread, 1)
    hit = experts_hit(distinct, replicas.experts, replicas.experts_per_token)
    read = c.dense_read * replicas.dense_bytes + c.expert_read * hit * replicas.expert_bytes
    return read / replicas.bandwidth


def _collectives_s(replicas: Replicas, c: Coefficients) -> Floats:
    """Two collectives a layer; a GPU alone has none."""
    return np.where(replicas.tensor > 1, 2 * replicas.layers * c.collective_s, 0.0)


def _exchange_s(replicas: Replicas, c: Coefficients, tokens: Floats) -> Floats:
    """Bytes of the ring all-reduces: 2 (g - 1) / g of the activations, twice a layer."""
    around = 2 * (replicas.tensor - 1) / replicas.tensor
    moved = 2 * replicas.layers * around * tokens * replicas.hidden_size * ACTIVATION_BYTES
    return c.collective_read * moved / replicas.link


def _activations_s(replicas: Replicas, c: Coefficients, tokens: Floats) -> Floats:
    passes = c.activation * replicas.layers
    passes = passes + c.dispatch * replicas.expert_layers * replicas.experts_per_token
    return passes * tokens * replicas.hidden_size * ACTIVATION_BYTES / replicas.bandwidth


def cached_value_bytes(precision: Precision) -> int:
    """Bytes of a cached key or value: models in fp8 and fp4 are served with an fp8 cache."""
    return 1 if precision in {Precision.FP8, Precision.FP4} else ACTIVATION_BYTES


def _flops(gpu: GpuType, precision: Precision) -> float:
    """The rate of multiplications; a format that the GPU lacks is widened to bf16."""
    fp8 = gpu.fp8_flops_per_s or gpu.bf16_flops_per_s
    return {
        Precision.BF16: gpu.bf16_flops_per_s,
        Precision.FP8: fp8,
        Precision.FP4: gpu.fp4_flops_per_s or gpu.bf16_flops_per_s,
        Precision.INT4: gpu.bf16_flops_per_s,
    }[precision]


def dense_precision(candidate: Candidate) -> Precision:
    """The format that is multiplied outside the experts."""
    wide = candidate.model.dense_bytes(candidate.precision) == ACTIVATION_BYTES
    return Precision.BF16 if wide else candidate.precision


def _link(candidate: Candidate) -> float:
    """Bytes/s between the GPUs of a stage: the network's where they do not fit in one node."""
    gpu = candidate.gpu
    if candidate.layout.tensor <= GPUS_OF_A_NODE:
        return gpu.link_bytes_per_s
    return min(gpu.link_bytes_per_s, gpu.network_bytes_per_s)


def _cache_tokens(candidate: Candidate, memory_utilization: float) -> float:
    model, layout = candidate.model, candidate.layout
    need = Need("", model.weights_bytes(candidate.precision), model.hidden_size)
    room = cache_room_bytes(need, candidate.gpu, layout.gpus, memory_utilization)
    token_bytes = model.kv_values * cached_value_bytes(candidate.precision) * _copies(candidate)
    return max(1.0, room / token_bytes)


def _copies(candidate: Candidate) -> float:
    layout = candidate.layout
    return cache_copies(candidate.model, layout.tensor // layout.attention_groups)
