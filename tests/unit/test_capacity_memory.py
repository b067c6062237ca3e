"""What fits on a GPU, and what the error says when nothing does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.capacity.memory import (
    DoesNotFit,
    Need,
    cache_copies,
    cache_room_bytes,
    kv_capacity_tokens,
)
from gpufleet.core.capacity.shapes import built_in_shape, size_of
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet


@pytest.fixture(scope="module")
def article() -> Fleet:
    return load_fleet(PROJECT_ROOT / "fleets/article/production.yaml")


def test_the_article_s_model_leaves_most_of_an_h100_to_the_cache(article: Fleet) -> None:
    model, gpu = article.models["llama-3.1-8b"], article.gpus["h100-sxm"]
    tokens = kv_capacity_tokens(model, gpu, gpus=1, memory_utilization=0.9)
    # 80 GiB x 0.9 - 15 GiB of weights - buffers, by 128 KiB for each token.
    assert 400_000 < tokens < 470_000


def test_two_gpus_hold_more_than_twice_the_cache(article: Fleet) -> None:
    model, gpu = article.models["llama-3.1-8b"], article.gpus["h100-sxm"]
    one, two = (kv_capacity_tokens(model, gpu, gpus=n, memory_utilization=0.9) for n in (1, 2))
    assert two > 2 * one


def test_heads_are_not_cut_so_more_gpus_hold_copies() -> None:
    grouped = size_of(built_in_shape("meta-llama/Llama-3.1-8B"))
    assert (cache_copies(grouped, 4), cache_copies(grouped, 16)) == (1.0, 2.0)
    latent = size_of(built_in_shape("deepseek-ai/DeepSeek-R1"))
    assert cache_copies(latent, 8) == 8.0


def test_what_does_not_fit_is_told_with_numbers_and_what_would(article: Fleet) -> None:
    model, gpu = article.models["llama-3.1-8b"], article.gpus["l4"]
    big = model.model_copy(update={"parameters": 70_000_000_000})
    with pytest.raises(DoesNotFit, match=r"does not fit on 2 GPUs .* 130\.4 GiB.*; 8 of them"):
        kv_capacity_tokens(big, gpu, gpus=2, memory_utilization=0.9)
    with pytest.raises(DoesNotFit, match=r"on 1 GPU "):
        kv_capacity_tokens(big, gpu, gpus=1, memory_utilization=0.9)


@given(
    weights=st.floats(1e9, 1e12),
    gpus=st.integers(1, 16),
    utilization=st.floats(0.2, 0.95),
    more=st.floats(0, 1e11),
)
def test_heavier_weights_and_less_memory_never_leave_more_room(
    article: Fleet, weights: float, gpus: int, utilization: float, more: float
) -> None:
    gpu = article.gpus["h100-sxm"]
    need = Need("a model", weights, 4096)
    room = cache_room_bytes(need, gpu, gpus, utilization)
    assert (
        cache_room_bytes(need._replace(weights_bytes=weights + more), gpu, gpus, utilization)
        <= room
    )
    assert cache_room_bytes(need, gpu, gpus, utilization * 0.9) <= room
