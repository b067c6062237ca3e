"""The roofline: what can never happen, and how far it is from what was measured."""

import csv
import gzip
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpufleet.core.capacity.calibration import Calibration
from gpufleet.core.capacity.efficiencies import BACKENDS, Efficiencies, shipped
from gpufleet.core.capacity.fitting import (
    IDEAL,
    SOURCE,
    Sample,
    fitted,
    predicted,
    samples_of,
    table,
)
from gpufleet.core.capacity.predict import Point, architecture, case_of
from gpufleet.core.capacity.roofline import (
    Candidate,
    Layout,
    Load,
    Replicas,
    Times,
    times,
)
from gpufleet.core.capacity.shapes import built_in_shape, size_of
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec.evidence import MeasuredPoint
from gpufleet.spec.hardware import GpuType
from gpufleet.spec.load import built_in_gpus
from gpufleet.spec.serving import Precision

DATA = PROJECT_ROOT.parent / "shared" / "data" / "serving_measurements.csv.gz"
TABLE = PROJECT_ROOT / "modules/gpufleet/core/capacity/efficiencies.csv"
GPUS = {name: GpuType.model_validate(each) for name, each in built_in_gpus().items()}
MODELS = (
    "meta-llama/Llama-3.1-8B",
    "Qwen/Qwen3-235B-A22B",
    "deepseek-ai/DeepSeek-R1",
    "openai/gpt-oss-120b",
    "Qwen/Qwen3.5-397B-A17B",
)
LLAMA = Candidate(
    size_of(built_in_shape("meta-llama/Llama-3.1-8B")),
    Precision.BF16,
    GPUS["h100-sxm"],
    Layout(1),
)

candidates = st.builds(
    lambda model, gpu, precision, tensor: Candidate(
        size_of(built_in_shape(model)), precision, GPUS[gpu], Layout(tensor)
    ),
    st.sampled_from(MODELS),
    st.sampled_from(sorted(GPUS)),
    st.sampled_from(Precision),
    st.sampled_from([1, 2, 4, 8]),
)
backends = st.sampled_from(BACKENDS)
tokens = st.integers(16, 16_384)
concurrency = st.integers(1, 512)
ROOMY = 1e12
"""Tokens of a cache that is never full: what waits for room gives way to nothing."""


def measured(
    candidate: Candidate, backend: str, prompt: int, output: int, in_flight: int
) -> tuple[float, float]:
    replicas = Replicas.of([candidate])
    roomy = Replicas(**(vars(replicas) | {"cache_tokens": np.array([ROOMY])}))
    load = Load(*(np.array([float(each)]) for each in (prompt, output, in_flight)))
    found = times(roomy, shipped().coefficients([candidate], backend), load)
    return float(found.ttft_s[0]), float(found.tpot_s[0])


@given(candidates, backends, tokens, tokens, concurrency, st.floats(1, 4))
def test_more_bandwidth_is_never_slower(
    candidate: Candidate, backend: str, prompt: int, output: int, in_flight: int, more: float
) -> None:
    bandwidth = candidate.gpu.memory_bandwidth_bytes_per_s * more
    faster = candidate._replace(
        gpu=candidate.gpu.model_copy(update={"memory_bandwidth_bytes_per_s": bandwidth})
    )
    slow = measured(candidate, backend, prompt, output, in_flight)
    fast = measured(faster, backend, prompt, output, in_flight)
    assert all(new <= old * (1 + 1e-9) for new, old in zip(fast, slow, strict=True))


@given(candidates, backends, tokens, tokens, concurrency, st.integers(1, 64))
def test_more_requests_in_flight_never_make_a_token_faster(
    candidate: Candidate, backend: str, prompt: int, output: int, in_flight: int, more: int
) -> None:
    few = measured(candidate, backend, prompt, output, in_flight)
    many = measured(candidate, backend, prompt, output, in_flight + more)
    assert all(new >= old * (1 - 1e-9) for new, old in zip(many, few, strict=True))


@given(candidates, backends, tokens, tokens, concurrency, st.integers(1, 4096))
def test_a_longer_prompt_never_has_its_first_token_sooner(
    candidate: Candidate, backend: str, prompt: int, output: int, in_flight: int, more: int
) -> None:
    short, _ = measured(candidate, backend, prompt, output, in_flight)
    long, _ = measured(candidate, backend, prompt + more, output, in_flight)
    assert long >= short * (1 - 1e-9)


@given(candidates, backends, tokens, tokens, concurrency)
def test_a_token_takes_at_least_the_ideal_reading_of_its_active_weights(
    candidate: Candidate, backend: str, prompt: int, output: int, in_flight: int
) -> None:
    model, layout = candidate.model, candidate.layout
    per_parameter = candidate.precision.bytes_per_parameter
    ideal_s = (
        model.dense_parameters
        * per_parameter
        / layout.tensor
        / candidate.gpu.memory_bandwidth_bytes_per_s
    )
    _, tpot = measured(candidate, backend, prompt, output, in_flight)
    assert tpot >= ideal_s


def test_pipeline_stages_share_sequences_but_not_a_token_s_way_through_all_layers() -> None:
    model, gpu = size_of(built_in_shape("meta-llama/Llama-3.1-70B")), GPUS["h100-sxm"]
    flat, staged = (
        Candidate(model, Precision.FP8, gpu, Layout(4, pipeline)) for pipeline in (1, 2)
    )
    alone = [measured(each, "vllm", 512, 512, 1)[1] for each in (flat, staged)]
    assert alone[0] == pytest.approx(alone[1])
    crowded = [measured(each, "vllm", 512, 512, 256)[1] for each in (flat, staged)]
    assert crowded[1] < crowded[0]


def test_nothing_fitted_is_faster_than_its_data_sheet() -> None:
    assert all(shipped().terms[term] >= 1 for term in IDEAL)


def test_a_table_reads_back_what_it_wrote() -> None:
    text = TABLE.read_text(encoding="utf-8")
    assert Efficiencies.read(text).write(SOURCE) == text


def test_a_group_that_was_not_fitted_has_the_pooled_value() -> None:
    model = size_of(built_in_shape("meta-llama/Llama-3.1-8B"))
    candidate = Candidate(model, Precision.BF16, GPUS["a100-sxm"], Layout(1))
    found = shipped().coefficients([candidate], "an engine of next year")
    assert found.first_token_s[0] == pytest.approx(shipped().terms["first_token_s"])
    assert found.expert_read[0] == pytest.approx(shipped().terms["expert_read"])


def test_an_unknown_engine_gives_a_time_between_those_of_the_known_ones() -> None:
    shape = built_in_shape("meta-llama/Llama-3.1-8B")
    case = case_of(Point(shape, "llama", GPUS["h100-sxm"], Precision.BF16, 1, 1, 1024, 256, 16))
    load = Load(*(np.array([value]) for value in (1024.0, 256.0, 16.0)))
    known = [float(shipped().predict([case], [0], load, [name]).ttft_s[0]) for name in BACKENDS]
    pooled = float(shipped().predict([case], [0], load, [None]).ttft_s[0])
    assert min(known) <= pooled <= max(known)
    assert sum(shipped().mixture(case).values()) == pytest.approx(1)


def test_names_of_one_shape_are_one_architecture() -> None:
    one, other = (built_in_shape(f"deepseek-ai/DeepSeek-{name}") for name in ("R1", "V3"))
    assert architecture(one) == architecture(other) != ""


@settings(max_examples=20)
@given(candidates, st.floats(0.7, 1.4), st.floats(0.5, 2))
def test_calibration_finds_a_replica_that_is_evenly_slower(
    candidate: Candidate, slower: float, first: float
) -> None:
    replica = Replicas.of([candidate])
    replica = Replicas(**(vars(replica) | {"cache_tokens": np.array([ROOMY])}))
    coefficients = shipped().coefficients([candidate], "vllm")

    def truth(load: Load) -> Times:
        found = times(replica, coefficients, load)
        return Times(found.ttft_s * first, found.tpot_s * slower)

    loads = Load(
        np.array([1024.0, 4096.0, 1024.0]), np.array([512.0] * 3), np.array([4.0, 16.0, 64.0])
    )
    said = truth(loads)
    points = [
        MeasuredPoint(
            prompt_tokens=int(prompt),
            output_tokens=int(output),
            concurrency=int(in_flight),
            ttft_s=float(ttft),
            tpot_s=float(tpot),
        )
        for prompt, output, in_flight, ttft, tpot in zip(*loads, *said, strict=True)
    ]
    between = Load(np.array([1024.0]), np.array([512.0]), np.array([16.0]))
    found = Calibration.of(replica, coefficients, points).times(between)
    assert found.tpot_s == pytest.approx(truth(between).tpot_s, rel=0.06)
    assert found.ttft_s == pytest.approx(truth(between).ttft_s, rel=0.15)


def calibrated(ttft: list[float], tpot: list[float]) -> tuple[Calibration, Times]:
    """An H100's Llama, and three points that are so many times what the roofline says of them."""
    replica = Replicas.of([LLAMA])
    coefficients = shipped().coefficients([LLAMA], "vllm")
    in_flight = [2, 8, 32]
    load = Load(np.full(3, 512.0), np.full(3, 256.0), np.array([float(n) for n in in_flight]))
    said = times(replica, coefficients, load)
    points = [
        MeasuredPoint(
            prompt_tokens=512,
            output_tokens=256,
            concurrency=n,
            ttft_s=float(said.ttft_s[i] * ttft[i]),
            tpot_s=float(said.tpot_s[i] * tpot[i]),
        )
        for i, n in enumerate(in_flight)
    ]
    found = Calibration.of(replica, coefficients, points)
    now = found.times(load)
    return found, Times(now.ttft_s / said.ttft_s, now.tpot_s / said.tpot_s)


def test_what_no_scale_explains_is_kept_near_the_points() -> None:
    _, factors = calibrated([1.0, 1.3, 1.0], [1.0, 1.2, 1.0])
    assert factors.ttft_s == pytest.approx([1.0, 1.3, 1.0], rel=0.07)
    assert factors.tpot_s == pytest.approx([1.0, 1.2, 1.0], rel=0.03)


def test_an_even_error_is_corrected_far_from_the_points_too() -> None:
    found, _ = calibrated([1.0] * 3, [1.5] * 3)
    far = Load(np.array([32.0]), np.array([8192.0]), np.array([1.0]))
    plain = times(found.replica, shipped().coefficients([LLAMA], "vllm"), far)
    assert found.times(far).tpot_s / plain.tpot_s == pytest.approx(1.5, rel=0.1)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    if not DATA.exists():
        pytest.skip(f"{DATA} is not here")
    with gzip.open(DATA) as opened:
        rows = list(csv.DictReader(io.TextIOWrapper(opened, "utf-8")))
    return list(samples_of(rows, GPUS))


def test_the_shipped_table_is_what_the_data_give(samples: list[Sample]) -> None:
    fresh, kept = Efficiencies.read(table(samples)), shipped()
    assert fresh.terms == pytest.approx(kept.terms, rel=0.02)
    assert fresh.corrections == pytest.approx(kept.corrections, abs=0.05)
    assert set(fresh.seen) == set(kept.seen)


@pytest.mark.parametrize(
    ("model", "gpu", "tpot", "ttft"),
    [
        ("MiniMaxAI/MiniMax-M2.5", "b300-sxm", 0.15, 0.3),
        ("meta-llama/Llama-3.1-70B", "h200-sxm", 0.15, 1.1),
        ("moonshotai/Kimi-K2-Instruct", "b200-sxm", 0.17, 0.45),
    ],
)
def test_a_model_on_a_gpu_that_the_fit_has_not_seen_is_near(
    samples: list[Sample], model: str, gpu: str, tpot: float, ttft: float
) -> None:
    left = [
        sample
        for sample in samples
        if sample.case.model == model and sample.case.candidate.gpu == GPUS[gpu]
    ]
    out = set(left)
    seen = fitted([sample for sample in samples if sample not in out], shipped())
    found = predicted(seen, left, backend_known=False)
    tpots = np.array([sample.tpot_s for sample in left])
    ttfts = np.array([sample.ttft_s for sample in left])
    assert len(left) > 20
    assert np.median(abs(found.tpot_s / tpots - 1)) < tpot
    assert np.median(abs(found.ttft_s / ttfts - 1)) < ttft
