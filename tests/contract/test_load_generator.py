"""The load generator against a server of known times and faults."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.openai_server import OpenAiServer

from gpufleet.core.serving_bench.prompts import Prompts
from gpufleet.core.serving_bench.results import Targets, summary
from gpufleet.edges.load_generator import Levels, Load, Target, closed_load, open_load
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec.errors import BadInput
from gpufleet.spec.serving_bench import LoadProgress, Sending

TTFT_S, TPOT_S = 0.02, 0.002
PROMPT = Prompts(1).text


@pytest.fixture
def server() -> Iterator[OpenAiServer]:
    with OpenAiServer(TTFT_S, TPOT_S).serving() as made:
        yield made


def nobody(_: LoadProgress) -> None:
    """Nobody looks."""


def due(count: int, *, every_s: float = 0.01, streamed: bool = True) -> list[Sending]:
    return [Sending(every_s * index, 50, 100, streamed) for index in range(count)]


def sent(server: OpenAiServer, model: str = "model", *, streamed: bool = True) -> Load:
    return open_load(Target(server.url, model), due(20, streamed=streamed), PROMPT, nobody)


@pytest.mark.parametrize("streamed", [True, False])
def test_every_request_is_answered_and_counted(server: OpenAiServer, *, streamed: bool) -> None:
    load = sent(server, streamed=streamed)
    assert len(load.outcomes) == 20
    for each in load.outcomes:
        assert (each.error, each.status) == ("", 200)
        assert (each.prompt_tokens, each.output_tokens) == (50, 100)
        assert each.latency_s >= TTFT_S + 99 * TPOT_S
        assert each.first_byte_s is not None
        assert each.scheduled_s <= each.sent_s <= each.first_byte_s <= each.ended_s
        assert (each.first_token_s is not None) == streamed
        if each.ttft_s is not None and each.tpot_s is not None:
            assert TTFT_S <= each.ttft_s < each.latency_s
            assert each.tpot_s > 0
            assert each.chunks > 1


def test_a_request_has_what_was_asked_for(server: OpenAiServer) -> None:
    target = Target(server.url, 'a"b', key="secret", whole_lengths=True)
    open_load(target, [Sending(0.0, 7, 9, streamed=True)], PROMPT, nobody)
    (asked,) = server.asked
    assert asked["model"] == 'a"b'
    assert asked["authorization"] == "Bearer secret"
    assert asked["max_tokens"] == 9
    assert asked["ignore_eos"] is True
    assert asked["stream_options"] == {"include_usage": True}
    assert len(asked["messages"][0]["content"].split()) == 7
    assert "secret" not in repr(target)


@pytest.mark.parametrize(
    ("model", "streamed", "error"),
    [
        ("busy", False, "http_429"),
        ("broken", False, "malformed"),
        ("truncated", True, "truncated"),
        ("error-in-stream", True, "stream_error"),
    ],
)
def test_an_error_has_its_kind(
    server: OpenAiServer, model: str, error: str, *, streamed: bool
) -> None:
    load = sent(server, model, streamed=streamed)
    assert [each.error for each in load.outcomes] == [error] * 20


def test_a_server_that_is_not_there_and_one_that_hangs(server: OpenAiServer) -> None:
    gone = open_load(Target("http://127.0.0.1:1/v1", "model"), due(3), PROMPT, nobody)
    assert [each.error for each in gone.outcomes] == ["connect"] * 3
    hung = open_load(Target(server.url, "hangs", timeout_s=0.3), due(3), PROMPT, nobody)
    assert [each.error for each in hung.outcomes] == ["timeout"] * 3


def test_a_slow_server_does_not_slow_the_load() -> None:
    """Open loop: all are sent at their time, and those that had to wait show it."""
    with OpenAiServer(0.2, 0.0, slots=1).serving() as server:
        load = open_load(Target(server.url, "model"), due(10, every_s=0.02), PROMPT, nobody)
    report = summary(load.outcomes, load.elapsed_s, Targets(latency_s=1.0))
    assert report["answered"] == 10
    # One at a time: the last has waited for all before it.
    assert report["latency_s"].max >= 10 * 0.2 - 9 * 0.02
    assert max(each.in_flight for each in load.outcomes) > 5
    assert report["within_slo"] < 1


def test_a_level_is_held_while_it_is_measured(server: OpenAiServer) -> None:
    levels = Levels((1, 8), Sending(0.0, 50, 50, streamed=True), 1.0)
    load, held = closed_load(Target(server.url, "model"), levels, PROMPT, nobody)
    assert not load.interrupted
    for level, concurrency in zip(held, (1, 8), strict=True):
        assert level.concurrency == concurrency
        assert len(level.outcomes) >= 2 * concurrency
        assert {each.error for each in level.outcomes} == {""}
        # The first of each place does not count: the level was not yet whole.
        assert max(each.in_flight for each in level.outcomes) == concurrency
        assert level.held_s > 0


def test_the_task_reports_and_ctrl_c_ends_it_with_what_was_measured(server: OpenAiServer) -> None:
    command = [
        *(sys.executable, "-P", "-m", "gpufleet.tasks", "bench.serve", "--json"),
        *("--url", server.url, "--model", "model", "--rate", "20", "--duration-s", "600"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT / "modules")}
    task = subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=PROJECT_ROOT, env=environment, text=True
    )
    deadline = time.monotonic() + 60
    while len(server.asked) < 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    task.send_signal(signal.SIGINT)
    told, _ = task.communicate(timeout=60)
    assert task.returncode == 130
    report = json.loads(told)
    assert report["interrupted"]
    assert report["answered"] >= 10
    assert report["failed"] == 0


def test_the_ca_file_has_to_be_one(tmp_path: Path) -> None:
    target = Target("https://127.0.0.1:1/v1", "model", ca_file=tmp_path / "none.pem")
    with pytest.raises(BadInput, match="authority"):
        open_load(target, due(1), PROMPT, nobody)


def test_vegeta_reads_every_request(server: OpenAiServer, tmp_path: Path) -> None:
    """The lines that `vegeta report` takes, as its own encoder writes them."""
    file = tmp_path / "requests.json"
    command = [
        *(sys.executable, "-P", "-m", "gpufleet.tasks", "bench.serve", "--json"),
        *("--url", server.url, "--model", "model", "--rate", "20", "--duration-s", "1"),
        *("--requests-file", str(file)),
    ]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT / "modules")}
    done = subprocess.run(
        command, capture_output=True, cwd=PROJECT_ROOT, env=environment, text=True, check=False
    )
    # 5 where the machine is too busy to send them in time: that is told, and is no failure here.
    assert done.returncode in {0, 5}, done.stderr
    report = json.loads(done.stdout)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == report["requests"]
    assert {each["code"] for each in lines} == {200}
    mean_s = sum(each["latency"] for each in lines) / len(lines) / 1e9
    assert mean_s == pytest.approx(report["latency_s"]["mean"], abs=1e-4)
    vegeta = shutil.which("vegeta")
    if vegeta is None:
        return
    told = subprocess.run(
        [vegeta, "report", "-type=json", file], capture_output=True, text=True, check=True
    )
    read = json.loads(told.stdout)
    assert read["requests"] == report["requests"]
    assert read["latencies"]["mean"] / 1e9 == pytest.approx(mean_s, rel=1e-3)
