"""Look at the machine, and judge what was seen."""

from pathlib import Path

from gpufleet.core.prerequisites import Finding, judge
from gpufleet.edges.machine import look
from gpufleet.edges.workspace import Workspace
from gpufleet.local.platform import embedded_sites
from gpufleet.spec import load_fleet


def diagnose(workspace: Workspace, fleet_file: Path) -> list[Finding]:
    """Every prerequisite for `up` of a fleet on this machine."""
    return judge(look(workspace, len(embedded_sites(load_fleet(fleet_file)))))
