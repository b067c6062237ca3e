"""What waits for an opening of the calendars, since when, for whom, and until when."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from gpufleet.core.freeze import Decision
from gpufleet.flows import change, patching
from gpufleet.flows.durable import WINDOW
from gpufleet.flows.ground import Ground
from gpufleet.flows.operations import OpenFlow, open_flows
from gpufleet.spec.overrides import QueueRow
from gpufleet.spec.progress import StepProgress

Decisions = Callable[[Ground, str, dict[str, Any]], dict[str, Decision]]
DECISIONS: Final[dict[str, Decisions]] = {
    change.CHANGE: change.decisions,
    patching.PATCH: patching.decisions,
}
"""What each kind of flow waits for at its window: the decision on every site, by its name."""


def waiting(ground: Ground) -> list[QueueRow]:
    """Flows that wait for an opening, by the time at which they can go on; unknown ones last."""
    rows = [row for flow in open_flows(ground) if (row := _row(ground, flow))]
    return sorted(rows, key=lambda row: (not row.opens, row.opens, row.asked_at))


def _row(ground: Ground, flow: OpenFlow) -> QueueRow | None:
    steps = [
        (at, event)
        for at, event in ground.progress.latest(flow.id)
        if isinstance(event, StepProgress)
    ]
    decide = DECISIONS.get(flow.kind)
    held = [step for _, step in steps if step.step.startswith(WINDOW) and step.state == "waiting"]
    if decide is None or not held:
        return None
    told = held[-1]
    shut = {
        site: decision
        for site, decision in decide(ground, flow.id, flow.order).items()
        if not decision.admitted
    }
    opens = [decision.opens for decision in shut.values()]
    return QueueRow(
        flow=flow.id,
        kind=flow.kind,
        actor=str(flow.order.get("actor", "")),
        asked_at=flow.created_at.isoformat(timespec="seconds"),
        waits_since=_began(steps, told.step),
        sites=sorted(shut),
        reason="; ".join(f"{site}: {found.reason}" for site, found in shut.items()) or told.detail,
        opens=_latest(opens),
    )


def _began(steps: list[tuple[datetime, StepProgress]], wait: str) -> str:
    """When a wait began: its deadline was set first, and is told once."""
    times = [at for at, event in steps if event.step == f"{wait}: deadline"]
    return times[0].isoformat(timespec="seconds") if times else ""


def _latest(opens: list[datetime | None]) -> str:
    """When every site is open at the earliest; empty where one's opening is not known."""
    known = [moment for moment in opens if moment is not None]
    return max(known).isoformat() if known and len(known) == len(opens) else ""
