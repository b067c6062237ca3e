"""What a Redfish task says of an update (Task schema, DSP2046; Update registry, DSP8011)."""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

from gpufleet.spec.firmware import UpdateProgress, UpdateState

Json = Mapping[str, Any]

FORGOTTEN: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
"""Answers of a controller that knows nothing of a task."""
PASSING: Final = frozenset(
    {HTTPStatus.UNAUTHORIZED, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
)
"""Answers that say nothing of the update: beside these, every 5xx."""
ENDED: Final = {
    "Completed": UpdateState.COMPLETED,
    "Cancelled": UpdateState.FAILED,
    "Exception": UpdateState.FAILED,
    "Interrupted": UpdateState.FAILED,
    "Killed": UpdateState.FAILED,
}
"""`TaskState` of tasks that have ended."""
_WAITS: Final = frozenset({"Pending", "Suspended"})
_AWAITS_RESET: Final = ("AwaitToActivate", "AwaitToUpdate", "ResetRequired")
"""Ends of the `MessageId` by which a task says that it goes on with a reset only."""
_SHOWN: Final = 300


def passes(status: int) -> bool:
    """Whether an answer is one of a controller that is busy, restarts, or ended the session."""
    return status in PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def progress_of(status: int, body: Json) -> UpdateProgress:
    """How far an update is, by the answer to a question for its task that is not a passing one."""
    if status in FORGOTTEN:
        return UpdateProgress(UpdateState.GONE)
    said = messages(body)
    if status >= HTTPStatus.BAD_REQUEST:
        return UpdateProgress(UpdateState.FAILED, message=said or f"HTTP {status}")
    known = body.get("TaskState")
    if known is None and status != HTTPStatus.ACCEPTED:
        return UpdateProgress(UpdateState.COMPLETED, 100)
    state = ENDED.get(str(known), UpdateState.RUNNING)
    if state is UpdateState.COMPLETED and body.get("TaskStatus") == "Critical":
        state = UpdateState.FAILED
    if known in _WAITS:
        state = UpdateState.STAGED if _awaits_reset(body) else UpdateState.WAITING
    return UpdateProgress(state, int(body.get("PercentComplete") or 0), said)


def messages(body: Json) -> str:
    """What a task or an error says, in one line without what cannot be printed."""
    listed = [str(entry.get("Message") or entry.get("MessageId") or "") for entry in _listed(body)]
    said = "; ".join(listed) or str((body.get("error") or {}).get("message", ""))
    return " ".join("".join(c if c.isprintable() else " " for c in said).split())[:_SHOWN]


def _awaits_reset(body: Json) -> bool:
    return any(str(entry.get("MessageId")).endswith(_AWAITS_RESET) for entry in _listed(body))


def _listed(body: Json) -> Iterator[Json]:
    error = body.get("error") or {}
    yield from body.get("Messages") or error.get("@Message.ExtendedInfo") or []
