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
    Unacceptable,
    passed_on,
    prompt_tokens_estimate,
    read_body,
    tokens_allowed,
)

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
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _read(body: object, *, chat: bool = True) -> Asked:
    return read_body(json.dumps(body).encode(), chat=chat)


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
