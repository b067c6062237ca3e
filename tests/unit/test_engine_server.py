"""The simulated engine over HTTP: what OpenAI's clients and vLLM's monitors see."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.engines import SETTINGS, Served, served, slower, until

from gpufleet.core import engine_metrics as names
from gpufleet.local.engine.faults import Faults
from gpufleet.local.engine.series import EARLIER_NAMES
from gpufleet.local.engine.settings import EngineSettings
from gpufleet.spec.simulation import Fault, FaultKind

Ask = Callable[[Served], Awaitable[None]]


def check(ask: Ask, settings: EngineSettings = SETTINGS, faults: Faults | None = None) -> None:
    async def run() -> None:
        async with served(settings, lambda: faults or Faults()) as engine:
            await ask(engine)

    asyncio.run(run())


def samples(text: str) -> dict[str, float]:
    """Every sample without labels of its own, by name."""
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.keys() == {"model_name"}
    }


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_an_answer_says_everywhere_that_it_is_simulated() -> None:
    async def ask(engine: Served) -> None:
        response = await engine.chat()
        answer = await response.json()
        assert response.headers["Server"] == "gpufleet-simulated-engine"
        assert answer["system_fingerprint"] == "simulated"
        assert answer["choices"][0]["message"]["content"].startswith("[simulated]")
        version = await (await engine.client.get(f"{engine.url}/version")).json()
        assert "simulated" in version["version"]
        assert samples(await engine.metrics())["gpufleet_simulated_engine"] == 1

    check(ask)


def test_the_same_prompt_has_the_same_answer_of_the_same_revision_only() -> None:
    contents: list[str] = []

    async def ask(engine: Served) -> None:
        for prompt in ("one", "one", "two"):
            answer = await (await engine.chat(prompt)).json()
            contents.append(answer["choices"][0]["message"]["content"])

    check(ask)
    check(ask, replace(SETTINGS, digest="sha256:2"))
    first, again, second, *other = contents
    assert first == again == contents[0]
    assert len({first, second, other[0], other[2]}) == 4


def test_answers_are_as_long_as_declared_and_never_longer_than_allowed() -> None:
    async def ask(engine: Served) -> None:
        answers = await asyncio.gather(*(engine.chat(f"prompt {at}") for at in range(100)))
        bodies = [await answer.json() for answer in answers]
        lengths = [body["usage"]["completion_tokens"] for body in bodies]
        assert 30 < sum(lengths) / len(lengths) < 50
        assert {body["choices"][0]["finish_reason"] for body in bodies} == {"stop"}
        cut = await (await engine.chat("prompt 1", max_tokens=3)).json()
        assert cut["usage"]["completion_tokens"] == 3
        assert cut["choices"][0]["finish_reason"] == "length"
        exact = await (await engine.chat("prompt 1", max_tokens=321, ignore_eos=True)).json()
        assert exact["usage"]["completion_tokens"] == 321
        assert len(exact["choices"][0]["message"]["content"].split()) == 321

    check(ask)


def test_a_stream_gives_the_same_text_in_parts_and_the_usage_where_it_is_wanted() -> None:
    async def ask(engine: Served) -> None:
        whole = await (await engine.chat(max_tokens=60, min_tokens=60)).json()
        usage = {"include_usage": True}
        response = await engine.chat(
            max_tokens=60, min_tokens=60, stream=True, stream_options=usage
        )
        text = await response.text()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert text.endswith("data: [DONE]\n\n")
        *parts, last = events(text)
        deltas = [part["choices"][0]["delta"]["content"] for part in parts]
        assert "".join(deltas) == whole["choices"][0]["message"]["content"]
        assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
        assert parts[-1]["choices"][0]["finish_reason"] == "length"
        assert (last["choices"], last["usage"]) == ([], whole["usage"])
        assert len({part["id"] for part in parts}) == 1
        # 120 ms of tokens, in parts that are at least 50 ms apart: the first, two more, the last.
        assert len(parts) <= 4
        without = await (await engine.chat(max_tokens=5, stream=True)).text()
        assert all("usage" not in part for part in events(without))

    check(ask)


def test_completions_take_texts_and_tokens() -> None:
    async def ask(engine: Served) -> None:
        for prompt, tokens in (("abcdefgh", 2), ([1, 2, 3], 3), (["abcd"], 1)):
            body = {"model": "small", "prompt": prompt, "max_tokens": 4}
            response = await engine.client.post(f"{engine.url}/v1/completions", json=body)
            answer = await response.json()
            assert answer["object"] == "text_completion"
            assert answer["usage"]["prompt_tokens"] == tokens
            assert answer["choices"][0]["text"].startswith("[simulated]")

    check(ask)


def test_the_only_model_is_listed_with_its_digest() -> None:
    async def ask(engine: Served) -> None:
        listed = await (await engine.client.get(f"{engine.url}/v1/models")).json()
        (model,) = listed["data"]
        assert (model["id"], model["root"], model["max_model_len"]) == ("small", "sha256:1", 4096)

    check(ask)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ('{"model": ', 400, "not JSON"),
        ("[1]", 400, "not a JSON object"),
        ("[" * 100_000, 400, "not JSON"),
        ('{"model": "small"}', 400, "messages has to be a list"),
        ('{"model": "small", "messages": [1]}', 400, "role"),
        ('{"model": "other", "messages": [{"role": "user"}]}', 404, "does not exist"),
        ('{"model": "small", "messages": [{"role": "user"}], "max_tokens": 0}', 400, "at least 1"),
        ('{"model": "small", "messages": [{"role": "user"}], "n": 2}', 400, "n = 1"),
        (
            '{"model": "small", "messages": [{"role": "user"}], "max_tokens": 4096}',
            400,
            "maximum context length is 4096 tokens",
        ),
        (
            json.dumps(
                {"model": "small", "messages": [{"role": "user", "content": "long " * 4000}]}
            ),
            400,
            "maximum context length is 4096 tokens",
        ),
    ],
)
def test_bad_input_is_an_error_as_openai_writes_it(body: str, status: int, message: str) -> None:
    async def ask(engine: Served) -> None:
        response = await engine.client.post(f"{engine.url}/v1/chat/completions", data=body)
        assert response.status == status
        error = (await response.json())["error"]
        assert message in error["message"]
        assert (error["code"], "Traceback" in error["message"]) == (status, False)
        assert engine.engine.batch.running == 0

    check(ask)


def test_a_client_that_is_gone_frees_its_place_in_mid_wait_and_in_mid_stream() -> None:
    async def ask(engine: Served) -> None:
        batch = engine.engine.batch
        waits = asyncio.create_task(engine.chat(max_tokens=4000, ignore_eos=True))
        stream = await engine.chat(max_tokens=4000, ignore_eos=True, stream=True)
        await until(lambda: batch.running == 2)
        await stream.content.readany()
        stream.close()
        await until(lambda: batch.running == 1)
        waits.cancel()
        await until(lambda: batch.running == 0)
        assert 'finished_reason="abort"} 2' in await engine.metrics()

    check(ask, slower(0.05))


def test_series_tell_what_happened_by_vllm_s_names() -> None:
    async def ask(engine: Served) -> None:
        await asyncio.gather(*(engine.chat(max_tokens=20, ignore_eos=True) for _ in range(20)))
        found = samples(await engine.metrics())
        assert found[names.RUNNING] == found[names.WAITING] == found[names.KV_USAGE] == 0
        assert found[names.GENERATION_TOKENS] == 400
        assert found[names.PROMPT_TOKENS] == 20 * 7
        for series in (names.TTFT, names.E2E, names.QUEUE_TIME, names.DECODE_TIME):
            assert found[f"{series}_count"] == 20
        assert found[f"{names.TOKEN_TIME}_count"] == 20 * 19
        # Eight at once: the last waited for two others.
        assert found[f"{names.QUEUE_TIME}_sum"] > 4 * 0.04
        assert found[f"{names.E2E}_sum"] > found[f"{names.DECODE_TIME}_sum"] > 20 * 0.03

    check(ask)


def test_bounds_are_those_of_the_declared_buckets() -> None:
    async def ask(engine: Served) -> None:
        text = await engine.metrics()
        for series, bounds in (
            (names.TTFT, names.TTFT_BOUNDS_S),
            (names.TOKEN_TIME, names.TOKEN_BOUNDS_S),
            (names.E2E, names.REQUEST_BOUNDS_S),
        ):
            (family,) = (f for f in text_string_to_metric_families(text) if f.name == series)
            told = [s.labels["le"] for s in family.samples if s.name.endswith("_bucket")]
            assert told == [*(str(float(bound)) for bound in bounds), "+Inf"]

    check(ask)


def test_earlier_names_are_read_as_today_s() -> None:
    async def ask(engine: Served) -> None:
        await engine.chat(max_tokens=2)
        found = samples(await engine.metrics())
        assert names.KV_USAGE not in found
        assert "vllm:gpu_cache_usage_perc" in found
        assert {names.canonical(name) for name in found} >= {
            names.KV_USAGE,
            f"{names.TOKEN_TIME}_count",
        }

    check(ask, replace(SETTINGS, metric_names=EARLIER_NAMES))


def test_what_is_not_served_is_not_found() -> None:
    async def ask(engine: Served) -> None:
        assert (await engine.client.get(f"{engine.url}/v1/embeddings")).status == 404
        assert (await engine.client.get(f"{engine.url}/v1/completions")).status == 405
        assert (await engine.client.get(f"{engine.url}/health")).status == 200

    check(ask)


def faulty(kind: FaultKind, **more: float) -> Faults:
    faults = Faults()
    faults.begin(Fault(kind=kind, **more))
    return faults


def test_errors_hit_the_declared_share_of_requests() -> None:
    async def ask(engine: Served) -> None:
        statuses = [(await engine.chat(max_tokens=1)).status for _ in range(12)]
        assert statuses.count(500) == 3

    check(ask, faults=faulty(FaultKind.ERRORS, share=0.25))


def test_a_truncated_stream_ends_without_a_word() -> None:
    async def ask(engine: Served) -> None:
        response = await engine.chat(max_tokens=100, ignore_eos=True, stream=True)
        text = await response.text()
        parts = events(text)
        assert "[DONE]" not in text
        assert parts
        assert all(part["choices"][0]["finish_reason"] is None for part in parts)
        await until(lambda: engine.engine.batch.running == 0)

    check(ask, faults=faulty(FaultKind.TRUNCATE))


def test_changed_answers_are_other_ones_of_the_same_form() -> None:
    contents: list[str] = []

    async def ask(engine: Served) -> None:
        answer = await (await engine.chat()).json()
        contents.append(answer["choices"][0]["message"]["content"])

    check(ask)
    check(ask, faults=faulty(FaultKind.ANSWERS))
    assert contents[0] != contents[1]
    assert all(content.startswith("[simulated]") for content in contents)


def test_a_hung_engine_accepts_and_answers_nothing_but_its_metrics_until_it_goes_on() -> None:
    async def ask(engine: Served) -> None:
        running = asyncio.create_task(engine.chat(max_tokens=30, ignore_eos=True))
        await until(lambda: engine.engine.batch.running == 1)
        engine.engine.hang()
        asked = asyncio.create_task(engine.chat(max_tokens=1))
        health = asyncio.create_task(engine.client.get(f"{engine.url}/health"))
        await until(lambda: engine.engine.batch.waiting == 1)
        found = samples(await engine.metrics())
        assert (found[names.RUNNING], found[names.WAITING]) == (1, 1)
        assert not any(task.done() for task in (running, asked, health))
        engine.engine.go_on()
        answers = await asyncio.gather(running, asked, health)
        assert [answer.status for answer in answers] == [200, 200, 200]

    check(ask)
