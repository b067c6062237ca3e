"""Parameters and caches that follow from public shapes."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.capacity.shapes import (
    AttentionKind,
    UnknownModel,
    built_in_shape,
    experts_hit,
    shape_of,
    size_of,
)
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.serving import Precision
from gpufleet.spec.shapes import ModelShape, built_in_shapes

MODELS = PROJECT_ROOT.parent / "shared" / "data" / "models.csv"


@pytest.mark.parametrize(
    ("name", "billions", "active"),
    [
        ("meta-llama/Llama-3.1-8B", 8.03, 7.50),  # the embeddings' 0.53 are looked up, not read
        ("meta-llama/Llama-3.1-70B", 70.55, 69.50),
        ("deepseek-ai/DeepSeek-R1", 671.0, 36.6),  # its card: 671B, 37B with the embeddings
        ("Qwen/Qwen3-235B-A22B", 235.1, 21.6),
        ("mistralai/Mixtral-8x7B-v0.1", 46.7, 12.7),
        ("openai/gpt-oss-120b", 116.8, 5.1),
        ("Qwen/Qwen3.5-397B-A17B", 397.0, 17.0),
        ("MiniMaxAI/MiniMax-M2.5", 228.7, 10.4),
    ],
)
def test_shapes_give_the_published_numbers_of_parameters(
    name: str, billions: float, active: float
) -> None:
    size = size_of(built_in_shape(name))
    assert size.parameters / 1e9 == pytest.approx(billions, rel=0.005)
    assert size.active_parameters / 1e9 == pytest.approx(active, rel=0.01)


def test_a_llama_of_eight_billion_is_counted_by_hand() -> None:
    size = size_of(built_in_shape("meta-llama/Llama-3.1-8B"))
    attention = 4096 * 128 * (32 + 8 + 8 + 32)
    feed_forward = 3 * 4096 * 14336
    assert size.dense_parameters == 32 * (attention + feed_forward)
    assert size.head_parameters == 128256 * 4096
    assert size.kv_values == 32 * 2 * 8 * 128
    assert size.weights_bytes(Precision.BF16) == pytest.approx(2 * size.parameters)


def test_the_declared_cache_of_every_sample_revision_is_that_of_its_shape() -> None:
    for environment in ("sample", "article"):
        fleet = load_fleet(PROJECT_ROOT / "fleets" / environment / "production.yaml")
        for revision in fleet.models.values():
            size = size_of(shape_of(revision))
            # bf16 keys and values, or fp8 ones where the revision says so.
            assert revision.kv_bytes_per_token / size.kv_values in {1.0, 2.0}
            assert size.parameters == pytest.approx(revision.parameters, rel=0.02)


def test_latent_attention_caches_the_compressed_keys_alone() -> None:
    size = size_of(built_in_shape("deepseek-ai/DeepSeek-R1"))
    assert size.kv_values == 61 * (512 + 64)
    assert (size.kind, size.kv_heads) == (AttentionKind.LATENT, 1)


def test_a_window_and_a_linear_layer_stop_the_cache_from_growing() -> None:
    sliding = size_of(built_in_shape("openai/gpt-oss-120b"))
    assert sliding.kind is AttentionKind.SLIDING
    assert sliding.kv_values == sliding.window_values == 18 * 2 * 8 * 64
    linear = size_of(built_in_shape("Qwen/Qwen3.5-397B-A17B"))
    assert linear.kind is AttentionKind.LINEAR
    assert (linear.kv_values, linear.window_values) == (15 * 2 * 2 * 256, 0)


def test_mixtures_in_four_bits_keep_the_rest_in_bf16() -> None:
    size = size_of(built_in_shape("openai/gpt-oss-120b"))
    assert size.dense_bytes(Precision.FP4) == 2
    assert size_of(built_in_shape("Qwen/Qwen3-32B")).dense_bytes(Precision.FP4) == 0.5625


def test_every_model_of_the_reference_data_has_a_size() -> None:
    if not MODELS.exists():
        pytest.skip(f"{MODELS} is not here")
    with MODELS.open() as opened:
        names = [row["model"] for row in csv.DictReader(opened)]
    assert len(names) == 86
    for name in names:
        size = size_of(built_in_shape(name))
        assert 0 < size.active_parameters <= size.parameters
        assert size.kv_values > 0


@pytest.mark.parametrize("name", sorted(built_in_shapes()))
def test_every_built_in_shape_has_parts_that_add_up(name: str) -> None:
    size = size_of(built_in_shape(name))
    assert min(size.dense_parameters, size.head_parameters, size.attention_width) > 0
    assert (size.expert_parameters > 0) == (size.experts > 0) == (size.experts_per_token > 0)


def test_an_unknown_model_is_told_with_the_nearest_names() -> None:
    with pytest.raises(UnknownModel, match=r"Llama-3\.1-8B"):
        built_in_shape("meta-llama/Llama-3.1-9b")


def test_a_declared_shape_beats_the_built_in_one() -> None:
    fleet = load_fleet(PROJECT_ROOT / "fleets/article/production.yaml")
    revision = fleet.models["llama-3.1-8b"]
    shape = ModelShape(
        layers=1, hidden_size=64, attention_heads=1, kv_heads=1, head_dim=64, vocab_size=10
    )
    assert shape_of(revision.model_copy(update={"shape": shape})) == shape
    assert shape_of(revision).layers == 32


@given(
    tokens=st.floats(1, 10_000),
    experts=st.integers(2, 512),
    share=st.floats(0.01, 1),
)
def test_a_step_hits_no_fewer_experts_than_a_token_and_no_more_than_there_are(
    tokens: float, experts: int, share: float
) -> None:
    chosen = max(1, int(share * experts))
    hit = float(experts_hit(np.array(tokens), np.array(experts), np.array(chosen)))
    assert chosen * (1 - 1e-9) <= hit <= experts * (1 + 1e-9)
    more = float(experts_hit(np.array(tokens + 1), np.array(experts), np.array(chosen)))
    assert more >= hit


def test_two_tokens_hit_the_experts_that_probability_says() -> None:
    # 8 experts, 2 of them for each token: the second token misses 6/8 of the first one's.
    assert float(experts_hit(np.array(2.0), np.array(8), np.array(2))) == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-ai/DeepSeek-R1"),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "meta-llama/Llama-3.3-70B-Instruct"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", "Qwen/Qwen3-235B-A22B"),
    ],
)
def test_a_tuned_or_quantized_model_has_the_shape_of_its_origin(name: str, same: str) -> None:
    assert built_in_shape(name) == built_in_shape(same)


def test_another_size_is_another_model() -> None:
    for name in ("Qwen/Qwen3-9B", "meta-llama/Llama-3.1-7B-Instruct", "owner/Instruct-FP8"):
        with pytest.raises(UnknownModel):
            built_in_shape(name)
