"""Which pods are replicas, and what their metrics say of them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.components.pod_template import pod_spec
from gpufleet.core.gateway.discovery import (
    RATES_OVER_S,
    Found,
    Reading,
    Watched,
    found_in,
    reading_of,
    replica_of,
)
from gpufleet.core.serving import pools_at
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet

FLEET = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
IMAGE = FLEET.images.gpufleet

TOKENS = 4100
TODAY = """\
vllm:prompt_tokens_total{model_name="m"} 3000.0
vllm:generation_tokens_total{model_name="m"} 1100.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="llama"} 7.0
vllm:num_requests_waiting{engine="0",model_name="llama"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0",model_name="llama"} 0.25
vllm:request_success_total{finished_reason="stop",model_name="llama"} 40.0
vllm:request_success_total{finished_reason="length",model_name="llama"} 2.0
vllm:request_success_created{finished_reason="length",model_name="llama"} 1.7e+09
vllm:request_queue_time_seconds_bucket{le="0.3",model_name="llama"} 44.0
vllm:request_queue_time_seconds_count{model_name="llama"} 50.0
vllm:request_queue_time_seconds_sum{model_name="llama"} 12.5
"""
EARLIER = TODAY.replace("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")


def pod(spec: dict[str, Any], **status: Any) -> dict[str, Any]:  # noqa: ANN401 - plain data
    return {
        "metadata": {"name": "chat-1", "uid": "u-1", "labels": {"gpufleet.dev/pool": "chat"}},
        "spec": spec,
        "status": {
            "phase": "Running",
            "podIP": "127.20.0.7",
            "conditions": [{"type": "Ready", "status": "True"}],
            **status,
        },
    }


CHAT = next(pool for pool in pools_at(FLEET, "fra1") if pool.name == "chat")
SPANNING = next(pool for pool in pools_at(FLEET, "fra1") if pool.spans_nodes)


def test_a_ready_pod_of_a_pool_is_a_replica_at_its_own_address() -> None:
    found = found_in(pod(pod_spec(CHAT, IMAGE)))
    assert found == Found("chat", "chat-1", "u-1", "127.20.0.7", ready=True)
    assert found.url == "http://127.20.0.7:8000"
    assert Found("chat", "c", "u", "fd00::7", ready=True).url == "http://[fd00::7]:8000"


def test_of_a_replica_over_several_nodes_the_leader_alone_answers() -> None:
    assert found_in(pod(pod_spec(SPANNING, IMAGE)))
    assert found_in(pod(pod_spec(SPANNING, IMAGE, leader=False))) is None


@pytest.mark.parametrize(
    "status", [{"podIP": None}, {"phase": "Pending"}, {"phase": "Succeeded"}, {"phase": "Failed"}]
)
def test_a_pod_without_an_address_or_that_has_ended_is_none(status: dict[str, Any]) -> None:
    assert found_in(pod(pod_spec(CHAT, IMAGE), **status)) is None


def test_a_pod_that_is_not_ready_or_goes_away_is_known_and_gets_nothing_new() -> None:
    unready = found_in(pod(pod_spec(CHAT, IMAGE), conditions=[]))
    assert unready
    assert not unready.ready
    leaving = pod(pod_spec(CHAT, IMAGE))
    leaving["metadata"]["deletionTimestamp"] = "2026-11-26T00:00:00Z"
    found = found_in(leaving)
    assert found
    assert not found.ready


@pytest.mark.parametrize("text", [TODAY, EARLIER])
def test_an_engine_s_numbers_are_read_by_today_s_names_and_by_earlier_ones(text: str) -> None:
    assert reading_of(text, 5.0) == Reading(5.0, 7, 3, 0.25, 42, 50, 12.5, TOKENS)


@pytest.mark.parametrize(
    "text", ["", "<html>", "up 1\n", TODAY.replace(" 7.0", " seven"), "vllm:num_requests_running"]
)
def test_what_is_not_an_engine_s_text_is_no_reading(text: str) -> None:
    assert reading_of(text, 5.0) is None


@given(
    model=st.text(st.characters(exclude_categories=["Cs"], exclude_characters='"\\\n'), max_size=9)
)
def test_a_label_s_value_may_hold_braces_and_spaces(model: str) -> None:
    found = reading_of(f'vllm:num_requests_running{{model_name="{model}"}} 4.0\n', 0.0)
    assert found
    assert found.running == 4


def reading(at_s: float, finished: float, queued_s: float = 0.0) -> Reading:
    return Reading(at_s, 1, 0, 0.1, finished, finished, queued_s, 100 * finished)


@given(
    rate=st.floats(0.1, 50), every=st.floats(0.2, 2), count=st.integers(2, 60), wait=st.floats(0, 9)
)
def test_a_steady_replica_s_rates_are_what_it_does(
    rate: float, every: float, count: int, wait: float
) -> None:
    watched = Watched()
    for index in range(count):
        done = rate * every * index
        watched.add(reading(every * index, done, done * wait), 0.0)
        assert watched.readings[-1].at_s - watched.readings[0].at_s < RATES_OVER_S + every + 1e-6
    assert watched.finished_rps() == pytest.approx(rate)
    assert watched.queue_time_s() == pytest.approx(wait, abs=1e-6)


def test_rates_follow_the_last_seconds_and_forget_what_was_before() -> None:
    watched = Watched()
    for second in range(30):
        watched.add(reading(second, second * 2.0), 0.0)
    for second in range(30, 60):
        watched.add(reading(second, 60.0), 0.0)
    assert watched.finished_rps() == 0


def test_a_restarted_engine_has_no_rate_from_before_its_restart() -> None:
    watched = Watched()
    watched.add(reading(0, 1000), 0.0)
    watched.add(reading(1, 1010), 0.0)
    watched.add(reading(2, 3), 0.0)
    assert watched.finished_rps() == 0
    watched.add(reading(3, 8), 0.0)
    assert watched.finished_rps() == 5


def test_a_wall_clock_that_jumps_moves_no_rate() -> None:
    watched = Watched()
    watched.add(reading(0, 0), 1_000_000.0)
    watched.add(reading(2, 8), 50.0)
    assert watched.finished_rps() == 4
    assert watched.seen_at == 50.0


def test_a_replica_that_falls_silent_stops_answering_and_keeps_its_last_numbers() -> None:
    found, watched = Found("chat", "c", "u", "127.0.0.9", ready=True), Watched()
    assert not replica_of(found, "fra1", None, 0).answering
    watched.add(Reading(100, 7, 3, 0.5, 10, 10, 1, 900), 1_700_000_000.0)
    assert replica_of(found, "fra1", watched, 101).answering
    silent = replica_of(found, "fra1", watched, 110)
    assert (silent.answering, silent.running, silent.waiting) == (False, 7, 3)
    assert silent.seen_at == 1_700_000_000.0


def test_an_engine_that_has_work_and_gives_no_token_is_stalled() -> None:
    watched = Watched()
    for at_s, tokens in ((0, 10), (1, 20), (2, 20), (4, 20)):
        watched.add(Reading(at_s, 2, 0, 0.1, 5, 7, 0, tokens), 0)
    assert watched.stalled_s() == 3
    watched.add(Reading(5, 2, 0, 0.1, 5, 7, 0, 21), 0)
    assert watched.stalled_s() == 0


def test_an_idle_engine_is_not_stalled() -> None:
    watched = Watched()
    for at_s in range(10):
        watched.add(Reading(at_s, 0, 0, 0.0, 5, 5, 0, 20), 0)
    assert watched.stalled_s() == 0
    watched.add(Reading(10, 1, 0, 0.1, 5, 6, 0, 20), 0)
    assert watched.stalled_s() <= 1
