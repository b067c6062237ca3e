"""Strikes the stages of drills that nobody works on any more, and gives production back."""

from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from gpufleet.flows.drills.attempts import in_spite_of_errors
from gpufleet.flows.drills.returning import Returning
from gpufleet.flows.drills.stage import Stage
from gpufleet.flows.ground import Ground
from gpufleet.flows.operations import cancel, nobody_s, open_flows
from gpufleet.spec.drills import DrillReport, DrillState
from gpufleet.spec.errors import BadInput, Retryable

_KEEPER: Final = "worker"
_NOBODY: Final = "its worker is gone, and no other takes it up"
_TOO_LONG: Final = "took longer than was approved"
_GRACE: Final = timedelta(seconds=30)
"""A drill that is over its time ends by itself, and is cut short only if it does not."""


def strike_left(ground: Ground) -> list[str]:
    """Remove what drills have left whose flow was cancelled or has failed; returns those drills.

    What one for real has taken from production is given back first, however often it takes.

    Raises:
        FleetError: a site or the database does not answer, or production is not ready again yet;
            what can be struck is struck before.
    """
    left = ground.drills.reports(only_open=True)
    if not left:
        return []
    flows = open_flows(ground)
    working = {flow.id for flow in flows}
    # Cancelled first: no worker goes on with what was given back.
    stray = dict.fromkeys(nobody_s(ground, flows), _NOBODY)
    stray |= {each.flow: _TOO_LONG for each in left if _is_overdue(each, ground.clock())}
    struck: list[str] = []

    def strike(report: DrillReport) -> None:
        if report.flow in working:
            _cut_short(ground, report.flow, stray[report.flow])
        # First: a thread that still works on a step of it takes nothing more then.
        ended = ground.drills.change(report.flow, partial(_ended, ground))
        if back := Returning.of(ground, ended):
            if waits := back.proceed():
                raise Retryable(waits, where=f"drill {ended.flow}")
            if ended.given_back_at is None:
                ground.note("drill.given_back", actor=_KEEPER, target=ended.target)
                ground.drills.change(ended.flow, partial(_given_back, ground))
            back.clean()
        else:
            Stage(ground, ended.flow, ended.scenario).strike()
        ground.drills.change(ended.flow, lambda told: told.model_copy(update={"cleaned": True}))
        struck.append(ended.flow)

    in_spite_of_errors(
        *(partial(strike, each) for each in left if each.flow not in working or each.flow in stray)
    )
    return struck


def hitting(ground: Ground) -> set[tuple[str, str]]:
    """Scenario and target of each drill that production is hit by, until it is given back.

    Raises:
        Retryable: the database does not answer.
    """
    left = ground.drills.reports(only_open=True)
    return {
        (each.scenario, each.target)
        for each in left
        if each.for_real is not None and each.given_back_at is None
    }


def _is_overdue(report: DrillReport, now: datetime) -> bool:
    """Whether one for real hits production for longer than was approved; not on its way back."""
    if report.for_real is None or report.ended_at is not None:
        return False
    most = timedelta(seconds=report.for_real.at_most_s) + _GRACE
    return now > (report.failed_at or report.begun_at) + most


def _cut_short(ground: Ground, flow: str, why: str) -> None:
    with suppress(BadInput):
        # It may have ended meanwhile.
        cancel(ground, flow)
    ground.drills.change(flow, lambda told: told.model_copy(update={"notes": [*told.notes, why]}))


def _ended(ground: Ground, report: DrillReport) -> DrillReport:
    """A drill that has ended; one that has ended meanwhile keeps how it did."""
    cut_short = report.state is DrillState.RUNNING
    return report.model_copy(
        update={
            "state": DrillState.CANCELLED if cut_short else report.state,
            "ended_at": report.ended_at or ground.clock(),
        }
    )


def _given_back(ground: Ground, report: DrillReport) -> DrillReport:
    return report.model_copy(update={"given_back_at": report.given_back_at or ground.clock()})
