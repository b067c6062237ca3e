"""Strikes the stages of drills that nobody works on any more."""

from functools import partial
from typing import Any

from gpufleet.flows.drills.stage import Stage
from gpufleet.flows.ground import Ground
from gpufleet.flows.operations import open_flows
from gpufleet.spec.drills import DrillReport, DrillState


def strike_left(ground: Ground) -> list[str]:
    """Remove what drills have left whose flow was cancelled or has failed; returns those drills.

    Raises:
        Retryable: a site or the database does not answer.
    """
    left = ground.drills.reports(only_open=True)
    if not left:
        return []
    working = {flow.id for flow in open_flows(ground)}
    struck = []
    for report in left:
        if report.flow in working:
            continue
        Stage(ground, report.flow, report.scenario).strike()
        state = DrillState.CANCELLED if report.state is DrillState.RUNNING else report.state
        ended = {"cleaned": True, "state": state, "ended_at": report.ended_at or ground.clock()}
        ground.drills.change(report.flow, partial(_with, ended))
        struck.append(report.flow)
    return struck


def _with(new: dict[str, Any], report: DrillReport) -> DrillReport:
    return report.model_copy(update=new)
