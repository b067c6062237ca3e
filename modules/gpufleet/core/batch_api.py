"""OpenAI's files and batches as JSON: what its official clients send and read.

Shapes are those of https://platform.openai.com/docs/api-reference/files and .../batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar

from gpufleet.core.batch_requests import ENDPOINTS, LineProblem
from gpufleet.spec.batches import Batch, BatchState, StoredFile
from gpufleet.spec.errors import BadInput, FleetError, PolicyRefused, Retryable

Json = dict[str, Any]
MOST_METADATA: Final = 16
MOST_KEY_CHARACTERS: Final = 64
MOST_VALUE_CHARACTERS: Final = 512
MOST_LISTED: Final = 100
LISTED: Final = 20
MOST_FILENAME_CHARACTERS: Final = 200
PRIORITY: Final = "gpufleet_priority"
"""Key of a batch's metadata that names its priority: OpenAI's API has no field for it."""


class ApiRefused(Exception):
    """What a caller is told instead of an answer.

    Args:
        status: of HTTP.
        code: for machines.
        message: for people.
        param: field of the request that is wrong.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param

    def as_json(self) -> Json:
        """The body of the answer."""
        is_ours = self.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        type_ = "server_error" if is_ours else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": type_,
                "param": self.param,
                "code": self.code,
            }
        }


def refused(error: FleetError) -> ApiRefused:
    """What a caller is told of an error of ours: nothing of hosts or paths."""
    if isinstance(error, Retryable):
        status, code = HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"
        return ApiRefused(status, code, "The batch service cannot do this now; try again.")
    if isinstance(error, PolicyRefused):
        return ApiRefused(HTTPStatus.FORBIDDEN, "not_allowed", f"{error.where} {error.what}")
    if isinstance(error, BadInput):
        return ApiRefused(HTTPStatus.BAD_REQUEST, "invalid_value", str(error))
    return ApiRefused(HTTPStatus.INTERNAL_SERVER_ERROR, "failed", "The batch service has failed.")


def not_found(kind: str, id_: str) -> ApiRefused:
    """There is none that this caller may see."""
    message = f"No {kind} found with id '{id_:.100}'."
    return ApiRefused(HTTPStatus.NOT_FOUND, "not_found", message)


def wrong_lines(problems: Sequence[LineProblem]) -> ApiRefused:
    """A file with lines that are wrong; the first is told, with how many more there are."""
    first = problems[0]
    line = f"Line {first.line}: " if first.line else "The file "
    more = f" ({len(problems) - 1} more lines are wrong)" if problems[1:] else ""
    message = f"{line}{first.message}{more}"
    return ApiRefused(HTTPStatus.BAD_REQUEST, "invalid_batch_file", message, first.param)


@dataclass(frozen=True)
class BatchAsked:
    """The body of a request for a batch."""

    input_file: str
    endpoint: str
    window: str
    metadata: dict[str, str]


def batch_asked(body: object) -> BatchAsked:
    """A request for a batch, as it may be.

    Raises:
        ApiRefused: naming the field.
    """
    if not isinstance(body, dict):
        raise _invalid("The body has to be a JSON object.", None)
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not isinstance(body.get(name), str):
            raise _invalid(f"'{name}' has to be a string.", name)
    if body["endpoint"] not in ENDPOINTS:
        raise _invalid(f"'endpoint' has to be one of {', '.join(ENDPOINTS)}.", "endpoint")
    return BatchAsked(
        body["input_file_id"],
        body["endpoint"],
        body["completion_window"],
        _metadata(body.get("metadata")),
    )


def demand_upload(filename: str, purpose: str) -> None:
    """Refuse a file that is not for a batch.

    Raises:
        ApiRefused: naming the field.
    """
    if purpose != "batch":
        raise _invalid("'purpose' has to be 'batch'.", "purpose")
    if not (0 < len(filename) <= MOST_FILENAME_CHARACTERS and filename.isprintable()):
        raise _invalid("'file' needs a printable name.", "file")


def file_object(file: StoredFile) -> Json:
    """A file, as OpenAI's API shows it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": _unix(file.created_at),
        "expires_at": _unix(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def batch_object(batch: Batch) -> Json:
    """A batch, as OpenAI's API shows it."""
    ended = {
        state: _unix(batch.ended_at) if batch.state is state else None
        for state in BatchState
        if state.is_final
    }
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.use_case,
        "errors": _errors(batch),
        "input_file_id": batch.input_file,
        "completion_window": _window(batch),
        "status": batch.state.value,
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        "created_at": _unix(batch.created_at),
        "in_progress_at": _unix(batch.started_at),
        "expires_at": _unix(batch.expires_at),
        "finalizing_at": _unix(batch.finalizing_at),
        "completed_at": ended[BatchState.COMPLETED],
        "failed_at": ended[BatchState.FAILED],
        "expired_at": ended[BatchState.EXPIRED],
        "cancelling_at": _unix(batch.cancelling_at),
        "cancelled_at": ended[BatchState.CANCELLED],
        "request_counts": {
            "total": batch.requests,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "metadata": batch.metadata or None,
    }


Shown = TypeVar("Shown", Batch, StoredFile)


def page(found: Sequence[Shown], after: str, limit: int) -> tuple[list[Shown], bool]:
    """Those after one, newest first, and whether there are more.

    Raises:
        ApiRefused: there is none with the id `after`, or the limit is none.
    """
    if not 1 <= limit <= MOST_LISTED:
        raise _invalid(f"'limit' has to be from 1 to {MOST_LISTED}.", "limit")
    first = 0
    if after:
        ids = [each.id for each in found]
        if after not in ids:
            raise _invalid("'after' is not the id of one of these.", "after")
        first = ids.index(after) + 1
    return list(found[first : first + limit]), len(found) > first + limit


def list_object(objects: Iterable[Json], *, has_more: bool) -> Json:
    """A page, as OpenAI's API shows it."""
    data = list(objects)
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def deleted_object(file: str) -> Json:
    """That a file was deleted."""
    return {"id": file, "object": "file", "deleted": True}


def _metadata(value: object) -> dict[str, str]:
    if value is None:
        return {}
    is_good = (
        isinstance(value, dict)
        and len(value) <= MOST_METADATA
        and all(
            isinstance(text, str)
            and len(name) <= MOST_KEY_CHARACTERS
            and len(text) <= MOST_VALUE_CHARACTERS
            and "\x00" not in name + text
            and not any("\ud800" <= each <= "\udfff" for each in name + text)
            for name, text in value.items()
        )
    )
    if not is_good:
        raise _invalid(
            f"'metadata' has to be at most {MOST_METADATA} names of at most {MOST_KEY_CHARACTERS} "
            f"characters, each with a text of at most {MOST_VALUE_CHARACTERS}.",
            "metadata",
        )
    assert isinstance(value, dict)  # noqa: S101 - as was just found
    return value


def _errors(batch: Batch) -> Json | None:
    if not batch.error:
        return None
    error = {"code": "batch_failed", "message": batch.error, "param": None, "line": None}
    return {"object": "list", "data": [error]}


def _window(batch: Batch) -> str:
    seconds = (batch.expires_at - batch.created_at).total_seconds()
    hours, rest = divmod(round(seconds), 3600)
    return f"{round(seconds)}s" if rest else f"{hours}h"


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def _invalid(message: str, param: str | None) -> ApiRefused:
    return ApiRefused(HTTPStatus.BAD_REQUEST, "invalid_value", message, param)
