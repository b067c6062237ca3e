"""Answers that may be given again: to the same key, for the same request, for a while."""

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from gpufleet.core.gateway.request_body import Asked

_LIMIT_BYTES: Final = 32 * 2**20
_NOT_ASKED: Final = frozenset({"stream", "stream_options", "user"})
"""What changes nothing in the answer."""


@dataclass(frozen=True)
class Kept:
    """One answer."""

    content: dict[str, Any]
    """As an answer that is no stream."""
    model: str
    digest: str
    cost: Decimal
    until_s: float
    size_bytes: int


class Cache:
    """One worker's answers, the ones used last.

    Args:
        limit_bytes: most that it keeps.
        now: tells the monotonic time.
    """

    def __init__(
        self, limit_bytes: int = _LIMIT_BYTES, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit_bytes = limit_bytes
        self._now = now
        self._size_bytes = 0
        self._answers: OrderedDict[bytes, Kept] = OrderedDict()

    def find(self, name: bytes) -> Kept | None:
        """What was answered; None where nothing was, or too long ago."""
        kept = self._answers.get(name)
        if kept is None:
            return None
        if self._now() >= kept.until_s:
            self._drop(name)
            return None
        self._answers.move_to_end(name)
        return kept

    def keep(
        self,
        name: bytes,
        content: dict[str, Any],
        origin: tuple[str, str],
        cost: Decimal,
        for_s: float,
    ) -> None:
        """Keep an answer, with the model and the digest that gave it."""
        size_bytes = len(json.dumps(content))
        if size_bytes > self._limit_bytes // 16:
            return
        if name in self._answers:
            self._drop(name)
        self._answers[name] = Kept(content, *origin, cost, self._now() + for_s, size_bytes)
        self._size_bytes += size_bytes
        while self._size_bytes > self._limit_bytes:
            self._drop(next(iter(self._answers)))

    def _drop(self, name: bytes) -> None:
        self._size_bytes -= self._answers.pop(name).size_bytes


def cache_name(key_id: str, digest: str, asked: Asked) -> bytes:
    """What an answer is found by: who asked, what, and which revision would answer."""
    body = {name: value for name, value in asked.body.items() if name not in _NOT_ASKED}
    parts = [key_id, asked.use_case, digest, "chat" if asked.chat else "text", body]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=32).digest()


def answer_text(content: dict[str, Any]) -> str:
    """The text of an answer; of several, one after the other."""
    return "\n".join(
        str((choice.get("message") or choice).get("content") or choice.get("text") or "")
        for choice in content["choices"]
    )


def as_events(content: dict[str, Any], *, usage_wanted: bool) -> bytes:
    """An answer as the events of a stream."""
    chat = content.get("object") == "chat.completion"
    head: dict[str, Any] = {
        name: content[name] for name in ("id", "created", "model") if name in content
    }
    head["object"] = "chat.completion.chunk" if chat else "text_completion"
    events: list[dict[str, Any]] = []
    for choice in content["choices"]:
        index = choice.get("index", 0)
        if chat:
            message = choice.get("message") or {}
            delta = {"role": "assistant", "content": message.get("content") or ""}
            said = {"index": index, "delta": delta, "finish_reason": None}
            end = {"index": index, "delta": {}, "finish_reason": choice.get("finish_reason")}
        else:
            said = {"index": index, "text": choice.get("text") or "", "finish_reason": None}
            end = {"index": index, "text": "", "finish_reason": choice.get("finish_reason")}
        events += [{**head, "choices": [said]}, {**head, "choices": [end]}]
    if usage_wanted and "usage" in content:
        events.append({**head, "choices": [], "usage": content["usage"]})
    lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    return b"".join(lines) + b"data: [DONE]\n\n"
