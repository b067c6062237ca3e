"""What people do with flows: submit, list, attach, cancel, resume."""

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dbos import DBOSClient
from pydantic import JsonValue

from gpufleet.edges.code_version import code_version
from gpufleet.flows.durable import EXECUTOR, QUEUE, client
from gpufleet.flows.ground import Ground
from gpufleet.spec.changes import FlowRow
from gpufleet.spec.errors import BadInput, Failed, FleetError
from gpufleet.spec.progress import Progress, StepProgress

_POLL_S: Final = 0.3
_ENDED: Final = frozenset({"SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"})
_STATES: Final = {
    "ENQUEUED": "queued",
    "DELAYED": "queued",
    "PENDING": "running",
    "SUCCESS": "done",
    "ERROR": "failed",
    "CANCELLED": "cancelled",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
}
_OPEN: Final = ["ENQUEUED", "DELAYED", "PENDING"]
REFUSED: Final = "refused"
"""The state of a flow that another version of the code has begun."""


def new_id(kind: str, now: datetime) -> str:
    """An id that people can read and sort: kind, time, and some random digits."""
    return f"{kind}-{now.astimezone(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def submit(ground: Ground, kind: str, flow: str, order: dict[str, Any]) -> None:
    """Hand a flow to the worker; the same id again changes nothing.

    Args:
        ground: the environment.
        kind: name under which the flow is declared.
        flow: its id.
        order: plain JSON.
    """
    client(ground).enqueue(
        {
            "workflow_name": kind,
            "queue_name": QUEUE,
            "workflow_id": flow,
            "app_version": code_version(),
        },
        order,
    )


def listed(ground: Ground, *, only_open: bool = False) -> list[FlowRow]:
    """Every flow, newest first."""
    statuses = _OPEN if only_open else None
    found = client(ground).list_workflows(status=statuses, sort_desc=True)
    return [_row(ground, status) for status in found]


@dataclass(frozen=True)
class OpenFlow:
    """A flow that has not ended, with what it was asked to do."""

    id: str
    kind: str
    order: dict[str, Any]
    created_at: datetime
    version: str = ""
    """Of the code that has begun it."""
    executor: str = ""
    """The worker that has it; none where it waits in the queue."""


def nobody_s(ground: Ground, flows: Iterable[OpenFlow]) -> set[str]:
    """Those of some flows that nobody works on: their version's worker is gone.

    A worker of another version of the code does not take them up.

    Raises:
        Retryable: the database does not answer.
    """
    gone = {lease.target for lease, _ in ground.leases.abandoned(EXECUTOR)}
    live = {lease.target for lease in ground.leases.held()} - gone
    return {
        flow.id
        for flow in flows
        if flow.version != code_version() and f"{EXECUTOR}{flow.executor}" not in live
    }


def open_flows(ground: Ground) -> list[OpenFlow]:
    """Every flow that has not ended, oldest first."""
    found = client(ground).list_workflows(status=_OPEN)
    return [
        OpenFlow(
            id=status.workflow_id,
            kind=status.name,
            order=_order(status),
            created_at=_moment(status.created_at),
            version=status.app_version or "",
            executor=status.executor_id or "",
        )
        for status in found
    ]


def shown(ground: Ground, flow: str) -> FlowRow:
    """One flow.

    Raises:
        BadInput: there is none with this id.
    """
    return _row(ground, _status(client(ground), flow))


def attach(
    ground: Ground, flow: str, on_progress: Callable[[Progress], None]
) -> dict[str, JsonValue]:
    """Follow a flow to its end, and return what it returned.

    Raises:
        FleetError: what the flow raised; or another version of the code began it.
    """
    dbos = client(ground)
    since: datetime | None = None
    while True:
        status = _status(dbos, flow)
        for at, event in ground.progress.latest(flow, since):
            since = at
            on_progress(event)
        if status.status == "SUCCESS":
            result: dict[str, JsonValue] = status.output
            return result
        if status.status == "CANCELLED":
            raise Failed("was cancelled", where=f"flow {flow}", mend=f"./fleet flows.resume {flow}")
        if status.status in _ENDED:
            raise _error(status)
        if status.app_version != code_version():
            raise _other_version(flow, status.app_version)
        time.sleep(_POLL_S)


def cancel(ground: Ground, flow: str) -> FlowRow:
    """Let a flow end before its next step; what was done is kept.

    Raises:
        BadInput: there is no such flow, or it has ended.
    """
    dbos = client(ground)
    status = _status(dbos, flow)
    if status.status in _ENDED:
        raise BadInput(f"has ended: {_STATES[status.status]}", where=f"flow {flow}")
    dbos.cancel_workflow(flow)
    return _row(ground, _status(dbos, flow))


def resume(ground: Ground, flow: str) -> FlowRow:
    """Let a cancelled flow go on from its last step.

    Raises:
        BadInput: there is no such flow, or it was not cancelled.
        Failed: another version of the code began it.
    """
    dbos = client(ground)
    status = _status(dbos, flow)
    if status.status != "CANCELLED":
        raise BadInput(
            f"was not cancelled: it is {_STATES[status.status]}",
            where=f"flow {flow}",
            mend="one that failed is begun anew: plan it again",
        )
    if status.app_version != code_version():
        raise _other_version(flow, status.app_version)
    dbos.resume_workflow(flow, queue_name=QUEUE)
    return _row(ground, _status(dbos, flow))


def _status(dbos: DBOSClient, flow: str) -> Any:  # noqa: ANN401 - DBOS's own status
    found = dbos.list_workflows(workflow_ids=[flow])
    if not found:
        raise BadInput("there is no such flow", where=flow, mend="./fleet flows.list shows them")
    return found[0]


def _row(ground: Ground, status: Any) -> FlowRow:  # noqa: ANN401 - DBOS's own status
    steps = [
        event
        for _, event in ground.progress.latest(status.workflow_id)
        if isinstance(event, StepProgress)
    ]
    told = [part for part in (steps[-1].state, steps[-1].detail) if part] if steps else []
    ended = status.completed_at or time.time() * 1000
    created = _moment(status.created_at)
    state = _STATES[status.status]
    if state in {"queued", "running"} and status.app_version != code_version():
        state = REFUSED
    return FlowRow(
        id=status.workflow_id,
        kind=status.name,
        state=state,
        step=f"{steps[-1].step}: {', '.join(told)}" if steps else "",
        actor=str(_order(status).get("actor", "")),
        created_at=created.isoformat(timespec="seconds"),
        seconds=round((ended - status.created_at) / 1000, 1),
        worker=status.executor_id or "",
        error=str(status.error) if status.error else "",
    )


def _moment(epoch_ms: int | None) -> datetime:
    return datetime.fromtimestamp((epoch_ms or 0) / 1000, UTC)


def _order(status: Any) -> dict[str, Any]:  # noqa: ANN401 - DBOS's own status
    given = (status.input or {}).get("args") or [{}]
    return dict(given[0])


def _error(status: Any) -> FleetError:  # noqa: ANN401 - DBOS's own status
    if isinstance(status.error, FleetError):
        return status.error
    return Failed(str(status.error or "failed"), where=f"flow {status.workflow_id}")


def _other_version(flow: str, version: str | None) -> Failed:
    return Failed(
        f"was begun by another version of the code ({version}) and is not replayed by this one",
        where=f"flow {flow}",
        mend=f"let a worker of that version end it, or ./fleet flows.cancel {flow} and begin anew",
    )
