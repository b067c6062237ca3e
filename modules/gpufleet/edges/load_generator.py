"""Load on an OpenAI endpoint: by the clock whatever it answers, or so many requests at a time.

httpx's transport is used without its client, whose cookies, redirects and decoders cost more than
all the rest; server-sent events are cut at their blank lines, and only few of them are parsed.
"""

import asyncio
import json
import signal
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from gpufleet.spec.errors import BadInput
from gpufleet.spec.serving_bench import LoadProgress, Outcome, Sending

CHAT: Final = "/chat/completions"
_CONNECT_S: Final = 10.0
_KEPT_CONNECTIONS: Final = 1024
_KEPT_S: Final = 30.0
_TELL_EVERY_S: Final = 0.25
_FIRST_ERROR: Final = 400
_LONGEST_ANSWER: Final = 64 * 2**20
_TEXTS: Final = ("content", "reasoning_content", "tool_calls")
_SIMULATED: Final = "x-gpufleet-simulated"

T = TypeVar("T")
Prompt = Callable[[int], bytes]
"""A prompt of so many tokens: text that needs no escape in JSON."""
OnProgress = Callable[[LoadProgress], None]


@dataclass(frozen=True)
class Target:
    """An endpoint and how it is asked."""

    url: str
    """Base address, such as `https://gateway.example.com/v1`."""
    model: str
    key: str = field(default="", repr=False)
    ca_file: Path | None = None
    """Authority of its certificate, where it is none that the machine trusts."""
    timeout_s: float = 600.0
    """Longest time of one request."""
    whole_lengths: bool = False
    """Ask for answers of just the wanted length (`ignore_eos`, which vLLM knows)."""

    def body(self, sending: Sending, prompt: bytes) -> bytes:
        """The JSON of one request."""
        more: dict[str, object] = {"max_tokens": sending.output_tokens}
        if self.whole_lengths:
            more["ignore_eos"] = True
        if sending.streamed:
            more |= {"stream": True, "stream_options": {"include_usage": True}}
        head = json.dumps({"model": self.model})[:-1].encode()
        tail = json.dumps(more)[1:].encode()
        return b"".join(
            (head, b', "messages": [{"role": "user", "content": "', prompt, b'"}], ', tail)
        )


@dataclass
class Load:
    """What was sent, and how it ended."""

    outcomes: list[Outcome]
    elapsed_s: float
    """Until the last request was sent, or it was interrupted."""
    interrupted: bool
    server: str
    """`Server` header of the last answer, and whether it says that it is simulated."""
    cpu_share: float
    """Processor time of this process over wall time."""


@dataclass(frozen=True)
class Levels:
    """Numbers of requests in flight that are to be held."""

    concurrencies: tuple[int, ...]
    sending: Sending
    """What each request is."""
    hold_s: float
    """Each, without what comes before and after."""


@dataclass
class HeldLevel:
    """A number of requests in flight, held for a while."""

    concurrency: int
    outcomes: list[Outcome]
    """Of requests that were sent while it was held."""

    @property
    def held_s(self) -> float:
        """How long the level was held by these requests alone: their time, shared by its places."""
        return sum(each.ended_s - each.sent_s for each in self.outcomes) / self.concurrency


def open_load(
    target: Target, sendings: Sequence[Sending], prompt: Prompt, on_progress: OnProgress
) -> Load:
    """Send each request at its time, whatever became of the earlier ones, and wait for the answers.

    Ctrl-C ends it with what was measured; requests that were in flight then do not count.

    Raises:
        BadInput: the authority's file.
    """
    return _run(target, prompt, on_progress, lambda engine: engine.by_the_clock(sendings))


def closed_load(
    target: Target, levels: Levels, prompt: Prompt, on_progress: OnProgress
) -> tuple[Load, list[HeldLevel]]:
    """Hold each number of requests in flight, one after the other.

    Measuring begins when each place has had one answer, and a level is held until the last request
    that counts has ended: all of them saw the whole level.

    Raises:
        BadInput: the authority's file.
    """
    held: list[HeldLevel] = []

    async def all_levels(engine: "_Engine") -> None:
        for concurrency in levels.concurrencies:
            await engine.hold(concurrency, levels, held.append)

    return _run(target, prompt, on_progress, all_levels), held


def _run(
    target: Target,
    prompt: Prompt,
    on_progress: OnProgress,
    work: Callable[["_Engine"], Awaitable[None]],
) -> Load:
    cpu_s = time.process_time()
    begun = time.perf_counter()
    engine = _Engine(target, prompt, on_progress)
    asyncio.run(engine.run(work))
    wall_s = time.perf_counter() - begun
    return Load(
        outcomes=engine.outcomes,
        elapsed_s=engine.elapsed_s,
        interrupted=engine.interrupted,
        server=engine.server,
        cpu_share=(time.process_time() - cpu_s) / wall_s,
    )


class _Engine:
    """One load under way."""

    def __init__(self, target: Target, prompt: Prompt, on_progress: OnProgress) -> None:
        self._target = target
        self._prompt = prompt
        self._on_progress = on_progress
        self._transport = httpx.AsyncHTTPTransport(
            verify=_trust(target.ca_file) if target.url.startswith("https:") else False,
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=_KEPT_CONNECTIONS,
                keepalive_expiry=_KEPT_S,
            ),
        )
        self._address = httpx.URL(f"{target.url}{CHAT}")
        self._headers = {"Content-Type": "application/json"}
        if target.key:
            self._headers["Authorization"] = f"Bearer {target.key}"
        seconds = target.timeout_s
        self._extensions = {
            "timeout": {"connect": _CONNECT_S, "read": seconds, "write": seconds, "pool": seconds}
        }
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._main: asyncio.Future[None] | None = None
        self._begun = 0.0
        self._duration_s = 0.0
        self._sent = self._failed = 0
        self.outcomes: list[Outcome] = []
        self.elapsed_s = 0.0
        self.interrupted = False
        self.server = ""

    async def run(self, work: Callable[["_Engine"], Awaitable[None]]) -> None:
        """Do the work, tell of it, and end cleanly on Ctrl-C."""
        loop = asyncio.get_running_loop()
        self._begun = loop.time()
        self._main = asyncio.ensure_future(work(self))
        teller = asyncio.create_task(self._tell())
        # Only the main thread may hear signals; elsewhere whoever has it ends the process.
        listens = threading.current_thread() is threading.main_thread()
        if listens:
            loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            await self._main
        except asyncio.CancelledError:
            if not self.interrupted:
                raise
        finally:
            if listens:
                loop.remove_signal_handler(signal.SIGINT)
            self.elapsed_s = self.elapsed_s or self._now()
            teller.cancel()
            await self._drop(self._tasks)
            await self._transport.aclose()
        self._tell_once()

    def _interrupt(self) -> None:
        self.interrupted = True
        if self._main is not None:
            self._main.cancel()

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._begun

    async def by_the_clock(self, sendings: Sequence[Sending]) -> None:
        """Send each at its time, then wait for what is in flight."""
        self._duration_s = sendings[-1].at_s if sendings else 0.0
        for sending in sendings:
            wait_s = sending.at_s - self._now()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self._start(sending, sending.at_s)
        self.elapsed_s = self._now()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def hold(
        self, concurrency: int, levels: Levels, then: Callable[[HeldLevel], None]
    ) -> None:
        """Keep so many requests in flight; tells what was seen, also if it is interrupted."""
        counted: list[Outcome] = []
        warm, over = 0, False
        begun_s = ends_s = float("inf")
        waited_for = 0

        async def place() -> None:
            nonlocal warm, over, begun_s, ends_s, waited_for
            is_first = True
            while not over:
                sent_s = self._now()
                counts = begun_s <= sent_s < ends_s
                waited_for += counts
                outcome = await self._start(levels.sending, sent_s)
                if counts:
                    counted.append(outcome)
                    waited_for -= 1
                if outcome.error:
                    # A server that refuses at once is not asked again in a tight loop.
                    await asyncio.sleep(0.1)
                if is_first:
                    is_first = False
                    warm += 1
                    if warm == concurrency:
                        begun_s = self._now()
                        ends_s = begun_s + levels.hold_s
                        self._duration_s = ends_s
                if self._now() >= ends_s and not waited_for:
                    over = True

        places = [asyncio.create_task(place()) for _ in range(concurrency)]
        try:
            await asyncio.wait(places, return_when=asyncio.FIRST_COMPLETED)
            for each in places:
                if each.done():
                    each.result()
        finally:
            await self._drop(places)
            await self._drop(self._tasks)
            then(HeldLevel(concurrency, counted))

    def _start(self, sending: Sending, at_s: float) -> "asyncio.Task[Outcome]":
        task = asyncio.create_task(self._one(sending, at_s))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        self._sent += 1
        return task

    def _ended(self, task: "asyncio.Task[Outcome]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        outcome = task.result()
        self.outcomes.append(outcome)
        self._failed += bool(outcome.error)

    async def _drop(self, tasks: "set[asyncio.Task[T]] | list[asyncio.Task[T]]") -> None:
        dropped = list(tasks)
        for task in dropped:
            task.cancel()
        await asyncio.gather(*dropped, return_exceptions=True)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            self._tell_once()

    def _tell_once(self) -> None:
        self._on_progress(
            LoadProgress(
                elapsed_s=self._now(),
                duration_s=self._duration_s,
                sent=self._sent,
                done=len(self.outcomes),
                failed=self._failed,
                in_flight=len(self._tasks),
            )
        )

    async def _one(self, sending: Sending, at_s: float) -> Outcome:
        reply = _Reply(sending.streamed, len(self._tasks), at_s, self._now())
        try:
            async with asyncio.timeout(self._target.timeout_s):
                await self._ask(sending, reply)
        except TimeoutError:
            reply.error = "timeout"
        except httpx.TimeoutException:
            reply.error = "timeout"
        except httpx.ConnectError:
            reply.error = "connect"
        except (httpx.HTTPError, OSError):
            reply.error = "truncated" if reply.first_byte_s is not None else "disconnected"
        return reply.outcome(self._now())

    async def _ask(self, sending: Sending, reply: "_Reply") -> None:
        content = self._target.body(sending, self._prompt(sending.prompt_tokens))
        request = httpx.Request(
            "POST",
            self._address,
            headers=self._headers,
            content=content,
            extensions=self._extensions,
        )
        reply.sent_s = self._now()
        response = await self._transport.handle_async_request(request)
        try:
            reply.first_byte_s = self._now()
            reply.status = response.status_code
            reply.route = response.headers.get("x-gpufleet-route", "")
            self._remember(response.headers)
            stream = response.stream
            assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101 - of an async transport
            if response.status_code >= _FIRST_ERROR:
                reply.error = f"http_{response.status_code}"
                async for _ in stream:
                    pass
            elif sending.streamed:
                async for part in stream:
                    reply.read(part, self._now())
                reply.end_stream()
            else:
                parts = bytearray()
                async for part in stream:
                    parts += part
                    if len(parts) > _LONGEST_ANSWER:
                        reply.error = "malformed"
                        return
                reply.whole(bytes(parts))
        finally:
            with suppress(httpx.HTTPError, OSError):
                await response.aclose()

    def _remember(self, headers: httpx.Headers) -> None:
        if not self.server:
            simulated = " (simulated)" if headers.get(_SIMULATED) else ""
            self.server = f"{headers.get('server', 'unnamed'):.80}{simulated}"


class _Reply:
    """One answer as it comes in."""

    def __init__(self, streamed: bool, in_flight: int, scheduled_s: float, sent_s: float) -> None:  # noqa: FBT001 - an outcome's fields
        self.sent_s = sent_s
        self.first_byte_s: float | None = None
        self.status = 0
        self.route = ""
        self.error = ""
        self._streamed = streamed
        self._in_flight = in_flight
        self._scheduled_s = scheduled_s
        self._first_token_s: float | None = None
        self._rest = b""
        self._chunks = 0
        self._usage: bytes = b""
        self._done = False
        self._prompt_tokens = self._output_tokens = 0

    def read(self, part: bytes, now_s: float) -> None:
        """Take in a part of a stream of server-sent events."""
        if b"\r" in part:
            part = part.replace(b"\r", b"")
        *events, self._rest = (self._rest + part).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: [DONE]"):
                self._done = True
            elif b'"prompt_tokens"' in event:
                self._usage = event
            elif self._first_token_s is None or b'"error"' in event:
                self._look(event, now_s)
            elif event.startswith(b"data:"):
                self._chunks += 1

    def _look(self, event: bytes, now_s: float) -> None:
        """Parse an event before the first token, or one that speaks of an error."""
        if not event.startswith(b"data:"):
            return
        found = _parsed(event[5:])
        if "error" in found:
            self.error = "stream_error"
        choices = found.get("choices") or [{}]
        delta = choices[0].get("delta") or {} if isinstance(choices[0], dict) else {}
        if any(delta.get(name) for name in _TEXTS):
            self._chunks += 1
            if self._first_token_s is None:
                self._first_token_s = now_s

    def end_stream(self) -> None:
        """The stream has ended."""
        if self._rest.startswith(b"data: [DONE]"):
            self._done = True
        if not self._done and not self.error:
            self.error = "truncated"
        usage = _parsed(self._usage[5:]).get("usage") if self._usage else None
        self._count(usage)
        self._output_tokens = self._output_tokens or self._chunks

    def whole(self, body: bytes) -> None:
        """Take in a plain answer."""
        found = _parsed(body)
        if not isinstance(found.get("choices"), list) or not found["choices"]:
            self.error = "malformed"
        self._count(found.get("usage"))

    def _count(self, usage: object) -> None:
        if isinstance(usage, dict):
            self._prompt_tokens = int(usage.get("prompt_tokens") or 0)
            self._output_tokens = int(usage.get("completion_tokens") or 0)

    def outcome(self, now_s: float) -> Outcome:
        """What became of it."""
        return Outcome(
            scheduled_s=self._scheduled_s,
            sent_s=self.sent_s,
            first_byte_s=self.first_byte_s,
            first_token_s=self._first_token_s,
            ended_s=now_s,
            in_flight=self._in_flight,
            streamed=self._streamed,
            status=self.status,
            error=self.error,
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
            chunks=self._chunks,
            route=self.route,
        )


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise BadInput(
            f"is no certificate authority: {error.strerror or error}", where=str(ca_file)
        ) from None
