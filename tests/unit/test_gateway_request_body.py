"""What a client may send, and what goes on to an engine."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway_situations import route

from gpufleet.core.gateway.request_body import (
    Asked,
    passed_on,
    prompt_tokens_estimate,
    read_body,
    tokens_allowed,
)
from gpufleet.core.gateway.request_shapes import Unacceptable

GOOD = {"model": "assist", "messages": [{"role": "user", "content": "hello"}]}
SMUGGLED = [
    "api_base",
    "api_key",
    "base_url",
    "cache",
    "caching",
    "custom_llm_provider",
    "extra_body",
    "extra_headers",
    "fallbacks",
    "metadata",
    "litellm_metadata",
    "mock_response",
    "mock_testing_fallbacks",
    "num_retries",
    "proxy_server_request",
    "router_settings_override",
    "timeout",
    "user_config",
    "vllm_xargs",
]
FULL: dict[str, Any] = {
    "model": "assist",
    "messages": [
        {"role": "system", "content": "be brief", "name": "x"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,x"}}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "12"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
        }
    ],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
    "logit_bias": {"5": 1.5},
    "stop": ["a", "b"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "n": 2,
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _read(body: object, *, chat: bool = True) -> Asked:
    return read_body(json.dumps(body).encode(), chat=chat)


def _said(**message: object) -> dict[str, object]:
    return {"model": "assist", "messages": [{"role": "user", "content": "x", **message}]}


def _places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every value in a JSON value, its own first."""
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [path, *(found for key, each in inner for found in _places(each, (*path, key)))]


@pytest.mark.parametrize("name", SMUGGLED)
def test_fields_that_only_the_gateway_may_set_are_refused_by_name(name: str) -> None:
    with pytest.raises(Unacceptable) as refused:
        _read({**GOOD, name: "x"})
    assert refused.value.parameter == name


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"messages": GOOD["messages"]}, "model"),
        ({"model": "assist"}, "messages"),
        ({**GOOD, "messages": []}, "messages"),
        ({**GOOD, "messages": ["hello"]}, "messages[0]"),
        ({**GOOD, "messages": [{"role": "root", "content": "x"}]}, "messages[0].role"),
        ({**GOOD, "messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({**GOOD, "messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        (_said(content=[1]), "messages[0].content[0]"),
        (_said(content=[]), "messages[0].content"),
        (_said(content=[{"type": "nonsense"}]), "messages[0].content[0].type"),
        (_said(content=[{"type": ["text"]}]), "messages[0].content[0].type"),
        (_said(content=[{"type": "text"}]), "messages[0].content[0].text"),
        (
            _said(content=[{"type": "image_url", "image_url": {}}]),
            "messages[0].content[0].image_url.url",
        ),
        (_said(tool_calls=7), "messages[0].tool_calls"),
        (_said(tool_calls=[7]), "messages[0].tool_calls[0]"),
        (_said(function_call=7), "messages[0].function_call"),
        (_said(name=7), "messages[0].name"),
        ({**GOOD, "tools": [1]}, "tools[0]"),
        ({**GOOD, "tools": [{"type": "function"}]}, "tools[0].function"),
        ({**GOOD, "tool_choice": "perhaps"}, "tool_choice"),
        ({**GOOD, "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({**GOOD, "response_format": {"type": "xml"}}, "response_format.type"),
        (
            {**GOOD, "response_format": {"type": "json_schema", "json_schema": 1}},
            "response_format.json_schema",
        ),
        ({**GOOD, "stop": [1]}, "stop"),
        ({**GOOD, "logit_bias": {"1": "x"}}, "logit_bias"),
        ({**GOOD, "max_tokens": 0}, "max_tokens"),
        ({**GOOD, "max_tokens": True}, "max_tokens"),
        ({**GOOD, "max_tokens": "9"}, "max_tokens"),
        ({**GOOD, "n": 1000}, "n"),
        ({**GOOD, "temperature": 1e300}, "temperature"),
        ({**GOOD, "stream": "yes"}, "stream"),
        ({**GOOD, "stream_options": {"x": 1}}, "stream_options"),
        ([], None),
        ("x", None),
    ],
)
def test_a_value_that_is_not_accepted_is_named(body: object, parameter: str | None) -> None:
    with pytest.raises(Unacceptable) as refused:
        _read(body)
    assert refused.value.parameter == parameter


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"model": NaN}',
        b'{"a":' * 200_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"nul",
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"model": "m", "prompt": "x", "logit_bias": {"1": -1e999}}',
        b'{"model": "m", "prompt": "x", "tools": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"n": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_no_json_is_refused_in_a_sentence(raw: bytes) -> None:
    with pytest.raises(Unacceptable) as refused:
        read_body(raw, chat=True)
    assert "Traceback" not in str(refused.value)
    assert len(str(refused.value)) < 300


@given(raw=st.binary(max_size=200), chat=st.booleans())
def test_whatever_comes_is_read_or_refused(raw: bytes, chat: bool) -> None:  # noqa: FBT001 - hypothesis gives it
    with contextlib.suppress(Unacceptable):
        assert read_body(raw, chat=chat).use_case


def test_everything_that_an_engine_understands_goes_on() -> None:
    assert _read(FULL).body["tools"] == FULL["tools"]
    _read({"model": "m", "prompt": [[1, 2], [3]]}, chat=False)


@given(place=st.sampled_from(_places(FULL)[1:]), value=json_values)
def test_a_good_body_with_any_value_exchanged_is_read_or_refused(
    place: tuple[str | int, ...], value: object
) -> None:
    body = json.loads(json.dumps(FULL))
    inner = body
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with contextlib.suppress(Unacceptable):
        asked = _read(body)
        assert json.loads(asked.prompt) == body["messages"]
        passed_on(asked, route(), "large-1")


@given(more=st.dictionaries(st.text(min_size=1), json_values, max_size=4))
def test_only_the_allowlist_ever_goes_on_to_an_engine(more: dict[str, Any]) -> None:
    try:
        asked = _read({**more, **GOOD})
    except Unacceptable:
        return
    body = passed_on(asked, route(), "large-1")
    assert set(body) <= {"model", "messages", "max_tokens"} | set(more)
    assert body["model"] == "large-1"
    assert "user" not in body


@given(
    wanted=st.none() | st.integers(1, 10**6),
    most=st.integers(1, 10**5),
    short=st.none() | st.integers(1, 10**5),
    summary=st.booleans(),
)
def test_an_answer_is_never_longer_than_the_use_case_or_its_summary_allows(
    wanted: int | None, most: int, short: int | None, *, summary: bool
) -> None:
    declared = route(output_max_tokens=most, summary_tokens=short)
    asked = _read({**GOOD, **({"max_completion_tokens": wanted} if wanted else {})})
    tokens = tokens_allowed(asked, declared, summary=summary)
    assert 1 <= tokens <= most
    if summary and short is not None:
        assert tokens <= short
    if wanted is not None:
        assert tokens <= wanted
    assert passed_on(asked, declared, "m", summary=summary)["max_tokens"] == tokens


def test_summary_mode_puts_its_instruction_before_the_clients_messages() -> None:
    asked = _read(GOOD)
    body = passed_on(asked, route(summary_tokens=50), "m", summary=True)
    assert body["messages"][0]["role"] == "system"
    assert "30 words" in body["messages"][0]["content"]
    assert body["messages"][1:] == GOOD["messages"]
    assert asked.body["messages"] == GOOD["messages"]


def test_token_counts_of_streams_are_asked_for_always_and_told_only_where_wanted() -> None:
    asked = _read({**GOOD, "stream": True})
    assert passed_on(asked, route(), "m")["stream_options"] == {"include_usage": True}
    assert not asked.usage_wanted
    assert _read({**GOOD, "stream": True, "stream_options": {"include_usage": True}}).usage_wanted
    assert "stream_options" not in passed_on(_read(GOOD), route(), "m")


@given(text=st.text(max_size=400))
def test_a_longer_prompt_is_never_estimated_shorter(text: str) -> None:
    less = _read({"model": "m", "prompt": text or "x"}, chat=False)
    more = _read({"model": "m", "prompt": (text or "x") + text + "x"}, chat=False)
    assert prompt_tokens_estimate(more) >= prompt_tokens_estimate(less) >= 1


def test_tools_are_part_of_what_a_prompt_may_cost() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 1000}}
    more = prompt_tokens_estimate(_read({**GOOD, "tools": [tool]}))
    assert more >= prompt_tokens_estimate(_read(GOOD)) + 500
