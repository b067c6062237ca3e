"""The capacity plan as a page: plan, verdicts, and what other traffic would need."""

import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

from gpufleet.core.capacity.traffic import monthly_requests
from gpufleet.core.capacity.what_if import Change, changed
from gpufleet.core.cost.money import cents, per_thousand
from gpufleet.edges.whole_files import write_whole
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.environment import OnProgress
from gpufleet.flows.plans import plan_capacity, plan_fleet
from gpufleet.flows.recorded import recorded_traces
from gpufleet.flows.verdicts import decide_use_cases
from gpufleet.spec.errors import BadInput, FleetError
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.load import load_declared
from gpufleet.spec.plans import Plan, TrafficPoint
from gpufleet.spec.progress import StepProgress

MULTIPLES: Final = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Of the declared traffic."""


def write_capacity_page(
    workspace: Workspace, fleet_file: Path, output: Path, on_progress: OnProgress
) -> Plan:
    """Plan, decide, and write the page.

    Where prices decide nothing, such as when they are stale, the page says so and shows the rest.

    Args:
        workspace: the clone.
        fleet_file: `fleets/NAME/ENVIRONMENT.yaml`.
        output: the page's file.
        on_progress: told about each multiple of the traffic that is planned.

    Raises:
        BadInput: the fleet file or the output; and as `plan_capacity`.
        PolicyRefused: no plan holds; and as `plan_capacity`.
        Retryable: the page cannot be written now.
    """
    if output.is_dir() or not output.parent.is_dir():
        what = "is a folder" if output.is_dir() else f"there is no folder {output.parent}"
        raise BadInput(what, where=str(output), mend="such as --output capacity.html")
    # Only who writes a page pays for the plots' import.
    from gpufleet.reports.capacity_page import capacity_page  # noqa: PLC0415

    begun = time.monotonic()

    def tell(detail: str) -> None:
        on_progress(StepProgress("page", "plan", "running", time.monotonic() - begun, detail))

    tell("as declared")
    plan = plan_capacity(workspace, fleet_file)
    notes: list[str] = []
    try:
        decided = decide_use_cases(workspace, fleet_file, plan)
    except FleetError as refused:
        decided = None
        notes.append(f"no verdict between local and hosted: {refused.what} ({refused.where})")
    fleet, document = load_declared(fleet_file)
    traces = recorded_traces(fleet, fleet_file)
    points: list[TrafficPoint] = []
    for multiple in MULTIPLES:
        if multiple == 1:
            points.append(_point(multiple, fleet, plan))
            continue
        tell(f"{multiple:g} times the declared traffic")
        otherwise, _ = changed(fleet, Change(traffic=multiple))
        try:
            planned = plan_fleet(workspace, otherwise, document, traces)
        except FleetError as refused:
            notes.append(f"no plan holds {multiple:g} times the declared traffic: {refused.what}")
            break
        points.append(_point(multiple, otherwise, planned))
    shown = plan.model_copy(update={"warnings": [*plan.warnings, *notes]})
    write_whole(output, capacity_page(shown, decided, points, datetime.now(UTC)))
    return shown


def _point(multiple: float, fleet: Fleet, plan: Plan) -> TrafficPoint:
    """What a fleet with a multiple of the traffic needs."""
    cost = plan.kept_monthly
    requests = sum(monthly_requests(each.traffic) for each in fleet.use_cases.values())
    return TrafficPoint(
        traffic=multiple,
        gpus=plan.gpus,
        cost_monthly=cents(cost),
        cost_per_1k=per_thousand(cost, requests) or Decimal(0),
    )
