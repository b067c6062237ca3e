"""Strikes the stages of drills that nobody works on any more."""

from functools import partial

from gpufleet.flows.drills.stage import Stage, in_spite_of_errors
from gpufleet.flows.ground import Ground
from gpufleet.flows.operations import open_flows
from gpufleet.spec.drills import DrillReport, DrillState


def strike_left(ground: Ground) -> list[str]:
    """Remove what drills have left whose flow was cancelled or has failed; returns those drills.

    Raises:
        FleetError: a site or the database does not answer; what does is struck before.
    """
    left = ground.drills.reports(only_open=True)
    if not left:
        return []
    working = {flow.id for flow in open_flows(ground)}
    struck: list[str] = []

    def strike(report: DrillReport) -> None:
        Stage(ground, report.flow, report.scenario).strike()
        ground.drills.change(report.flow, partial(_struck, ground))
        struck.append(report.flow)

    in_spite_of_errors(*(partial(strike, each) for each in left if each.flow not in working))
    return struck


def _struck(ground: Ground, report: DrillReport) -> DrillReport:
    """A drill of which nothing is left; one that has ended meanwhile keeps how it did."""
    cut_short = report.state is DrillState.RUNNING
    return report.model_copy(
        update={
            "cleaned": True,
            "state": DrillState.CANCELLED if cut_short else report.state,
            "ended_at": report.ended_at or ground.clock(),
        }
    )
