"""What a client may send, and what goes on to an engine: an allowlist, with clear refusals."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gpufleet.core.gateway.request_shapes import (
    Unacceptable,
    check_lists,
    check_messages,
    check_nesting,
    check_tools,
    has_only_text,
    wrong,
)
from gpufleet.spec.gateway import Route

MOST_ANSWERS: Final = 8
"""Of one request (`n`): each takes a place at the engine."""
SUMMARY_INSTRUCTION: Final = (
    "The service is busy: answer with a short summary of what matters most, in at most {words} "
    "words."
)
_WORDS_PER_TOKEN: Final = 0.6
"""English text has about 0.75 words a token; the rest is a margin, so that answers end."""

_NUMBER: Final = (int, float)
_COMMON: Final[Mapping[str, tuple[type, ...]]] = {
    "model": (str,),
    "stream": (bool,),
    "stream_options": (dict,),
    "max_tokens": (int,),
    "n": (int,),
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "stop": (str, list),
    "presence_penalty": _NUMBER,
    "frequency_penalty": _NUMBER,
    "logit_bias": (dict,),
    "seed": (int,),
    "user": (str,),
}
_CHAT: Final[Mapping[str, tuple[type, ...]]] = {
    **_COMMON,
    "messages": (list,),
    "max_completion_tokens": (int,),
    "logprobs": (bool,),
    "top_logprobs": (int,),
    "response_format": (dict,),
    "tools": (list,),
    "tool_choice": (str, dict),
    "parallel_tool_calls": (bool,),
    "reasoning_effort": (str,),
}
_COMPLETION: Final[Mapping[str, tuple[type, ...]]] = {
    **_COMMON,
    "prompt": (str, list),
    "suffix": (str,),
    "echo": (bool,),
    "logprobs": (int,),
}
_STREAM_OPTIONS: Final = frozenset({"include_usage", "include_obfuscation"})


@dataclass(frozen=True)
class Asked:
    """A request that is in order."""

    chat: bool
    use_case: str
    stream: bool
    usage_wanted: bool
    """Whether the client wants the token counts of a stream."""
    answers: int
    body: Mapping[str, Any] = field(repr=False)
    """As it came, without fields that are null."""

    @property
    def only_text(self) -> bool:
        """Whether its length can be told from its bytes: it has no images, sounds or files."""
        return not self.chat or has_only_text(self.body["messages"])

    @property
    def prompt(self) -> str:
        """What was asked, as one text in one form: what is hashed and cached by."""
        return json.dumps(
            self.body["messages" if self.chat else "prompt"],
            ensure_ascii=False,
            sort_keys=True,
            separators=(",", ":"),
        )


def read_body(raw: bytes, *, chat: bool) -> Asked:
    """Check a body.

    Raises:
        Unacceptable: it is no JSON object, lacks what is needed, or has a field or a value that is
            not accepted. Fields that only the gateway may set are unknown like any other.
    """
    try:
        body = json.loads(raw, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise Unacceptable(f"The body is not valid JSON: {_short(error)}.", None) from error
    if not isinstance(body, dict):
        raise Unacceptable("The body has to be a JSON object.", None)
    body = {name: value for name, value in body.items() if value is not None}
    accepted = _CHAT if chat else _COMPLETION
    for name, value in body.items():
        kinds = accepted.get(name)
        if kinds is None:
            raise Unacceptable(f"Unknown parameter: {name[:60]!r}.", name[:60], "unknown_parameter")
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise wrong(name, f"has to be {_kinds(kinds)}")
    needed = "messages" if chat else "prompt"
    for name in ("model", needed):
        if not body.get(name):
            raise Unacceptable(
                f"Missing required parameter: {name!r}.", name, "missing_required_parameter"
            )
    check_nesting(body)
    _check_numbers(body)
    check_lists(body)
    if chat:
        check_messages(body["messages"])
        check_tools(body)
    options = body.get("stream_options", {})
    if not options.keys() <= _STREAM_OPTIONS:
        raise wrong("stream_options", f"may have {' and '.join(sorted(_STREAM_OPTIONS))}")
    return Asked(
        chat=chat,
        use_case=body["model"],
        stream=body.get("stream", False),
        usage_wanted=options.get("include_usage") is True,
        answers=body.get("n", 1),
        body=body,
    )


def tokens_allowed(asked: Asked, route: Route, *, summary: bool) -> int:
    """Longest answer, tokens: what was asked for, within what the use case allows."""
    most = route.output_max_tokens
    if summary and route.summary_tokens is not None:
        most = min(most, route.summary_tokens)
    wanted = asked.body.get("max_completion_tokens", asked.body.get("max_tokens"))
    return most if wanted is None else min(most, int(wanted))


def passed_on(asked: Asked, route: Route, model: str, *, summary: bool = False) -> dict[str, Any]:
    """The body that goes to an engine or a hosted API.

    The model's own name, the longest answer that is allowed, token counts of streams always, and in
    summary mode an instruction in front.
    """
    tokens = tokens_allowed(asked, route, summary=summary)
    body = {**asked.body, "model": model, "max_tokens": tokens}
    body.pop("max_completion_tokens", None)
    body.pop("user", None)
    if asked.stream:
        body["stream_options"] = {"include_usage": True}
    else:
        body.pop("stream_options", None)
    if summary and asked.chat:
        words = max(1, int(tokens * _WORDS_PER_TOKEN))
        instruction = {"role": "system", "content": SUMMARY_INSTRUCTION.format(words=words)}
        body["messages"] = [instruction, *asked.body["messages"]]
    return body


def prompt_tokens_estimate(asked: Asked) -> int:
    """A prompt's length before it was counted, tokens: no fewer than a byte-pair encoding gives.

    Of everything that goes on, for tools and forms of answers are in the prompt too. A quarter of
    the bytes is usual for English; half of them is safe for most of the rest.
    """
    text = json.dumps(asked.body, ensure_ascii=False)
    return len(text.encode("utf-8", "replace")) // 2 + 1


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _short(error: Exception) -> str:
    return "too deeply nested" if isinstance(error, RecursionError) else str(error)[:120]


def _kinds(kinds: tuple[type, ...]) -> str:
    words = {
        str: "a string",
        bool: "true or false",
        dict: "an object",
        list: "a list",
        int: "an integer",
        float: "a number",
    }
    return " or ".join(words[kind] for kind in kinds if kind is not int or float not in kinds)


def _check_numbers(body: Mapping[str, Any]) -> None:
    bounds = {
        "max_tokens": (1, 10_000_000),
        "max_completion_tokens": (1, 10_000_000),
        "n": (1, MOST_ANSWERS),
        "temperature": (0, 2),
        "top_p": (0, 1),
        "presence_penalty": (-2, 2),
        "frequency_penalty": (-2, 2),
        "top_logprobs": (0, 20),
        "seed": (-(2**63), 2**63 - 1),
    }
    for name, (least, most) in bounds.items():
        if name in body and not least <= body[name] <= most:
            raise wrong(name, f"has to be from {least} to {most}")
