"""The gateway: LiteLLM's real proxy with the plugin, in front of engines that stand in."""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import psutil
import pytest
from tests.gateway_situations import DIGEST
from tests.gateway_under_test import CHAT, MESSAGES, UnderTest, gateway_under_test
from tests.stand_in_engine import TEXT, StandIn

from gpufleet.core.gateway import series
from gpufleet.edges.gateway_environment import gateway_python
from gpufleet.edges.in_flight import Board

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnderTest]:
    with gateway_under_test(tmp_path_factory.mktemp("gateway")) as made:
        yield made


@pytest.fixture
def gateway(running: UnderTest) -> UnderTest:
    for engine in (*running.large, running.small, running.api):
        engine.reset()
    running.tell_replicas()
    # Workers look at their files a few times a second.
    time.sleep(0.3)
    return running


@pytest.fixture(scope="module")
def key(running: UnderTest) -> str:
    text = running.new_key("support")
    running.wait(lambda: running.ask(text).is_success)
    return text


def _both(gateway: UnderTest, mode: str) -> None:
    for engine in gateway.large:
        engine.mode = mode


def _events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_an_answer_comes_with_where_it_came_from_and_leaves_a_record(
    gateway: UnderTest, key: str
) -> None:
    answer = gateway.ask(key, max_tokens=100_000)
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    assert answer.headers["x-gpufleet-route"] == "primary"
    assert answer.headers["x-gpufleet-model"] == "large-1"
    sent = [body for engine in gateway.large for body in engine.asked][-1]
    assert (sent["model"], sent["max_tokens"]) == ("large-1", 512)
    assert not [name for name in answer.headers if "litellm" in name or "llm_provider" in name]
    record = gateway.record_of(answer)
    assert (record["status"], record["route"], record["team"]) == (200, "primary", "support")
    assert (record["prompt_tokens"], record["output_tokens"]) == (7, 10)
    assert record["cost"] == "0.0000255"
    assert record["prompt"] is None


def test_a_stream_has_the_same_answer_and_token_counts_only_where_wanted(
    gateway: UnderTest, key: str
) -> None:
    plain = gateway.ask(key)
    streamed = gateway.ask(key, stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.headers["x-gpufleet-route"] == "primary"
    assert streamed.text.endswith("data: [DONE]\n\n")
    events = _events(streamed.text)
    assert "".join(e["choices"][0]["delta"].get("content") or "" for e in events) == TEXT
    assert not any(event.get("usage") for event in events)
    counted = gateway.ask(key, stream=True, stream_options={"include_usage": True})
    assert _events(counted.text)[-1]["usage"]["completion_tokens"] == 10
    assert _events(counted.text)[-1]["choices"] == []
    records = [gateway.record_of(answer) for answer in (plain, streamed)]
    assert records[0]["answer_hash"] == records[1]["answer_hash"] != ""
    assert records[1]["output_tokens"] == 10
    assert 0 < records[1]["ttft_s"] < records[1]["latency_s"]


def test_completions_and_the_list_of_models_work(gateway: UnderTest, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": "assist", "prompt": "hello"}
    answer = httpx.post(f"{gateway.url}/v1/completions", json=body, headers=headers)
    assert answer.json()["choices"][0]["text"] == TEXT
    models = httpx.get(f"{gateway.url}/v1/models", headers=headers).json()["data"]
    assert "assist" in {each["id"] for each in models}
    assert "sales-chat" not in {each["id"] for each in models}


def test_the_official_client_works_unchanged(gateway: UnderTest, key: str) -> None:
    program = f"""
from openai import OpenAI, NotFoundError
client = OpenAI(base_url={gateway.url + "/v1"!r}, api_key={key!r})
said = client.chat.completions.create(model="assist", messages={MESSAGES!r})
print(said.choices[0].message.content)
stream = client.chat.completions.create(model="assist", messages={MESSAGES!r}, stream=True)
print("".join(part.choices[0].delta.content or "" for part in stream if part.choices))
print(client.completions.create(model="assist", prompt="hello").choices[0].text)
print(len(client.models.list().data))
try:
    client.chat.completions.create(model="sales-chat", messages={MESSAGES!r})
except NotFoundError as error:
    print(error.code)
"""
    done = subprocess.run(
        [str(gateway_python(lambda _: None)), "-P", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert lines[:3] == [TEXT] * 3, done.stderr
    assert lines[4] == "model_not_found"


@pytest.mark.parametrize(
    ("mode", "more"), [("errors", {}), ("errors", {"stream": True}), ("hangs", {"stream": True})]
)
def test_another_replica_answers_for_one_that_fails_or_hangs(
    gateway: UnderTest, key: str, mode: str, more: dict[str, Any]
) -> None:
    gateway.large[0].mode = mode
    for _ in range(6):
        answer = gateway.ask(key, **more)
        assert answer.status_code == 200
        assert answer.headers["x-gpufleet-route"] == "primary"
    gateway.large[0].mode = "ok"
    # It is tried again when its time is over, and then serves again.
    gateway.large[0].finished = 0
    gateway.wait(lambda: gateway.ask(key).is_success and gateway.large[0].finished > 0, 40)


@pytest.mark.parametrize("mode", ["truncates", "ends"])
def test_a_stream_that_breaks_off_ends_in_an_error_and_never_as_if_it_were_whole(
    gateway: UnderTest, key: str, mode: str
) -> None:
    _both(gateway, mode)
    answer = gateway.ask(key, "brief", stream=True)
    last = _events(answer.text)[-1]
    assert last["error"]["code"] == "engine_error"
    assert "[DONE]" not in answer.text
    record = gateway.record_of(answer)
    assert (record["error"], record["status"]) == ("engine_error", 200)
    _both(gateway, "ok")
    gateway.wait(lambda: gateway.ask(key, "brief").is_success, 20)


def test_an_engine_that_finds_fault_with_a_request_is_quoted_and_not_blamed(
    gateway: UnderTest, key: str
) -> None:
    _both(gateway, "refuses")
    for stream in (False, True):
        answer = gateway.ask(key, stream=stream)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "longer than the context"
    assert sum(len(engine.asked) for engine in gateway.large) == 2


MALFORMED: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": [1]}]},
    {"messages": [{"role": "user", "content": [{"type": "nonsense"}]}]},
    {"messages": [{"role": "assistant", "content": "x", "tool_calls": 7}]},
    {"messages": [{"role": ["user"], "content": "x"}]},
    {"tools": [1]},
    # These pass here: LiteLLM finds no way to send them.
    {"messages": [{"role": "user", "content": "x", "cache_control": 7, "thinking_blocks": 7}]},
    {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": 7}}]}]},
]


def test_no_key_can_eject_a_replica_with_what_no_replica_has_seen(
    gateway: UnderTest, key: str
) -> None:
    for body in MALFORMED * 4:
        answer = gateway.ask(key, "brief", **body)
        seen = any(engine.asked for engine in gateway.large)
        assert answer.status_code == (200 if seen else 400), body
        for engine in gateway.large:
            engine.asked.clear()
    routes = [gateway.ask(key, "brief").headers["x-gpufleet-route"] for _ in range(6)]
    assert set(routes) == {"primary"}


def test_completions_fail_over_as_chats_do(gateway: UnderTest, key: str) -> None:
    gateway.large[0].mode = "errors"
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": "brief", "prompt": "hello"}
    for _ in range(6):
        answer = httpx.post(f"{gateway.url}/v1/completions", json=body, headers=headers)
        assert answer.status_code == 200


@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_a_client_that_goes_away_ends_the_engines_work(
    gateway: UnderTest, key: str, more: dict[str, Any]
) -> None:
    for engine in gateway.large:
        engine.gap_s = 1.0
    before = len(gateway.records())
    body = json.dumps({"model": "assist", "messages": MESSAGES, **more}).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=15) as client:
        client.sendall(head.encode() + body)
        gateway.wait(lambda: any(engine.asked for engine in gateway.large))
        if more:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    gateway.wait(lambda: sum(engine.cancelled for engine in gateway.large) == 1)
    gateway.wait(lambda: len(gateway.records()) > before)
    assert gateway.records()[-1]["status"] == 499
    with Board(gateway.folder / "board", writes=False) as board:
        gateway.wait(lambda: board.total("use_case:assist") == 0)


def test_a_client_that_does_not_read_is_cut_off_and_no_replica_is_blamed(
    gateway: UnderTest, key: str
) -> None:
    _both(gateway, "floods")
    before = len(gateway.records())
    body = json.dumps({"model": "brief", "messages": MESSAGES, "stream": True}).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", gateway.port))
        client.sendall(head.encode() + body)
        # Silence of a replica would have ended it long before, as an error of the engine.
        gateway.wait(lambda: len(gateway.records()) > before, 60)
    record = gateway.records()[-1]
    assert (record["status"], record["error"]) == (499, "client_gone")
    with Board(gateway.folder / "board", writes=False) as board:
        gateway.wait(lambda: board.total("use_case:brief") == 0)


def test_overload_goes_down_the_ladder(gateway: UnderTest, key: str) -> None:
    with gateway.overload(chat=20):
        answer = gateway.ask(key)
        assert (answer.status_code, answer.headers["x-gpufleet-route"]) == (200, "fallback")
        assert answer.headers["x-gpufleet-reason"] == "predicted time in queue"
        assert answer.headers["x-gpufleet-model"] == "small-1"
        answer = gateway.ask(key, "open")
        assert (answer.status_code, answer.headers["x-gpufleet-route"]) == (200, "hosted")
        assert gateway.api.headers[-1]["Authorization"] == "Bearer sk-hosted"
        assert gateway.record_of(answer)["cost"] == "0.000027"
        for use_case in ("secret", "capped", "brief"):
            refused = gateway.ask(key, use_case)
            assert refused.status_code == 429, use_case
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["code"] == "overloaded"
            assert gateway.record_of(refused)["route"] == "none"
    assert len(gateway.api.asked) == 1


def test_restricted_data_never_leaves_however_replicas_fail(gateway: UnderTest, key: str) -> None:
    _both(gateway, "errors")
    refused = gateway.ask(key, "secret")
    assert refused.status_code == 503, refused.headers
    assert gateway.ask(key, "open").headers["x-gpufleet-route"] == "hosted"
    assert len(gateway.api.asked) == 1
    _both(gateway, "ok")
    gateway.wait(lambda: gateway.ask(key, "secret").is_success, 20)


def test_summary_mode_gives_shorter_answers_and_says_so(gateway: UnderTest, key: str) -> None:
    gateway.api.mode = "errors"
    with gateway.overload(chat=1):
        answer = gateway.ask(key, "brief")
    assert answer.headers["x-gpufleet-route"] == "summary"
    assert answer.headers["x-gpufleet-summary"] == "true"
    sent = [body for engine in gateway.large for body in engine.asked][-1]
    assert sent["max_tokens"] == 20
    assert sent["messages"][0]["role"] == "system"
    assert sent["messages"][1:] == MESSAGES


@pytest.mark.parametrize("mode", ["errors", "hangs"])
def test_a_hosted_api_that_fails_or_hangs_is_not_the_end_of_the_ladder(
    gateway: UnderTest, key: str, mode: str
) -> None:
    gateway.api.mode = mode
    with gateway.overload(chat=1):
        answer = gateway.ask(key, "open", stream=True)
    assert (answer.status_code, answer.headers["x-gpufleet-route"]) == (200, "summary")
    assert len(gateway.api.asked) == 1
    # What the API may have read costs something too: 17 tokens of the pool are all of the rest.
    cost = Decimal(gateway.record_of(answer)["cost"])
    assert (cost > Decimal("0.0000255")) == (mode == "hangs")


def test_a_hosted_api_that_hangs_leaves_time_for_the_next_rung(
    gateway: UnderTest, key: str
) -> None:
    gateway.api.mode = "hangs"
    with gateway.overload(chat=1):
        answer = gateway.ask(key, "hurried")
    assert (answer.status_code, answer.headers["x-gpufleet-route"]) == (200, "summary")


def test_an_answer_is_given_again_to_the_same_key_only(gateway: UnderTest, key: str) -> None:
    other = gateway.new_key("support2")
    gateway.wait(lambda: gateway.ask(other).is_success)
    asked: dict[str, Any] = {"use_case": "repeated", "temperature": 0.25}
    # Each worker has answers of its own; connections are spread over both.
    answers = [gateway.ask(key, **asked) for _ in range(40)]
    routes = [answer.headers["x-gpufleet-route"] for answer in answers]
    assert "cache" in routes
    assert routes.count("primary") <= 2
    assert {answer.json()["choices"][0]["message"]["content"] for answer in answers} == {TEXT}
    again = gateway.record_of(answers[routes.index("cache")])
    assert (again["model"], again["digest"]) == ("large-1", DIGEST)
    assert answers[routes.index("cache")].headers["x-gpufleet-model"] == "large-1"
    assert gateway.ask(other, **asked).headers["x-gpufleet-route"] == "primary"
    hits = [gateway.ask(key, stream=True, **asked) for _ in range(10)]
    streamed = next(hit for hit in hits if hit.headers["x-gpufleet-route"] == "cache")
    assert _events(streamed.text)[0]["choices"][0]["delta"]["content"] == TEXT


def test_a_use_case_has_no_more_in_flight_than_it_may_over_all_workers(
    gateway: UnderTest, key: str
) -> None:
    for engine in gateway.large:
        engine.gap_s = 0.1
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: gateway.ask(key, "narrow"), range(12)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) == 3
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "concurrency_limit"
    assert gateway.ask(key, "narrow").is_success


def test_a_keys_rate_holds_over_all_workers(gateway: UnderTest) -> None:
    limited = {"use_case": "assist", "team": "support", "route": "none", "outcome": "limited"}
    before = gateway.counted(series.REQUESTS, **limited) or 0
    slow = gateway.new_key("slow", rate_rpm=5)
    gateway.wait(lambda: gateway.ask(slow).status_code != 401)
    answers = [gateway.ask(slow) for _ in range(8)]
    assert sum(answer.status_code == 200 for answer in answers) == 4
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 61
    # It is the key's own doing: no availability is spent by it.
    gateway.wait(lambda: (gateway.counted(series.REQUESTS, **limited) or 0) >= before + 4)


def test_a_gap_in_the_records_is_counted_from_0_on(gateway: UnderTest) -> None:
    gateway.wait(lambda: gateway.counted(series.AUDIT_GAPS, use_case="sales-chat") == 0)


def test_a_request_that_takes_too_long_is_ended(gateway: UnderTest, key: str) -> None:
    for engine in gateway.large:
        engine.gap_s = 10
    answer = gateway.ask(key, "quick")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    gateway.wait(lambda: sum(engine.cancelled for engine in gateway.large) == 1)


def test_a_stream_that_goes_on_is_slow_rather_than_broken_off(gateway: UnderTest, key: str) -> None:
    for engine in gateway.large:
        engine.gap_s = 0.3
    answer = gateway.ask(key, "quick", stream=True)
    assert gateway.record_of(answer)["latency_s"] > gateway.use_cases["quick"].timeout_s
    assert answer.text.endswith("data: [DONE]\n\n")


def test_a_stream_that_stands_still_is_ended(gateway: UnderTest, key: str) -> None:
    for engine in gateway.large:
        engine.mode = "stands"
    answer = gateway.ask(key, "quick", stream=True)
    assert "error" in _events(answer.text)[-1]
    assert "[DONE]" not in answer.text


def test_a_revoked_key_is_refused_within_five_seconds(gateway: UnderTest) -> None:
    gone = gateway.new_key("gone")
    gateway.wait(lambda: gateway.ask(gone).is_success)
    del gateway.keys["gone"]
    gateway.tell_keys()
    gateway.wait(lambda: gateway.ask(gone).status_code == 401, 5)


def test_broken_files_change_nothing(gateway: UnderTest, key: str) -> None:
    for name in ("routes.json", "replicas.json", "keys.json"):
        (gateway.folder / name).write_text('{"at": ')
    time.sleep(0.5)
    assert gateway.ask(key).is_success
    gateway.tell_routes()
    gateway.tell_keys()


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, "invalid_request"),
        (b"[]", {}, 400, "invalid_request"),
        (b'{"model": "assist"}', {}, 400, "missing_required_parameter"),
        (b'{"model": "assist", "api_base": "http://evil"}', {}, 400, "unknown_parameter"),
        (b'{"model": "assist", "mock_response": "x"}', {}, 400, "unknown_parameter"),
        (b'{"model": "assist", "metadata": {}}', {}, 400, "unknown_parameter"),
        (b'{"model": "nothing", "messages": [{"role": "user"}]}', {}, 404, "model_not_found"),
        (b'{"model": "sales-chat", "messages": [{"role": "user"}]}', {}, 404, "model_not_found"),
        (b"x" * 200_000, {}, 413, "request_too_large"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Encoding": "gzip"}, 415, "unsupported_encoding"),
        (b"{}", {"x-litellm-tags": "a"}, 400, "bad_header"),
        (b"{}", {"x-gpufleet-route": "primary"}, 400, "bad_header"),
        (b"{}", {"Authorization": "Bearer gf-forged"}, 401, "invalid_api_key"),
        (b"{}", {"Authorization": "Basic eDp5"}, 401, "invalid_api_key"),
        (b"{}", {"Authorization": ""}, 401, "missing_api_key"),
    ],
)
def test_bad_input_is_answered_in_openais_form_and_recorded(
    gateway: UnderTest, key: str, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    sent = {"Content-Type": "application/json", "Authorization": f"Bearer {key}", **headers}
    answer = httpx.post(f"{gateway.url}{CHAT}", content=body, headers=sent)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in answer.text
    record = gateway.record_of(answer)
    assert (record["status"], record["error"], record["route"]) == (status, code, "none")


def test_requests_of_nobody_known_are_all_counted_and_few_have_a_record_each(
    gateway: UnderTest,
) -> None:
    def counted() -> tuple[int, int]:
        refused = [each for each in gateway.records() if each["status"] == 401]
        together = [each for each in refused if each["error"] == "unrecognized"]
        more = sum(int(each["reason"].split()[0]) for each in together)
        return len(refused) - len(together), more

    before = sum(counted())
    with httpx.Client() as client:
        for _ in range(60):
            headers = {"Authorization": "Bearer gf-forged"}
            answer = client.post(f"{gateway.url}{CHAT}", content=b"{}", headers=headers)
            assert answer.status_code == 401
    gateway.wait(lambda: sum(counted()) == before + 60)
    assert counted()[1] > 0


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/ui",
        "/docs",
        "/openapi.json",
        "/metrics",
        "/key/generate",
        "/model/info",
        "/health",
        "/v1/embeddings",
        "/v1//chat/completions",
        "/v1/chat/completions/",
        "/chat/completions",
        "/openai/deployments/assist/chat/completions",
        "/v1/chat/../../key/generate",
    ],
)
def test_nothing_else_is_on_the_public_port(gateway: UnderTest, key: str, path: str) -> None:
    for method in ("GET", "POST"):
        answer = httpx.request(
            method, f"{gateway.url}{path}", headers={"Authorization": f"Bearer {key}"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        record = gateway.record_of(answer)
        assert (record["status"], record["error"], record["key_id"]) == (404, "not_found", "")


def _raw(gateway: UnderTest, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """What is answered to bytes as they are."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=15) as client:
        try:
            for part in parts:
                client.sendall(part)
                time.sleep(pause_s)
            received = b""
            while chunk := client.recv(65536):
                received += chunk
        except (ConnectionResetError, BrokenPipeError):
            return b""
        return received


def test_a_slow_body_is_not_waited_for(gateway: UnderTest, key: str) -> None:
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    )
    answer = _raw(gateway, head.encode(), b"{", b'"', pause_s=0.5)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer


def test_slow_and_endless_headers_are_not_waited_for(gateway: UnderTest) -> None:
    answer = _raw(gateway, b"POST / HTTP/1.1\r\nHost: x\r\n")
    assert answer.startswith(b"HTTP/1.1 408")
    long = b"".join(b"x-%d: %s\r\n" % (n, b"y" * 1000) for n in range(40))
    answer = _raw(gateway, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + long)
    assert answer.startswith(b"HTTP/1.1 431")
    assert _raw(gateway, b"this is no HTTP\r\n\r\n").startswith(b"HTTP/1.1 400")
    codes = {"request_timeout", "headers_too_large", "invalid_http"}
    gateway.wait(lambda: codes <= {record["error"] for record in gateway.records()})


def test_an_empty_line_after_an_answer_keeps_no_connection(gateway: UnderTest) -> None:
    request = b"GET /health/liveliness HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = _raw(gateway, request, b"\r\n", pause_s=0.5)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in answer


def test_two_lengths_or_a_length_and_chunks_are_refused(gateway: UnderTest, key: str) -> None:
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: application/json\r\n"
    )
    tail = "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    for lengths in (
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n\r\n{}  ",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ):
        answer = _raw(gateway, (head + lengths + tail).encode())
        assert b"HTTP/1.1 200" not in answer
        assert answer.count(b"HTTP/1.1") <= 1


def test_a_killed_worker_leaves_nothing_in_flight_and_another_takes_its_place(
    gateway: UnderTest, key: str
) -> None:
    assert gateway.process is not None
    for engine in gateway.large:
        engine.gap_s = 0.3
    parent = psutil.Process(gateway.process.pid)

    def ask() -> int:
        try:
            return gateway.ask(key, "narrow").status_code
        except httpx.TransportError:
            return 0

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    with Board(gateway.folder / "board", writes=False) as board:
        gateway.wait(lambda: board.total("use_case:narrow") == 3)
        workers = parent.children()
        assert len(workers) == 2
        for worker in workers:
            worker.kill()
        gateway.wait(lambda: board.total("use_case:narrow") == 0)
    for thread in threads:
        thread.join()

    def answers() -> bool:
        return ask() == 200

    gateway.wait(answers, 90)
    # Whoever took their place has closed what they left open.
    gateway.wait(lambda: sum(r["error"] == "interrupted" for r in gateway.records()) == 3)


def test_the_engine_that_stands_in_streams_what_it_answers(gateway: UnderTest) -> None:
    engine: StandIn = gateway.small
    answer = httpx.post(f"{engine.url}{CHAT}", json={"stream": True, "messages": MESSAGES})
    assert answer.text.endswith("data: [DONE]\n\n")


def test_a_gateway_that_stops_takes_nobody_new_and_lets_answers_end(
    gateway: UnderTest, key: str
) -> None:
    assert gateway.process is not None
    for engine in gateway.large:
        engine.gap_s = 0.5
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(gateway.ask, key, "brief", stream=True)
        gateway.wait(lambda: any(engine.asked for engine in gateway.large))
        gateway.process.terminate()
        gateway.wait(lambda: not _accepts(gateway))
        assert not answer.done()
        assert answer.result().text.endswith("data: [DONE]\n\n")
    assert gateway.process.wait(60) == 0
    gateway.start()


def _accepts(gateway: UnderTest) -> bool:
    try:
        socket.create_connection(("127.0.0.1", gateway.port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True
