"""OpenAI's batch file: requests, one JSON object a line, read, checked, and cut into shards."""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from gpufleet.spec.errors import BadInput

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
ENDPOINTS: Final = (CHAT, COMPLETIONS)
MOST_REQUESTS: Final = 50_000
MOST_BYTES: Final = 200 * 2**20
"""Both are the limits of OpenAI's own batch API."""
MOST_LINE_BYTES: Final = 4 * 2**20
MOST_ID_CHARACTERS: Final = 256
MOST_MESSAGES: Final = 2048
"""Of one request."""
_MOST_PROBLEMS: Final = 1000
"""Then a file is read no further."""
SHARD_REQUESTS: Final = 1000
SHARD_BYTES: Final = 32 * 2**20
"""A shard is answered by one replica, that loads its weights for it; and kept in memory."""
_SHOWN: Final = 20
_CONTENT: Final = {CHAT: "messages", COMPLETIONS: "prompt"}
_LENGTHS: Final = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class BatchRequest:
    """One request of a file."""

    custom_id: str
    url: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What a request is checked by; its prompt stays in the file."""

    line: int
    custom_id: str
    url: str
    model: str | None
    lengths: tuple[tuple[str, int], ...]
    """Longest answers that it asks for, by the field's name, tokens."""


@dataclass(frozen=True)
class LineProblem:
    """What is wrong with one line; 0 is the whole file."""

    line: int
    message: str
    param: str | None = None


@dataclass(frozen=True)
class Parsed:
    """A file as it was read; no more than one of its requests is ever kept as objects."""

    heads: tuple[RequestHead, ...]
    problems: tuple[LineProblem, ...]
    content: bytes

    @property
    def requests(self) -> Iterator[BatchRequest]:
        """Each request, read from the file again."""
        wanted = {head.line for head in self.heads}
        for number, line in _lines(self.content):
            if number in wanted and isinstance(found := _request(line), BatchRequest):
                yield found

    @property
    def endpoint(self) -> str:
        """The path that every request is for; empty where they differ."""
        urls = {head.url for head in self.heads}
        return urls.pop() if len(urls) == 1 else ""

    @property
    def models(self) -> set[str]:
        """The use cases that requests name."""
        return {head.model for head in self.heads if head.model is not None}

    def demand_good(self, source: str) -> None:
        """Refuse a file of which anything is wrong.

        Raises:
            BadInput: with each wrong line, as `SOURCE:LINE`.
        """
        if not self.problems:
            return
        told = [
            f"{source}:{each.line}: {each.message}" if each.line else f"{source}: {each.message}"
            for each in self.problems[:_SHOWN]
        ]
        if len(self.problems) > _SHOWN:
            more = len(self.problems) - _SHOWN
            told.append(
                f"and {'at least ' if len(self.problems) >= _MOST_PROBLEMS else ''}{more} more"
            )
        raise BadInput("\n".join(told), mend="nothing was submitted")


def parse(content: bytes) -> Parsed:
    """Read a file; blank lines are left out, but counted.

    What depends on the use case is checked by `checked_for`.
    """
    if len(content) > MOST_BYTES:
        what = f"is larger than {MOST_BYTES // 2**20} MiB"
        return Parsed((), (LineProblem(0, what),), b"")
    heads: list[RequestHead] = []
    problems: list[LineProblem] = []
    seen: dict[str, int] = {}
    for number, line in _lines(content):
        found = _request(line)
        if isinstance(found, BatchRequest) and found.custom_id in seen:
            what = f"`custom_id` stands in line {seen[found.custom_id]} already"
            found = _Fault(what, "custom_id")
        if isinstance(found, _Fault):
            problems.append(LineProblem(number, found.message, found.param))
            if len(problems) >= _MOST_PROBLEMS:
                break
            continue
        seen[found.custom_id] = number
        heads.append(_head(number, found))
        if len(heads) > MOST_REQUESTS:
            problems.append(LineProblem(number, f"has more than {MOST_REQUESTS:,} requests"))
            break
    if not heads and not problems:
        problems.append(LineProblem(0, "holds no request"))
    return Parsed(tuple(heads), tuple(problems), content)


def checked_for(parsed: Parsed, use_case: str, output_max: int, endpoint: str = "") -> Parsed:
    """The same, with what the use case does not allow among the problems.

    Args:
        parsed: from `parse`.
        use_case: the only one that a request may name as its model.
        output_max: longest answer that may be asked for, tokens.
        endpoint: the only path that a request may be for; any where it is empty.
    """
    if parsed.problems:
        return parsed
    problems = [
        LineProblem(head.line, fault.message, fault.param)
        for head in parsed.heads
        if (fault := _unfit(head, use_case, output_max, endpoint))
    ]
    return Parsed(parsed.heads, tuple(problems), parsed.content)


def shards(requests: Iterable[BatchRequest], model: str, output_max: int) -> list[bytes]:
    """The requests as files of JSON lines, each for one replica, in their order.

    Args:
        requests: those of a file that is good.
        model: the name under which the engine serves.
        output_max: longest answer of a request that asks for none, tokens.
    """
    cut: list[bytes] = []
    lines: list[bytes] = []
    size = 0
    for request in requests:
        line = _written(_for_engine(request, model, output_max))
        if lines and (len(lines) == SHARD_REQUESTS or size + len(line) > SHARD_BYTES):
            cut.append(b"".join(lines))
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    return [*cut, b"".join(lines)] if lines else cut


def read_shard(content: bytes) -> list[BatchRequest]:
    """The requests of a shard, which `shards` has written."""
    return [BatchRequest(**json.loads(line)) for line in content.splitlines()]


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    # One line at a time: a file of millions of short ones is no list of millions.
    for number, line in enumerate(io.BytesIO(content), start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if text.strip():
            yield number, text.removesuffix(b"\n")


def _head(number: int, request: BatchRequest) -> RequestHead:
    given = ((name, request.body.get(name)) for name in _LENGTHS)
    lengths = tuple((name, length) for name, length in given if length is not None)
    return RequestHead(number, request.custom_id, request.url, request.body.get("model"), lengths)


def _for_engine(request: BatchRequest, model: str, output_max: int) -> dict[str, Any]:
    body = {**request.body, "model": model}
    if not any(body.get(name) is not None for name in _LENGTHS):
        body["max_tokens"] = output_max
    return {"custom_id": request.custom_id, "url": request.url, "body": body}


def _written(value: dict[str, Any]) -> bytes:
    # ASCII, so that a half of a surrogate pair in a prompt can be written too.
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True)
class _Fault:
    message: str
    param: str | None = None


def _request(line: bytes) -> BatchRequest | _Fault:
    value = _value(line)
    if isinstance(value, _Fault):
        return value
    if fault := _envelope(value) or _body(value["body"], _CONTENT[value["url"]]):
        return fault
    return BatchRequest(value["custom_id"], value["url"], value["body"])


def _value(line: bytes) -> dict[str, Any] | _Fault:
    if len(line) > MOST_LINE_BYTES:
        return _Fault(f"is longer than {MOST_LINE_BYTES // 2**20} MiB")
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        return _Fault("is not UTF-8")
    except RecursionError:
        return _Fault("is nested too deep")
    except ValueError as error:
        return _Fault(f"is not JSON: {str(error)[:100]}")
    return value if isinstance(value, dict) else _Fault("is not a JSON object")


def _no_constant(name: str) -> NoReturn:
    message = f"{name} is no number of JSON"
    raise ValueError(message)


def _envelope(value: dict[str, Any]) -> _Fault | None:
    known = ("custom_id", "method", "url", "body")
    for name in known:
        if name not in value:
            return _Fault(f"has no `{name}`", name)
    if unknown := [name for name in value if name not in known]:
        return _Fault(f"has an unknown field `{unknown[0]:.40}`", f"{unknown[0]:.40}")
    id_ = value["custom_id"]
    if not (isinstance(id_, str) and 0 < len(id_) <= MOST_ID_CHARACTERS and id_.isprintable()):
        what = f"`custom_id` has to be 1 to {MOST_ID_CHARACTERS} printable characters"
        return _Fault(what, "custom_id")
    if value["method"] != "POST":
        return _Fault("`method` has to be POST", "method")
    if value["url"] not in ENDPOINTS:
        return _Fault(f"`url` has to be {' or '.join(ENDPOINTS)}", "url")
    return None


def _body(body: object, content: str) -> _Fault | None:
    if not isinstance(body, dict):
        return _Fault("`body` has to be an object", "body")
    messages = body.get(content) if content == "messages" else None
    are_messages = content != "messages" or _are_messages(messages)
    are_few = not isinstance(messages, list) or len(messages) <= MOST_MESSAGES
    rules = [
        (content, bool(body.get(content)), f"`body` has no `{content}`"),
        (content, are_few, f"`messages` has more than {MOST_MESSAGES:,} entries"),
        (content, are_messages, "`messages` has to be a list of objects, none of them empty"),
        ("stream", not body.get("stream"), "a request of a batch cannot stream"),
        ("model", isinstance(body.get("model", ""), str), "`model` has to be text"),
        *(
            (name, _is_length(body.get(name)), f"`{name}` has to be a whole number above 0")
            for name in _LENGTHS
        ),
    ]
    broken = next(((name, told) for name, holds, told in rules if not holds), None)
    return _Fault(broken[1], f"body.{broken[0]}") if broken else None


def _is_length(value: object) -> bool:
    return value is None or (type(value) is int and value > 0)


def _are_messages(value: object) -> bool:
    return isinstance(value, list) and all(each and isinstance(each, dict) for each in value)


def _unfit(head: RequestHead, use_case: str, output_max: int, endpoint: str) -> _Fault | None:
    model = use_case if head.model is None else head.model
    if model != use_case:
        return _Fault(f"`model` is `{model:.60}`, the batch is for `{use_case}`", "body.model")
    if endpoint and head.url != endpoint:
        return _Fault(f"`url` is {head.url}, the batch is for {endpoint}", "url")
    for name, length in head.lengths:
        if length > output_max:
            what = f"asks for {length:,} tokens, `{use_case}` allows {output_max:,}"
            return _Fault(what, f"body.{name}")
    return None


def ids_of(requests: Iterable[BatchRequest | RequestHead]) -> list[str]:
    """Their `custom_id`s, in order."""
    return [request.custom_id for request in requests]
