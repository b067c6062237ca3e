"""The fleet file and every report, as frozen models. Imports nothing of ours outside `spec`."""

from gpufleet.spec.fleet import Fleet
from gpufleet.spec.load import load_fleet

__all__ = ["Fleet", "load_fleet"]
