"""Strikes the stages of drills that nobody works on any more, and gives production back."""

from functools import partial
from typing import Final

from gpufleet.flows.drills.attempts import in_spite_of_errors
from gpufleet.flows.drills.returning import Returning
from gpufleet.flows.drills.stage import Stage
from gpufleet.flows.ground import Ground
from gpufleet.flows.operations import open_flows
from gpufleet.spec.drills import DrillReport, DrillState
from gpufleet.spec.errors import Retryable

_KEEPER: Final = "worker"


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
    working = {flow.id for flow in open_flows(ground)}
    struck: list[str] = []

    def strike(report: DrillReport) -> None:
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

    in_spite_of_errors(*(partial(strike, each) for each in left if each.flow not in working))
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
