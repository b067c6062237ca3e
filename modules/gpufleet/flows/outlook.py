"""What a change means for capacity, with the recorded arrivals that its fleet files name."""

from pathlib import Path

from gpufleet.core.capacity.outlook import capacity_change
from gpufleet.flows.recorded import recorded_traces
from gpufleet.spec import Fleet
from gpufleet.spec.changes import CapacityChange
from gpufleet.spec.errors import FleetError


def outlook(before: Fleet | None, after: Fleet, fleet_file: Path) -> CapacityChange | None:
    """The difference in GPUs, cost and risk; None where a trace cannot be read.

    A change is never refused for what cannot be predicted.
    """
    try:
        traces = tuple(
            recorded_traces(fleet, fleet_file) if fleet else {} for fleet in (before, after)
        )
    except FleetError:
        return None
    return capacity_change(before, after, (traces[0], traces[1]))
