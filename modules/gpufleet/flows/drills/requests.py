"""What people do with drills: submit one, read its story, and see how they go over time."""

from typing import Any

from gpufleet.core.drills.verdict import trends
from gpufleet.flows.drills.drilling import DRILL
from gpufleet.flows.ground import Ground, whoami
from gpufleet.flows.operations import new_id, submit
from gpufleet.spec.drills import DrillPlan, DrillReport, Trend
from gpufleet.spec.errors import BadInput


def request_drill(ground: Ground, plan: DrillPlan, why: str = "") -> str:
    """Hand a plan to the worker.

    Returns:
        The flow's id.
    """
    flow = new_id(DRILL, ground.clock())
    order: dict[str, Any] = {
        "actor": whoami(),
        "plan": plan.model_dump(mode="json"),
        "why": why,
    }
    submit(ground, DRILL, flow, order)
    return flow


def reports(ground: Ground, flow: str = "", scenario: str = "") -> list[DrillReport]:
    """The stories of drills, newest first; or that of one.

    Raises:
        BadInput: there is no such drill.
    """
    return [ground.drills.report(flow)] if flow else ground.drills.reports(scenario)


def latest(ground: Ground, flow: str = "", scenario: str = "") -> DrillReport:
    """The story of one drill: the newest, where none is named.

    Raises:
        BadInput: there is no such drill, or none yet.
    """
    found = reports(ground, flow, scenario)
    if not found:
        raise BadInput(
            "there was no drill yet", where=ground.fleet.slug, mend="./fleet dr.drill begins one"
        )
    return found[0]


def history(ground: Ground, report: DrillReport) -> tuple[list[DrillReport], list[Trend]]:
    """Drills of the same scenario and target, oldest first, and how they go."""
    same = ground.drills.reports(report.scenario, report.target)
    return sorted(same, key=lambda each: each.begun_at), trends(same)
