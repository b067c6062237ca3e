"""OpenAI's output file: one line a request, an answer or an error, in the order of the input."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Gap:
    """Why a request has no answer, in OpenAI's form."""

    code: str
    message: str


EXPIRED: Final = Gap(
    "batch_expired", "This request could not be executed before the completion window expired."
)
CANCELLED: Final = Gap("batch_cancelled", "The batch was cancelled before this request was run.")
UNANSWERED: Final = Gap(
    "engine_failed", "The engine failed on this request's part of the batch each time it was tried."
)


@dataclass(frozen=True)
class Merged:
    """The two files of a batch's end; empty where they have no line."""

    output: bytes
    errors: bytes
    completed: int
    failed: int


def answer(id_: str, custom_id: str, status: int, request_id: str, body: object) -> Line:
    """What an engine answered to one request.

    Args:
        id_: of the line, unique in the batch.
        custom_id: the caller's.
        status: HTTP status.
        request_id: the engine's.
        body: its JSON body.
    """
    response = {"status_code": status, "request_id": request_id, "body": body}
    return {"id": id_, "custom_id": custom_id, "response": response, "error": None}


def written(lines: Iterable[Line]) -> bytes:
    """As JSON lines."""
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def read(content: bytes) -> list[Line]:
    """Answers that were written; a line that is none is left out: its request has no answer."""
    found = []
    for line in content.split(b"\n"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if _is_answer(value):
            found.append(value)
    return found


def merged(batch: str, custom_ids: Sequence[str], answers: Iterable[Line], gap: Gap) -> Merged:
    """Every request of a batch exactly once: its answer, or an error.

    Args:
        batch: id of the batch.
        custom_ids: of the input, in its order; each once.
        answers: in any order; of two for one request the first counts, of others none.
        gap: why a request has no answer.
    """
    wanted = set(custom_ids)
    found: dict[str, Line] = {}
    for line in answers:
        if line["custom_id"] in wanted:
            found.setdefault(line["custom_id"], line)
    good, bad = [], []
    for number, custom_id in enumerate(custom_ids):
        if custom_id not in found:
            bad.append(_without_answer(f"{batch}-{number}", custom_id, gap))
            continue
        line = found[custom_id]
        if line["response"]["status_code"] < HTTPStatus.BAD_REQUEST:
            good.append(line)
        else:
            bad.append(line)
    return Merged(written(good), written(bad), len(good), len(bad))


def _without_answer(id_: str, custom_id: str, gap: Gap) -> Line:
    error = {"code": gap.code, "message": gap.message}
    return {"id": id_, "custom_id": custom_id, "response": None, "error": error}


def _is_answer(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("custom_id"), str):
        return False
    response = value.get("response")
    return isinstance(response, dict) and type(response.get("status_code")) is int
