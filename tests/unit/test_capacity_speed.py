"""Which evidence a replica's speed comes from, and what it becomes for the simulator."""

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.capacity.efficiencies import ENGINE, shipped
from gpufleet.core.capacity.memory import DoesNotFit
from gpufleet.core.capacity.replica import Evidence, ReplicaSpeed
from gpufleet.core.capacity.roofline import Candidate, Layout, Load, Replicas, times
from gpufleet.core.capacity.shapes import UnknownModel, shape_of, size_of
from gpufleet.core.capacity.speed import speed_of
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.evidence import MeasuredPoint, Measurement
from gpufleet.spec.serving import Precision


@pytest.fixture(scope="module")
def article() -> Fleet:
    return load_fleet(PROJECT_ROOT / "fleets/article/production.yaml")


def with_measurements(fleet: Fleet, *measurements: Measurement) -> Fleet:
    named = {f"m{index}": each for index, each in enumerate(measurements)}
    return fleet.model_copy(update={"measurements": named})


def speed(
    fleet: Fleet,
    gpu_type: str = "h100-sxm",
    *,
    gpus: int = 1,
    nodes: int = 1,
    limit: int = 16,
    prompt: float = 500,
    output: float = 100,
) -> ReplicaSpeed:
    return speed_of(
        fleet,
        "llama-3.1-8b",
        gpu_type,
        gpus_per_node=gpus,
        nodes_per_replica=nodes,
        concurrency_limit=limit,
        memory_utilization=0.9,
        mean_prompt_tokens=prompt,
        mean_output_tokens=output,
    )


def points(tpot_s: float, ttft_s: float = 0.05) -> list[MeasuredPoint]:
    return [
        MeasuredPoint(
            prompt_tokens=500, output_tokens=100, concurrency=n, ttft_s=ttft_s, tpot_s=tpot_s
        )
        for n in (1, 4, 16)
    ]


def measurement(**fields: object) -> Measurement:
    return Measurement.model_validate(
        {
            "model": "llama-3.1-8b",
            "gpu_type": "h100-sxm",
            "measured": date(2026, 2, 1),
            "source": "a bench",
            **fields,
        }
    )


def test_a_measured_rate_is_given_however_many_requests_are_in_flight(article: Fleet) -> None:
    found = speed(article)
    assert found.evidence is Evidence.MEASURED_RATE
    for in_flight in range(1, found.concurrency_limit + 1):
        tokens_per_s = in_flight / found.decode_s[in_flight]
        assert tokens_per_s / 100 == pytest.approx(8)
    assert found.prefill_token_s == found.kv_token_s == 0
    assert "load test of one replica" in found.source
    assert "2026-02-10" in found.source


def test_a_rate_is_for_each_gpu_of_the_replica(article: Fleet) -> None:
    fleet = with_measurements(article, measurement(rate_rps_per_gpu=8, gpus_per_node=4))
    assert 16 / speed(fleet, gpus=4).decode_s[16] / 100 == pytest.approx(32)


def test_only_the_same_replica_s_measurement_counts(article: Fleet) -> None:
    assert speed(article, gpus=2).evidence is Evidence.ROOFLINE
    assert speed(article, nodes=2).evidence is Evidence.ROOFLINE
    assert speed(article, "b200-sxm").evidence is Evidence.ROOFLINE


def test_a_rate_beats_points_and_a_later_day_an_earlier_one(article: Fleet) -> None:
    early = measurement(points=points(0.02), source="early")
    late = measurement(points=points(0.01), source="late", measured=date(2026, 3, 1))
    found = speed(with_measurements(article, late, early))
    assert found.evidence is Evidence.MEASURED_POINTS
    assert found.source.startswith("late (2026-03-01)")
    rate = measurement(rate_rps_per_gpu=8, measured=date(2025, 1, 1))
    assert speed(with_measurements(article, rate, late)).evidence is Evidence.MEASURED_RATE


@given(scale=st.floats(0.6, 1.8))
def test_points_move_the_steps_towards_what_was_measured(article: Fleet, scale: float) -> None:
    plain = speed(article, "h100-sxm", nodes=1, gpus=1)
    roofline = speed(with_measurements(article))
    measured_s = roofline.decode_s[4] * scale
    found = speed(with_measurements(article, measurement(points=points(measured_s))))
    assert plain.evidence is Evidence.MEASURED_RATE
    assert abs(np.log(found.decode_s[4] / measured_s)) < abs(np.log(scale)) + 0.15


def test_a_model_that_does_not_fit_is_refused_unless_it_was_measured(article: Fleet) -> None:
    big = article.models["llama-3.1-8b"].model_copy(update={"parameters": 90_000_000_000})
    fleet = article.model_copy(update={"models": {"llama-3.1-8b": big}})
    assert speed(fleet).evidence is Evidence.MEASURED_RATE
    with pytest.raises(DoesNotFit, match="does not fit on 1 GPU"):
        speed(with_measurements(fleet))


def test_a_model_without_a_shape_needs_a_measurement(article: Fleet) -> None:
    odd = article.models["llama-3.1-8b"].model_copy(update={"model": "nobody/knows"})
    fleet = article.model_copy(update={"models": {"llama-3.1-8b": odd}})
    assert speed(fleet).evidence is Evidence.MEASURED_RATE
    with pytest.raises(UnknownModel, match="nobody/knows"):
        speed(with_measurements(fleet))


@given(
    limit=st.integers(1, 256),
    prompt=st.floats(1, 30_000),
    output=st.floats(1, 8_000),
    gpus=st.sampled_from([1, 2, 4, 8]),
)
def test_every_number_of_a_roofline_is_positive_and_more_sequences_take_longer(
    article: Fleet, limit: int, prompt: float, output: float, gpus: int
) -> None:
    found = speed(with_measurements(article), gpus=gpus, limit=limit, prompt=prompt, output=output)
    assert found.concurrency_limit == limit
    numbers = (found.kv_token_s, found.prefill_token_s, found.attention_s, found.first_token_s)
    assert all(np.isfinite(each) and each > 0 for each in numbers)
    steps = np.array(found.decode_s)
    assert np.all(steps > 0)
    assert np.all(np.diff(steps[1:]) >= 0)


@given(in_flight=st.integers(1, 128), prompt=st.integers(64, 8192), output=st.integers(64, 4096))
def test_the_simulator_s_numbers_add_up_to_the_roofline_s(
    article: Fleet, in_flight: int, prompt: int, output: int
) -> None:
    fleet = with_measurements(article)
    found = speed(fleet, gpus=8, limit=in_flight, prompt=prompt, output=output)
    shape = shape_of(fleet.models["llama-3.1-8b"])
    candidate = Candidate(size_of(shape), Precision.BF16, fleet.gpus["h100-sxm"], Layout(tensor=8))
    load = Load(*(np.array([float(each)]) for each in (prompt, output, in_flight)))
    replica = Replicas.of([candidate])
    said = times(replica, shipped().coefficients([candidate], ENGINE), load)
    held = in_flight * (prompt + output / 2)
    own_prefill_s = found.prefill_token_s * prompt + found.attention_s * prompt**2 / 2
    step_s = found.decode_s[in_flight] + found.kv_token_s * held
    alone_s = found.decode_s[0] + own_prefill_s + found.first_token_s
    e2e_s = alone_s + output * step_s + (in_flight - 1) * own_prefill_s
    assert e2e_s == pytest.approx(float(said.e2e_s(load.output_tokens)[0]), rel=0.25)


def test_an_eight_billion_model_on_an_h100_is_read_in_five_to_ten_milliseconds(
    article: Fleet,
) -> None:
    found = speed(with_measurements(article))
    # 15 GB at 3.35 TB/s take 4.5 ms if nothing is lost.
    assert 0.0045 < found.decode_s[1] < 0.010
    assert "fitted on the public measurements" in found.source
