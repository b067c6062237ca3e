"""One attempt: a request through LiteLLM to a replica or an API, and what came back."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gpufleet_gateway.answers import Client, Message, Scope

Application = Callable[..., Awaitable[None]]
_OK: Final = 200
_DONE: Final = b"[DONE]"
_LONGEST_ERROR: Final = 64 * 1024


@dataclass
class Answer:
    """What an attempt has given so far."""

    status: int = 0
    content: list[bytes] = field(default_factory=list)
    """Of an answer that is no stream, or of an error."""
    texts: dict[int, list[str]] = field(default_factory=dict)
    """By number of the answer."""
    parts: int = 0
    """Events of a stream that carried text."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    error: str = ""
    """Message of an error in the middle of a stream."""
    complete: bool = False
    finish_reasons: set[str] = field(default_factory=set)
    cacheable: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The answer's text; of several, one after the other."""
        return "\n".join("".join(self.texts[index]) for index in sorted(self.texts))

    @property
    def good(self) -> bool:
        """Whether it is whole and no error."""
        return self.status == _OK and self.complete and not self.error


class Exchange:
    """Sends a body to LiteLLM's application and gives the client what comes back.

    Nothing reaches the client before the first good byte, so that another replica can be asked.

    Args:
        application: LiteLLM's.
        client: who asked.
        stream: whether the answer comes in events.
        usage_wanted: whether the client wants the token counts of a stream.
        on_byte: called whenever something comes.
    """

    def __init__(
        self,
        application: Application,
        client: Client,
        *,
        stream: bool,
        usage_wanted: bool,
        on_byte: Callable[[], None],
    ) -> None:
        self._application = application
        self._client = client
        self._stream = stream
        self._usage_wanted = usage_wanted
        self._on_byte = on_byte
        self._rest = b""
        self._body = b""
        self.answer = Answer()
        self.passed_on_s: float | None = None
        """When the client last got a part of a stream; monotonic."""

    async def run(self, scope: Scope, body: Mapping[str, Any]) -> None:
        """Ask, and pass the answer on."""
        raw = json.dumps(body).encode()
        self._body = raw
        inner = {
            "type": "http",
            "asgi": scope["asgi"],
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": scope["path"],
            "raw_path": scope["path"].encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (b"host", b"gateway"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(raw)).encode()),
                (b"authorization", b"Bearer gpufleet"),
            ],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 0),
            "state": dict(scope.get("state", {})),
        }
        sent = False

        async def receive() -> Message:
            nonlocal sent
            if sent:
                # The client's leaving is watched outside: it ends this attempt as a whole.
                await _for_ever()
            sent = True
            return {"type": "http.request", "body": raw, "more_body": False}

        await self._application(inner, receive, self._take)
        if self._stream and self.answer.good:
            await self._client.end_stream()

    async def _take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answer.status = message["status"]
            return
        if message["type"] != "http.response.body":
            return
        part = message.get("body", b"")
        if part:
            self._on_byte()
        if self._stream and self.answer.status == _OK:
            await self._events(part)
            return
        if self.answer.status == _OK or sum(map(len, self.answer.content)) < _LONGEST_ERROR:
            self.answer.content.append(part)
        if not message.get("more_body", False) and self.answer.status == _OK:
            await self._whole()

    async def _whole(self) -> None:
        content = b"".join(self.answer.content)
        try:
            value = json.loads(content)
        except ValueError:
            value = None
        if not isinstance(value, dict) or not value.get("choices"):
            self.answer.error = "the answer is not what was asked for"
            return
        self._usage(value.get("usage"))
        for choice in value["choices"]:
            self._choice(choice, choice.get("message") or {})
        self.answer.complete = True
        self.answer.cacheable = value
        await self._client.answer(_OK, content)

    async def _events(self, part: bytes) -> None:
        *events, self._rest = (self._rest + part).split(b"\n\n")
        kept = [said for event in events if (said := self._event(event))]
        if kept and not self.answer.error:
            await self._client.stream(b"\n\n".join(kept) + b"\n\n")
            # Until now the client was waited for, and nobody else.
            self._on_byte()
            self.passed_on_s = time.monotonic()

    def _event(self, event: bytes) -> bytes:
        """Note what an event says; what goes on to the client of it."""
        if not event.startswith(b"data:"):
            return b""
        data = event[5:].strip()
        if data == _DONE:
            self.answer.complete = True
            return event
        try:
            value = json.loads(data)
        except ValueError:
            return b""
        if "error" in value:
            error = value["error"]
            message = error.get("message", "") if isinstance(error, dict) else str(error)
            self.answer.error = str(message)[:500] or "error"
            return b""
        choices = value.get("choices") or []
        if isinstance(value.get("usage"), dict):
            self._usage(value["usage"])
            if not any(choice.get("delta") or choice.get("text") for choice in choices):
                # OpenAI's form: the token counts come last, in an event without an answer.
                ending = json.dumps({**value, "choices": []}).encode()
                return b"data: " + ending if self._usage_wanted else b""
        for choice in choices:
            self._choice(choice, choice.get("delta") or {})
        self.answer.parts += bool(choices)
        return event

    def _usage(self, usage: object) -> None:
        if isinstance(usage, dict):
            self.answer.prompt_tokens = int(usage.get("prompt_tokens") or 0)
            self.answer.output_tokens = int(usage.get("completion_tokens") or 0)

    def _choice(self, choice: Mapping[str, Any], said: Mapping[str, Any]) -> None:
        texts = self.answer.texts.setdefault(int(choice.get("index") or 0), [])
        texts.append(said.get("content") or choice.get("text") or "")
        for call in said.get("tool_calls") or []:
            function = call.get("function") or {}
            texts.append(f"{function.get('name') or ''}{function.get('arguments') or ''}")
        if choice.get("finish_reason"):
            self.answer.finish_reasons.add(choice["finish_reason"])


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
