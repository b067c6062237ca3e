"""Loads: when requests are due, what their answers are worth, what a plan may take from them."""

import math
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpufleet.core.capacity.arrivals import Trace, index_of_dispersion
from gpufleet.core.serving import pools_at
from gpufleet.core.serving_bench import evidence
from gpufleet.core.serving_bench.prompts import Prompts
from gpufleet.core.serving_bench.results import (
    LATE_S,
    Targets,
    distribution,
    level,
    observed_levels,
    summary,
)
from gpufleet.core.serving_bench.schedule import arrivals_of, sendings
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows import serving_bench
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.serving import Tokens
from gpufleet.spec.serving_bench import LevelRow, Outcome, Sending

TOKENS = Tokens(prompt_mean=500, prompt_p95=900, output_mean=100, output_p95=200, output_max=400)
FLEET_FILE = PROJECT_ROOT / "fleets/sample/production.yaml"
FLEET = load_fleet(FLEET_FILE)
POOL = next(pool for pool in pools_at(FLEET, "fra1") if pool.name == "chat")


def load(arrivals: str, rate_rps: float = 20, duration_s: float = 50) -> tuple[Sending, ...]:
    return sendings(
        arrivals_of(arrivals),
        rate_rps=rate_rps,
        duration_s=duration_s,
        tokens=TOKENS,
        stream_share=0.33,
        seed=3,
    )


def outcome(
    at: float = 0.0,
    *,
    late: float = 0.0,
    first: float | None = 0.5,
    took: float = 1.0,
    error: str = "",
    in_flight: int = 1,
    tokens: int = 11,
) -> Outcome:
    return Outcome(
        scheduled_s=at,
        sent_s=at + late,
        first_byte_s=None if error else at + 0.1,
        first_token_s=None if first is None or error else at + first,
        ended_s=at + took,
        in_flight=in_flight,
        streamed=first is not None,
        status=0 if error else 200,
        error=error,
        prompt_tokens=500,
        output_tokens=0 if error else tokens,
    )


@given(
    arrivals=st.sampled_from(["poisson", "constant", "gamma:4", "gamma:0.5"]),
    rate_rps=st.floats(0.5, 200),
    duration_s=st.floats(1, 60),
)
@settings(deadline=None)
def test_requests_are_due_in_order_within_the_load(
    arrivals: str, rate_rps: float, duration_s: float
) -> None:
    made = load(arrivals, rate_rps, duration_s)
    times = [each.at_s for each in made]
    assert times == sorted(times)
    assert all(0 <= at < duration_s for at in times)
    assert all(each.prompt_tokens >= 1 and each.output_tokens >= 1 for each in made)
    assert made == load(arrivals, rate_rps, duration_s)


@pytest.mark.parametrize(("arrivals", "index"), [("poisson", 1), ("gamma:4", 4), ("gamma:9", 9)])
def test_counts_vary_as_the_process_says(arrivals: str, index: float) -> None:
    times = np.array([each.at_s for each in load(arrivals, 50, 4000)])
    assert len(times) == pytest.approx(200_000, rel=0.05)
    assert index_of_dispersion(times) == pytest.approx(index, rel=0.2)


def test_a_constant_rate_has_equal_gaps() -> None:
    gaps = np.diff([each.at_s for each in load("constant", 4, 10)])
    assert len(gaps) == 39
    assert gaps == pytest.approx(0.25)


def test_a_third_is_streamed_and_lengths_are_those_declared() -> None:
    made = load("poisson", 100, 100)
    assert sum(each.streamed for each in made) / len(made) == pytest.approx(0.33, abs=0.02)
    assert np.mean([each.output_tokens for each in made]) == pytest.approx(100, rel=0.05)
    assert np.mean([each.prompt_tokens for each in made]) == pytest.approx(500, rel=0.05)


def test_a_trace_gives_times_and_lengths() -> None:
    trace = Trace(np.array([0.0, 1.0, 4.0]), np.array([10, 20, 30]), np.array([1, 2, 3]))
    made = sendings(
        arrivals_of("trace:requests.csv"),
        rate_rps=3 / trace.span_s,
        duration_s=trace.span_s,
        tokens=TOKENS,
        stream_share=1,
        seed=1,
        trace=trace,
    )
    assert [(each.at_s, each.prompt_tokens, each.output_tokens) for each in made] == [
        (0.0, 10, 1),
        (1.0, 20, 2),
        (4.0, 30, 3),
    ]


@pytest.mark.parametrize(
    "text",
    ["", "gauss", "gamma", "gamma:", "gamma:x", "gamma:0", "gamma:nan", "poisson:2", "trace:"],
)
def test_what_is_no_arrival_process_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"arrival process|index of dispersion"):
        arrivals_of(text)


@given(tokens=st.integers(1, 100_000))
def test_a_prompt_has_as_many_words_as_tokens_are_wanted(tokens: int) -> None:
    text = Prompts(7).text(tokens)
    assert len(text.split()) == tokens
    assert text.replace(b" ", b"").isalpha()


def test_no_two_prompts_begin_alike() -> None:
    prompts = Prompts(7)
    begins = Counter(prompts.text(20) for _ in range(500))
    assert max(begins.values()) <= 2


def test_latency_counts_from_when_a_request_was_due() -> None:
    late = outcome(at=10.0, late=3.0, first=3.5, took=4.0)
    assert late.latency_s == 4.0
    assert late.ttft_s == 3.5
    report = summary([late], 10, Targets(latency_s=3.9))
    assert report["latency_s"].max == 4.0
    assert report["within_slo"] == 0
    assert report["slo_kept"] is False


def test_a_generator_that_is_late_says_so() -> None:
    on_time = [outcome(at=each) for each in range(99)]
    barely = summary([*on_time, outcome(late=2 * LATE_S)], 100, Targets())
    assert barely["kept_up"]
    assert barely["late"] == 1
    too_often = summary([*on_time, *[outcome(late=2 * LATE_S)] * 3], 100, Targets())
    assert not too_often["kept_up"]
    assert too_often["late_worst_s"] == pytest.approx(2 * LATE_S)


def test_goodput_counts_answers_within_both_targets_only() -> None:
    outcomes = [
        outcome(took=1.0, first=0.2),
        outcome(took=9.0, first=0.2),
        outcome(took=1.0, first=0.9),
        outcome(took=1.0, first=None),
        outcome(took=1.0, error="timeout"),
    ]
    report = summary(outcomes, 10, Targets(latency_s=2, ttft_s=0.5))
    assert report["goodput_per_s"] == pytest.approx(0.2)
    assert report["within_slo"] == pytest.approx(0.4)
    assert report["answered"] == 4
    assert report["errors"] == {"timeout": 1}
    assert report["ttft_s"].count == 3


def test_a_failed_request_breaks_a_target() -> None:
    fine = [outcome() for _ in range(95)]
    lost = [outcome(error="connect") for _ in range(5)]
    assert summary([*fine, *lost], 1, Targets(latency_s=2))["slo_kept"]
    assert not summary([*fine, *lost, *lost], 1, Targets(latency_s=2))["slo_kept"]
    assert summary([*lost], 1, Targets())["slo_kept"] is None


def test_rates_take_the_time_until_the_last_answer() -> None:
    report = summary([outcome(at=9.0, took=11.0)], 10, Targets())
    assert report["answers_per_s"] == pytest.approx(1 / 20)


def test_time_per_token_leaves_the_first_out() -> None:
    assert outcome(first=0.5, took=1.5, tokens=11).tpot_s == pytest.approx(0.1)
    assert outcome(first=0.5, took=1.5, tokens=1).tpot_s is None
    assert outcome(first=None).tpot_s is None


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=200))
def test_every_request_stands_in_one_band(in_flight: list[int]) -> None:
    rows = observed_levels([outcome(in_flight=each) for each in in_flight])
    assert sum(row.requests for row in rows) == len(in_flight)
    for row in rows:
        first, _, last = row.in_flight.partition("-")
        inside = [each for each in in_flight if int(first) <= each <= int(last or first)]
        assert len(inside) == row.requests


@given(st.lists(st.floats(0, 1e4), min_size=1))
def test_percentiles_are_ordered(values: list[float]) -> None:
    found = distribution(values)
    assert found is not None
    assert found.p50 <= found.p90 <= found.p95 <= found.p99 <= found.max


def test_nothing_has_no_distribution() -> None:
    assert distribution([None, None]) is None


def row(in_flight: int, **changes: object) -> LevelRow:
    made = level(
        str(in_flight), [outcome(in_flight=in_flight, tokens=100) for _ in range(20)], 10.0
    )
    return made.model_copy(update=changes)


def test_levels_become_points_of_the_revision_that_was_measured() -> None:
    made = evidence.measurement(
        POOL,
        "h100-sxm",
        [row(1), row(16)],
        output_tokens=100,
        day=date(2026, 11, 26),
        simulated=True,
    )
    assert [point.concurrency for point in made.points] == [1, 16]
    assert made.points[0].ttft_s == pytest.approx(0.5)
    assert made.points[0].tpot_s == pytest.approx(0.5 / 99, rel=1e-3)
    assert made.model == POOL.model_name
    assert made.source.startswith("SIMULATED")
    assert POOL.model.digest in made.source
    assert POOL.model.engine.image in made.source
    text = evidence.file_with("", "chat-h100", made, where="f")
    again = evidence.file_with(text, "other", made, where="f")
    assert list(yaml.safe_load(again)["measurements"]) == ["chat-h100", "other"]
    assert evidence.file_with(again, "other", made, where="f") == again


def test_a_saved_measurement_is_part_of_the_fleet_that_includes_it(tmp_path: Path) -> None:
    made = evidence.measurement(
        POOL,
        "h100-sxm",
        [row(1), row(16)],
        output_tokens=100,
        day=date(2026, 11, 26),
        simulated=False,
    )
    shared = tmp_path / "shared"
    shared.mkdir()
    for file in (FLEET_FILE.parent / "shared").glob("*.yaml"):
        (shared / file.name).write_text(file.read_text())
    (tmp_path / "calendars").symlink_to(FLEET_FILE.parent / "calendars")
    (shared / "measured.yaml").write_text(evidence.file_with("", "ours", made, where="f"))
    copy = tmp_path / "production.yaml"
    declared = FLEET_FILE.read_text()
    assert "include: [" in declared
    copy.write_text(declared.replace("include: [", "include: [measured, "))
    assert load_fleet(copy).measurements["ours"] == made


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"failed": 1}, "failed"),
        ({"requests": 2}, "only 2 answers"),
        ({"output_tokens_mean": 60.0}, "60 tokens"),
    ],
)
def test_what_is_no_evidence_is_not_kept(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        evidence.measurement(
            POOL,
            "h100-sxm",
            [row(4, **wrong)],
            output_tokens=100,
            day=date(2026, 11, 26),
            simulated=False,
        )


@pytest.mark.parametrize("text", ["models: {}\n", "- a\n", "measurements: 3\n", "a: [\n"])
def test_a_file_with_other_things_is_left_alone(text: str) -> None:
    made = evidence.measurement(
        POOL, "h100-sxm", [row(1)], output_tokens=100, day=date(2026, 11, 26), simulated=False
    )
    with pytest.raises(BadInput):
        evidence.file_with(text, "ours", made, where="f")


def test_load_time_is_from_the_engines_start_to_readiness() -> None:
    pod = {
        "metadata": {"name": "chat-0"},
        "status": {
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "lastTransitionTime": "2026-11-26T10:02:30Z",
                }
            ],
            "containerStatuses": [
                {"name": "engine", "state": {"running": {"startedAt": "2026-11-26T10:00:00Z"}}}
            ],
        },
    }
    assert [each.seconds for each in evidence.load_times([pod])] == [150.0]
    assert evidence.load_times([{"metadata": {"name": "x"}, "status": {}}]) == []


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "needs --url"),
        ({"url": "http://h"}, "needs --model"),
        ({"url": "ftp://h", "model": "m"}, "not an address"),
        ({"url": "http://user:secret@h", "model": "m"}, "not an address"),
        ({"url": "http://h", "model": "m", "rate": "x"}, "--rate"),
        ({"url": "http://h", "model": "m", "rate": "-1"}, "--rate"),
        ({"url": "http://h", "model": "m", "rate": "5", "concurrency": "1"}, "either"),
        ({"url": "http://h", "model": "m", "concurrency": "1,x"}, "--concurrency"),
        ({"url": "http://h", "model": "m", "concurrency": "1.5"}, "whole number"),
        ({"url": "http://h", "model": "m", "prompt_tokens": "5:"}, ""),
        ({"url": "http://h", "model": "m", "prompt_tokens": "5:nan"}, "--prompt-tokens"),
        ({"url": "http://h", "model": "m", "stream_share": "2"}, "--stream-share"),
        ({"url": "http://h", "model": "m", "key_file": "/nowhere"}, "/nowhere"),
        ({"url": "http://h", "model": "m", "save": "x"}, "--save"),
    ],
)
def test_options_that_cannot_be_right_are_refused(asked: dict[str, str], told: str) -> None:
    def understood() -> serving_bench.Order:
        return serving_bench.order_of(
            Workspace(PROJECT_ROOT),
            None,
            serving_bench.Asked(**asked),  # type: ignore[arg-type]
        )

    if not told:
        assert understood().tokens.prompt_mean == 5
        return
    with pytest.raises(BadInput, match=told):
        understood()


def test_a_use_case_gives_rate_lengths_and_targets() -> None:
    order = serving_bench.order_of(
        Workspace(PROJECT_ROOT),
        FLEET_FILE,
        serving_bench.Asked(url="http://h:4000/", use_case="support-chat"),
    )
    use_case = FLEET.use_cases["support-chat"]
    assert order.target.url == "http://h:4000/v1"
    assert order.target.model == "support-chat"
    assert order.rate_rps == use_case.traffic.rate_rps
    assert order.tokens == use_case.tokens
    assert order.targets == Targets(use_case.slo.p95_s, use_case.slo.ttft_p95_s)
    assert math.isclose(order.duration_s, 60)


def test_an_unknown_use_case_names_those_that_exist() -> None:
    with pytest.raises(BadInput, match="support-chat"):
        serving_bench.order_of(
            Workspace(PROJECT_ROOT), FLEET_FILE, serving_bench.Asked(url="http://h", use_case="x")
        )
