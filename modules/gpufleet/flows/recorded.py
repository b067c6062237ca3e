"""The traces that a fleet file names, read."""

from pathlib import Path

from gpufleet.core.capacity.arrivals import Trace
from gpufleet.edges.trace_files import read_trace
from gpufleet.spec.fleet import Fleet


def recorded_traces(fleet: Fleet, fleet_file: Path) -> dict[str, Trace]:
    """The trace of each use case that has one.

    Raises:
        BadInput: a trace cannot be used; the message points into it.
    """
    return {
        name: trace_of(fleet_file.parent / use_case.traffic.trace)
        for name, use_case in fleet.use_cases.items()
        if use_case.traffic.trace is not None
    }


def trace_of(file: Path) -> Trace:
    """One trace.

    Raises:
        BadInput: it cannot be used; the message points into it.
    """
    return Trace(*read_trace(file))
