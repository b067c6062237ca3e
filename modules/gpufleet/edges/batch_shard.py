"""Answers one shard of a batch by an engine beside it, and keeps what was answered.

Whoever is told to end keeps what it has, and the next one goes on from there: a shard is a pod of
a Job, whose GPUs a pool's replica may take back at any time.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Protocol

import httpx

from gpufleet.edges.object_store import ObjectStore
from gpufleet.spec.errors import Retryable

_KEEP_EVERY_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.5
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 10.0
_CONNECT_S: Final = 5.0
_LONGEST_ANSWER_S: Final = 3600.0
ENGINE_LOST_AFTER_S: Final = 300.0
"""An engine that answers nothing at all for so long is given up; the Job tries the shard again."""
_AGAIN: Final = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
"""The engine's state, not the request's fault."""

_JSON: Final = {"Content-Type": "application/json"}

Line = Mapping[str, Any]


class Ask(Protocol):
    """One request for the engine."""

    @property
    def custom_id(self) -> str:
        """The caller's."""

    @property
    def url(self) -> str:
        """Path at the engine."""

    @property
    def body(self) -> Mapping[str, Any]:
        """What is sent."""


@dataclass(frozen=True)
class Form:
    """How a shard's objects are written; decided elsewhere."""

    requests: Callable[[bytes], Sequence[Ask]]
    answers: Callable[[bytes], Sequence[Line]]
    written: Callable[[Iterable[Line]], bytes]
    answer: Callable[[str, str, int, str, object], Line]
    """A line of an id, a `custom_id`, a status, the engine's id of the request, and a body."""


class Keys(Protocol):
    """Where a shard's objects are in their bucket."""

    @property
    def requests(self) -> str:
        """What is asked."""

    @property
    def answers(self) -> str:
        """Every answer; there only once the shard is done."""

    @property
    def partial(self) -> str:
        """The answers so far."""


@dataclass(frozen=True)
class Shard:
    """One shard of a batch.

    Args:
        name: such as `BATCH-3`; begins the ids of its lines.
        store: where its objects are.
        bucket: in which.
        keys: under which.
        form: how they are written.
    """

    name: str
    store: ObjectStore
    bucket: str
    keys: Keys
    form: Form

    def left(self) -> int:
        """Requests without an answer.

        Raises:
            Failed: there is no such shard.
        """
        if self._is_done():
            return 0
        asks = self.form.requests(self.store.get(self.bucket, self.keys.requests))
        return len(asks) - len(self._so_far(asks))

    def answer(self, engine: "Engine", stopped: Callable[[], bool] = lambda: False) -> bool:
        """Answer what has no answer yet; returns False if it was stopped before the end.

        A shard that is done is left as it is.

        Raises:
            Failed: there is no such shard.
            Retryable: the store or the engine does not answer.
        """
        if self._is_done():
            return True
        asks = self.form.requests(self.store.get(self.bucket, self.keys.requests))
        before = self._so_far(asks)
        known = {line["custom_id"] for line in before}
        left = [
            (f"{self.name}-{number}", ask)
            for number, ask in enumerate(asks)
            if ask.custom_id not in known
        ]

        def keep(found: list[Line]) -> None:
            self.store.put(self.bucket, self.keys.partial, self.form.written([*before, *found]))

        if not engine.work_through(left, self.form.answer, keep, stopped):
            return False
        content = self.store.get(self.bucket, self.keys.partial)
        self.store.put(self.bucket, self.keys.answers, content)
        self.store.delete(self.bucket, [self.keys.partial])
        return True

    def _is_done(self) -> bool:
        return bool(self.store.keys(self.bucket, self.keys.answers))

    def _so_far(self, asks: Sequence[Ask]) -> list[Line]:
        wanted = {ask.custom_id for ask in asks}
        content = self.store.find(self.bucket, self.keys.partial) or b""
        return [line for line in self.form.answers(content) if line["custom_id"] in wanted]


class Engine:
    """An OpenAI-compatible server that requests are sent to, many at once.

    Args:
        url: its base, such as `http://127.0.0.1:8000`.
        concurrency: requests in flight.
    """

    def __init__(self, url: str, concurrency: int) -> None:
        self._url = url.rstrip("/")
        self._concurrency = concurrency
        self._heard_at = time.monotonic()

    def work_through(
        self,
        asks: Sequence[tuple[str, Ask]],
        answer: Callable[[str, str, int, str, object], Line],
        keep: Callable[[list[Line]], None],
        stopped: Callable[[], bool],
    ) -> bool:
        """Ask everything; returns False if it was stopped before.

        Args:
            asks: each with the id of its line.
            answer: makes a line.
            keep: is given all answers so far, now and then and at the end.
            stopped: whether to end early.

        Raises:
            Retryable: the engine is gone.
        """
        return asyncio.run(self._work_through(asks, answer, keep, stopped))

    async def _work_through(
        self,
        asks: Sequence[tuple[str, Ask]],
        answer: Callable[[str, str, int, str, object], Line],
        keep: Callable[[list[Line]], None],
        stopped: Callable[[], bool],
    ) -> bool:
        self._heard_at = time.monotonic()
        answers: list[Line] = []
        left = iter(asks)

        async def work() -> None:
            for id_, ask in left:
                response = await self._ask(client, ask)
                request_id = response.headers.get("x-request-id", id_)
                body = _json(response)
                answers.append(answer(id_, ask.custom_id, response.status_code, request_id, body))

        timeout = httpx.Timeout(_LONGEST_ANSWER_S, connect=_CONNECT_S)
        limits = httpx.Limits(max_connections=self._concurrency)
        async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as client:
            workers = [
                asyncio.create_task(work()) for _ in range(min(self._concurrency, len(asks)))
            ]
            try:
                await self._watch(workers, answers, keep, stopped)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                await asyncio.to_thread(keep, list(answers))
        return len(answers) == len(asks)

    async def _watch(
        self,
        workers: Sequence["asyncio.Task[None]"],
        answers: list[Line],
        keep: Callable[[list[Line]], None],
        stopped: Callable[[], bool],
    ) -> None:
        """Until all is asked, or somebody says stop; a fault of one worker ends all."""
        kept, kept_at = 0, time.monotonic()
        pending: set[asyncio.Task[None]] = set(workers)
        while pending and not stopped():
            done, pending = await asyncio.wait(
                pending, timeout=_LOOK_EVERY_S, return_when=asyncio.FIRST_EXCEPTION
            )
            for worker in done:
                worker.result()
            if len(answers) > kept and time.monotonic() - kept_at > _KEEP_EVERY_S:
                kept, kept_at = len(answers), time.monotonic()
                with contextlib.suppress(Retryable):
                    # A store that is away now is asked again: only the last word counts.
                    await asyncio.to_thread(keep, list(answers))

    async def _ask(self, client: httpx.AsyncClient, ask: Ask) -> httpx.Response:
        # ASCII: httpx's own writing refuses half of a surrogate pair.
        content, pause_s = json.dumps(ask.body).encode(), _FIRST_PAUSE_S
        while True:
            try:
                response = await client.post(
                    f"{self._url}{ask.url}", content=content, headers=_JSON
                )
            except httpx.HTTPError as error:
                why = f"{type(error).__name__} {error}".strip()
            else:
                if response.status_code not in _AGAIN:
                    self._heard_at = time.monotonic()
                    return response
                why = f"HTTP {response.status_code}"
            if time.monotonic() - self._heard_at > ENGINE_LOST_AFTER_S:
                raise Retryable(f"the engine does not answer: {why}", where=self._url)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _json(response: httpx.Response) -> object:
    """The body; what is no JSON stands in an error of OpenAI's form."""
    try:
        return json.loads(response.content)
    except ValueError:
        return {"error": {"message": response.text[:500], "type": "engine_error"}}
