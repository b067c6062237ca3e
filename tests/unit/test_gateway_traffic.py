"""Where one worker sends requests, over files, counters and a ledger as they are."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from tests import gateway_situations as declared

from gpufleet.core.gateway.ladder import Decision, Way
from gpufleet.core.gateway.outliers import CONSECUTIVE_FAILURES
from gpufleet.core.gateway.request_body import read_body
from gpufleet.edges.in_flight import Board
from gpufleet.edges.spend_ledger import SpendLedger
from gpufleet.spec.gateway import Replica
from gpufleet_gateway.folder import Folder
from gpufleet_gateway.traffic import Target, Traffic, hosted_uid


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUFLEET_HOSTED_KEY", "sk-hosted")
    use_cases = {
        "assist": declared.route(),
        "open": declared.route(data_class="public", hosted=declared.hosted()),
    }
    routes = declared.routes(use_cases, {"chat": declared.pool_route()})
    (tmp_path / "routes.json").write_text(routes.model_dump_json(by_alias=True))
    return tmp_path


def _traffic(folder: Path, *replicas: Replica) -> Traffic:
    known = declared.replicas(chat=list(replicas))
    (folder / "replicas.json").write_text(known.model_dump_json())
    return Traffic(Folder(folder), Board(folder / "board"), SpendLedger(folder / "spend.sqlite"))


def _place(
    traffic: Traffic, use_case: str, *tried: str, content: object = "hello", stream: bool = False
) -> Target | Decision:
    message = {"role": "user", "content": content}
    body = {"model": use_case, "messages": [message], "stream": stream}
    asked = read_body(json.dumps(body).encode(), chat=True)
    return asyncio.run(traffic.place(f"r{time.monotonic_ns()}", use_case, asked, tried))


def test_one_failed_attempt_makes_no_use_case_overflow(folder: Path) -> None:
    traffic = _traffic(folder, declared.replica())
    first = _place(traffic, "assist")
    assert isinstance(first, Target)
    again = _place(traffic, "assist", "u0")
    assert isinstance(again, Decision)
    assert again.way is Way.NONE
    assert not traffic.overflows("assist")


def test_a_pool_without_replicas_does_make_it_overflow(folder: Path) -> None:
    traffic = _traffic(folder)
    assert isinstance(_place(traffic, "assist"), Decision)
    assert traffic.overflows("assist")


def test_a_hosted_api_that_fails_again_and_again_is_left_out_for_its_use_case(
    folder: Path,
) -> None:
    traffic = _traffic(folder)
    for _ in range(CONSECUTIVE_FAILURES):
        target = _place(traffic, "open")
        assert isinstance(target, Target)
        assert target.decision.way is Way.HOSTED
        assert target.attempt is not None
        traffic.outliers.failed(target.attempt, time.monotonic(), ())
    left_out = _place(traffic, "open")
    assert isinstance(left_out, Decision)
    assert left_out.way is Way.NONE
    assert traffic.outliers.ejected([hosted_uid("open")], time.monotonic())


def test_a_hosted_stream_without_a_byte_costs_its_prompt_and_a_whole_answer_all(
    folder: Path,
) -> None:
    traffic = _traffic(folder)
    streamed, whole = _place(traffic, "open", stream=True), _place(traffic, "open")
    assert isinstance(streamed, Target)
    assert isinstance(whole, Target)
    assert 0 < streamed.cost_unanswered < whole.cost_unanswered


def test_what_has_no_length_in_tokens_goes_to_no_hosted_api(folder: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}
    refused = _place(_traffic(folder), "open", content=[image])
    assert isinstance(refused, Decision)
    text = _place(_traffic(folder), "open", content=[{"type": "text", "text": "hello"}])
    assert isinstance(text, Target)
