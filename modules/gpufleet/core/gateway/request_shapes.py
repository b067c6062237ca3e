"""The shapes of a request's inner parts: what every engine understands, so that none is asked else.

As OpenAI's API reference has them ("Create chat completion"), of the kinds that vLLM serves.
"""

from collections.abc import Mapping
from typing import Any, Final

MOST_MESSAGES: Final = 10_000
MOST_NESTED: Final = 100
"""Levels of lists and objects: JSON Schemas of tools have a few dozen at most."""
_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_PARTS: Final[Mapping[str, tuple[str, type]]] = {
    "text": ("text", str),
    "refusal": ("refusal", str),
    "image_url": ("image_url", dict),
    "input_audio": ("input_audio", dict),
    "file": ("file", dict),
}
"""Kinds of content: the field that carries each, and its type."""
_PART_TEXTS: Final[Mapping[str, tuple[str, ...]]] = {
    "image_url": ("url",),
    "input_audio": ("data", "format"),
}
_TOOL_CHOICES: Final = frozenset({"none", "auto", "required"})
_FORMATS: Final = frozenset({"text", "json_object", "json_schema"})


class Unacceptable(ValueError):
    """A body that is refused with status 400.

    Args:
        message: what is wrong, for the client.
        parameter: the field; None for the whole body.
        code: as OpenAI's errors name it.
    """

    def __init__(self, message: str, parameter: str | None, code: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.code = code


def wrong(name: str, sentence: str) -> Unacceptable:
    """A field whose value is not accepted."""
    return Unacceptable(f"Invalid value for {name!r}: it {sentence}.", name, "invalid_value")


def check_nesting(body: Mapping[str, Any]) -> None:
    """Refuse what is nested so deeply that it cannot be written again."""
    level: list[Any] = [body]
    for _ in range(MOST_NESTED):
        inner = [
            value
            for each in level
            for value in (each.values() if isinstance(each, dict) else each)
            if isinstance(value, dict | list)
        ]
        if not inner:
            return
        level = inner
    raise Unacceptable("The body is too deeply nested.", None)


def check_messages(messages: list[Any]) -> None:
    """Refuse messages that are none."""
    if len(messages) > MOST_MESSAGES:
        raise wrong("messages", f"may have {MOST_MESSAGES} entries")
    for index, message in enumerate(messages):
        name = f"messages[{index}]"
        role = _object(message, name).get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise wrong(f"{name}.role", f"has to be one of {', '.join(sorted(_ROLES))}")
        _check_content(message.get("content"), f"{name}.content")
        for field in ("name", "tool_call_id", "refusal"):
            if message.get(field) is not None:
                _text(message, field, name)
        calls = message.get("tool_calls")
        for number, call in enumerate(_list(calls, f"{name}.tool_calls")):
            where = f"{name}.tool_calls[{number}]"
            _text(_object(call, where), "id", where)
            _check_function(call, where, "arguments")
        if message.get("function_call") is not None:
            where = f"{name}.function_call"
            called = _object(message["function_call"], where)
            _text(called, "name", where)
            _text(called, "arguments", where)


def check_tools(body: Mapping[str, Any]) -> None:
    """Refuse tools, a choice among them or a form of the answer that no engine understands."""
    for number, tool in enumerate(body.get("tools", [])):
        where = f"tools[{number}]"
        function = _check_function(_object(tool, where), where)
        if function.get("description") is not None:
            _text(function, "description", f"{where}.function")
        if function.get("parameters") is not None:
            _object(function["parameters"], f"{where}.function.parameters")
        if not isinstance(function.get("strict", False), bool | None):
            raise wrong(f"{where}.function.strict", "has to be true or false")
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, dict):
        _check_function(choice, "tool_choice")
    elif choice not in _TOOL_CHOICES:
        raise wrong("tool_choice", f"has to be one of {', '.join(sorted(_TOOL_CHOICES))}")
    form = body.get("response_format", {"type": "text"})
    kind = form.get("type")
    if not isinstance(kind, str) or kind not in _FORMATS:
        raise wrong("response_format.type", f"has to be one of {', '.join(sorted(_FORMATS))}")
    if kind == "json_schema":
        where = "response_format.json_schema"
        described = _object(form.get("json_schema"), where)
        _text(described, "name", where)
        _object(described.get("schema", {}), f"{where}.schema")


def check_lists(body: Mapping[str, Any]) -> None:
    """Refuse lists and objects of simple values that have other values in them."""
    stop = body.get("stop")
    if isinstance(stop, list) and not all(isinstance(each, str) for each in stop):
        raise wrong("stop", "has to be a string or a list of strings")
    if not all(_is_number(each) for each in body.get("logit_bias", {}).values()):
        raise wrong("logit_bias", "has to have numbers")
    prompt = body.get("prompt")
    if isinstance(prompt, list) and not (
        all(isinstance(each, str) for each in prompt)
        or _are_tokens(prompt)
        or all(isinstance(each, list) and each and _are_tokens(each) for each in prompt)
    ):
        raise wrong("prompt", "has to be a string, or a list of strings, tokens or token lists")


def has_only_text(messages: list[Any]) -> bool:
    """Whether checked messages have no images, sounds or files."""
    return all(
        part["type"] in {"text", "refusal"}
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
    )


def _check_content(content: object, name: str) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list) or not content:
        raise wrong(name, "has to be a string or a list of parts")
    for index, part in enumerate(content):
        where = f"{name}[{index}]"
        kind = _object(part, where).get("type")
        if not isinstance(kind, str) or kind not in _PARTS:
            raise wrong(f"{where}.type", f"has to be one of {', '.join(sorted(_PARTS))}")
        field, wanted = _PARTS[kind]
        if wanted is str:
            _text(part, field, where)
            continue
        inner = _object(part.get(field), f"{where}.{field}")
        for needed in _PART_TEXTS.get(kind, ()):
            _text(inner, needed, f"{where}.{field}")


def _check_function(value: Mapping[str, Any], name: str, *more: str) -> Mapping[str, Any]:
    """A tool, a call of one or a choice of one: all have the same shape."""
    if value.get("type") != "function":
        raise wrong(f"{name}.type", "has to be function")
    function = _object(value.get("function"), f"{name}.function")
    for field in ("name", *more):
        _text(function, field, f"{name}.function")
    return function


def _object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise wrong(name, "has to be an object")
    return value


def _list(value: object, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(name, "has to be a list")
    return value


def _text(value: Mapping[str, Any], field: str, name: str) -> None:
    if not isinstance(value.get(field), str):
        raise wrong(f"{name}.{field}", "has to be a string")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_tokens(values: list[Any]) -> bool:
    return all(isinstance(each, int) and not isinstance(each, bool) for each in values)
