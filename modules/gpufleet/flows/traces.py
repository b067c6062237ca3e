"""The recorded arrivals that use cases name, read from beside the fleet file."""

from pathlib import Path

from gpufleet.core.capacity.arrivals import Trace
from gpufleet.edges.trace_files import read_trace
from gpufleet.spec.fleet import Fleet


def traces_of(fleet: Fleet, fleet_file: Path) -> dict[str, Trace]:
    """Traces by the use cases that name one.

    Raises:
        BadInput: one cannot be read, or is not a trace; with its line.
    """
    return {
        name: Trace(*read_trace(fleet_file.parent / use_case.traffic.trace))
        for name, use_case in fleet.use_cases.items()
        if use_case.traffic.trace is not None
    }
