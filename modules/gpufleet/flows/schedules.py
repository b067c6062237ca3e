"""Flows that begin by the calendar: each occurrence once, however many workers look."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from croniter import croniter
from pydantic import JsonValue

from gpufleet.flows.durable import Run, flow
from gpufleet.flows.ground import Ground
from gpufleet.flows.operations import submit
from gpufleet.flows.record_keeping import verified
from gpufleet.spec.errors import Failed

CHECK: Final = "journal-check"


@dataclass(frozen=True)
class Schedule:
    """A flow and the times at which it begins, in UTC."""

    kind: str
    cron: str


SCHEDULES: Final = (Schedule(CHECK, "17 3 * * *"),)


@flow(CHECK)
def journal_check(run: Run, order: dict[str, Any]) -> dict[str, JsonValue]:
    """Verify the journal each night, and fail loudly where it was tampered with."""
    del order
    report = run.step("verify", lambda: verified(run.ground).model_dump(mode="json"))
    if report["findings"]:
        run.note("journal.tampered", findings=report["findings"])
        raise Failed(
            f"the journal was tampered with: {len(report['findings'])} findings",
            mend="./fleet journal.verify shows them",
        )
    return report


def due(schedule: Schedule, now: datetime) -> datetime:
    """The last time at which a schedule was to begin: one that was missed is made up for once."""
    last: datetime = croniter(schedule.cron, now.astimezone(UTC)).get_prev(datetime)
    return last


def begin_due(ground: Ground, begun: set[str]) -> None:
    """Submit what is due; a flow's id is its schedule's time, so that no occurrence runs twice.

    Args:
        ground: the environment.
        begun: ids that this process has submitted already; grows.
    """
    for schedule in SCHEDULES:
        at = due(schedule, ground.clock())
        id_ = f"{schedule.kind}-{at:%Y%m%d-%H%M}"
        if id_ not in begun:
            submit(ground, schedule.kind, id_, {"actor": "schedule"})
            begun.add(id_)
