"""The audit records of a batch: one for each of its requests, in a chain of the batch's own."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from gpufleet.core.batch_answers import Gap, Line
from gpufleet.core.batch_requests import BatchRequest
from gpufleet.core.gateway.audit import ORIGIN, hash_of, salted
from gpufleet.spec.batches import BatchOrder
from gpufleet.spec.gateway import AuditRecord
from gpufleet.spec.serving import DataClass

ROUTE: Final = "batch"
REASON: Final = "idle GPUs"
_MILLION: Final = 1_000_000


@dataclass(frozen=True)
class Served:
    """What answered a batch, and how its requests are recorded."""

    data_class: DataClass
    model: str
    digest: str
    cost_per_million_tokens: Decimal
    salt: bytes | None
    """The environment's; no hashes where it is not known."""


def records(
    order: BatchOrder,
    served: Served,
    requests: Sequence[BatchRequest],
    answers: Iterable[Line],
    gap: Gap,
) -> Iterator[bytes]:
    """A record for each request, in the order of the input, as lines without their ends.

    The same answers give the same lines, whoever writes them again after a crash.

    Args:
        order: the batch.
        served: what answered it.
        requests: all of them.
        answers: in any order; of two for one request the first counts.
        gap: why a request has no answer.
    """
    found: dict[str, Line] = {}
    for line in answers:
        found.setdefault(line["custom_id"], line)
    writer, previous = f"{order.id}.{served.data_class.value}", ORIGIN
    for number, request in enumerate(requests):
        response = (found.get(request.custom_id) or {}).get("response") or {}
        record = AuditRecord(
            writer=writer,
            sequence=number + 1,
            previous=previous,
            request_id=f"{order.id}-{number}",
            **_facts(order, served, request, response, gap),
        )
        line_ = record.model_dump_json(exclude={"prompt", "answer"}).encode()
        previous = hash_of(line_)
        yield line_


def _facts(
    order: BatchOrder,
    served: Served,
    request: BatchRequest,
    response: Mapping[str, Any],
    gap: Gap,
) -> dict[str, Any]:
    body = response.get("body")
    body = body if isinstance(body, dict) else {}
    status = int(response.get("status_code") or 0)
    prompt_tokens, output_tokens = _tokens(body)
    tokens = prompt_tokens + output_tokens
    return {
        "at": _moment(order, body),
        "key_id": order.owner,
        "team": order.team,
        "use_case": order.use_case,
        "model": served.model if status else "",
        "digest": served.digest if status else "",
        "route": ROUTE,
        "reason": REASON if status else gap.message,
        "replica": "",
        "status": status,
        "error": _error(body) if status else gap.code,
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "ttft_s": None,
        "latency_s": 0.0,
        "cost": str(served.cost_per_million_tokens * tokens / _MILLION),
        "prompt_hash": _hashed(served, _prompt(request.body)),
        "answer_hash": _hashed(served, _answer(body)),
    }


def _moment(order: BatchOrder, body: Mapping[str, Any]) -> str:
    """When the engine began its answer; when the batch was ordered, where it does not say."""
    created = body.get("created")
    at = order.created_at
    if isinstance(created, int) and not isinstance(created, bool):
        with contextlib.suppress(OverflowError, ValueError, OSError):
            at = max(at, datetime.fromtimestamp(created, UTC))
    return at.astimezone(UTC).isoformat(timespec="milliseconds")


def _tokens(body: Mapping[str, Any]) -> tuple[int, int]:
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt, output = (count if isinstance(count, int) and count > 0 else 0 for count in counts)
    return prompt, output


def _error(body: Mapping[str, Any]) -> str:
    error = body.get("error")
    if not error:
        return ""
    kind = error.get("type") if isinstance(error, dict) else None
    return str(kind or "engine_error")[:100]


def _hashed(served: Served, text: str) -> str:
    return "" if served.salt is None else salted(served.salt, text)


def _answer(body: Mapping[str, Any]) -> str:
    """The texts of an answer, one after the other, as the gateway hashes them."""
    choices = body.get("choices")
    texts = []
    for choice in choices if isinstance(choices, list) else []:
        said = choice if isinstance(choice, dict) else {}
        message = said.get("message")
        text = message.get("content") if isinstance(message, dict) else said.get("text")
        texts.append(text if isinstance(text, str) else "")
    return "\n".join(texts)


def _prompt(body: Mapping[str, Any]) -> str:
    """What was asked, in the form that the gateway hashes."""
    asked = body.get("messages", body.get("prompt"))
    return json.dumps(asked, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
