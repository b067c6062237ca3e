"""Asks the gateway as a client does, and times the answer."""

import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import httpx

from gpufleet.spec.errors import BadInput, Failed, FleetError, Retryable

_CONNECT_S: Final = 5.0
_REFUSED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_AGAIN: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT)


@dataclass(frozen=True)
class Answer:
    """One answer of the gateway."""

    text: str
    route: str
    """primary, fallback, hosted, summary or cache."""
    reason: str
    model: str
    request_id: str
    ttft_s: float
    """From the request to its first token."""
    seconds: float
    """To its last."""


class GatewayClient:
    """A gateway, asked with one key.

    Args:
        url: base address, such as `https://127.0.0.1:4000`.
        authority: certificate of who signed the gateway's; the system's where it is not given.
        timeout_s: longest silence.
    """

    def __init__(self, url: str, authority: Path | None, timeout_s: float) -> None:
        self._url = url
        trust = ssl.create_default_context(cafile=str(authority) if authority else None)
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_S)
        self._client = httpx.Client(base_url=url, verify=trust, timeout=timeout, trust_env=False)

    def close(self) -> None:
        """Let its connections go."""
        self._client.close()

    def ask(self, use_case: str, text: str, key: str, most_tokens: int | None = None) -> Answer:
        """Ask one question, streamed.

        Args:
            use_case: what the question is for.
            text: of the question.
            key: that opens the gateway.
            most_tokens: longest answer.

        Raises:
            Retryable: it does not answer, or has no room now.
            BadInput: it does not take such a question.
            Failed: it refuses the key, or breaks off its answer.
        """
        body: dict[str, Any] = {
            "model": use_case,
            "messages": [{"role": "user", "content": text}],
            "stream": True,
        }
        if most_tokens:
            body["max_tokens"] = most_tokens
        headers = {"Authorization": f"Bearer {key}"}
        begun = time.monotonic()
        try:
            with self._client.stream(
                "POST", "/v1/chat/completions", json=body, headers=headers
            ) as answer:
                if answer.status_code != HTTPStatus.OK:
                    answer.read()
                    raise self._error(answer, use_case)
                return _read(answer, begun, use_case)
        except httpx.HTTPError as error:
            raise Retryable(
                f"the gateway does not answer: {str(error)[:200] or type(error).__name__}",
                where=self._url,
                mend="./fleet status shows its processes",
            ) from None

    def _error(self, answer: httpx.Response, use_case: str) -> FleetError:
        status = answer.status_code
        said = f"the gateway says {status}: {_message(answer)}"
        where = f"use case {use_case}"
        if status in _REFUSED:
            return Failed(said, where=where)
        if status in _AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Retryable(said, where=where, mend="try again in a while")
        return BadInput(said, where=where)


def _read(answer: httpx.Response, begun: float, use_case: str) -> Answer:
    parts: list[str] = []
    first_s: float | None = None
    ended = False
    for line in answer.iter_lines():
        if line == "data: [DONE]":
            ended = True
            break
        for content in _contents(line, use_case):
            first_s = first_s if first_s is not None else time.monotonic() - begun
            parts.append(content)
    if first_s is None or not ended:
        raise Failed("the gateway broke off its answer", where=f"use case {use_case}")
    told = answer.headers
    return Answer(
        text="".join(parts),
        route=told.get("x-gpufleet-route", ""),
        reason=told.get("x-gpufleet-reason", ""),
        model=told.get("x-gpufleet-model", ""),
        request_id=told.get("x-gpufleet-request-id", ""),
        ttft_s=round(first_s, 3),
        seconds=round(time.monotonic() - begun, 3),
    )


def _contents(line: str, use_case: str) -> Iterator[str]:
    """The text of one event of the stream.

    Raises:
        Failed: it tells an error.
    """
    if not line.startswith("data:"):
        return
    try:
        event = json.loads(line[5:])
        if error := event.get("error"):
            raise Failed(
                f"the gateway broke off its answer: {str(error.get('message'))[:200]}",
                where=f"use case {use_case}",
            )
        for choice in event["choices"]:
            if content := choice.get("delta", {}).get("content"):
                yield str(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Failed("the gateway's answer is no stream", where=f"use case {use_case}") from None


def _message(answer: httpx.Response) -> str:
    """What the body of an error says."""
    try:
        return str(answer.json()["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
