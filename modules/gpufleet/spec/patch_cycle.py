"""What `patch.cycle` reports: what is overdue, and which known vulnerabilities are installed."""

from datetime import datetime
from typing import Final

from pydantic import Field

from gpufleet.spec.governance import PatchTarget
from gpufleet.spec.quantities import Spec

PINNED: Final = "fleet file"
"""In place of a flow: nobody has seen the host, and its age counts from when that was noticed."""


class InstalledVersion(Spec):
    """What one host has of one part."""

    node: str
    part: str
    """Such as `driver`, `containerd`, `container-toolkit`, `kernel`, `bmc`."""
    version: str
    since: datetime | None = None
    """When this version was seen first; empty where only the fleet file tells it."""
    seen_at: datetime | None = None
    """When it was seen last."""
    flow: str = ""
    """The patch that has installed it; empty where none of ours did."""


class CadenceRow(Spec):
    """How one component stands against its declared cadence."""

    component: PatchTarget
    every_s: float
    critical_within_s: float
    hosts: int
    """Hosts of which its age is known."""
    unknown: int
    """Hosts of which nobody has seen a version yet; with a worker their age counts too."""
    oldest_node: str = ""
    """The host that was patched longest ago."""
    oldest_s: float | None = None
    """How long ago that was."""
    late_s: float = 0
    """By how much that is above `every_s`; 0 where it is not."""
    oldest_critical_s: float | None = None
    """How long the oldest critical vulnerability that is still installed has been known."""
    critical_late_s: float = 0
    """By how much that is above `critical_within_s`; 0 where it is not."""
    window_opens: datetime | None = None
    """When its next declared window opens, or has opened; a freeze may still close it."""

    @property
    def overdue_s(self) -> float:
        """By how much it is overdue, by cadence or by a critical vulnerability; 0 if it is not."""
        return max(self.late_s, self.critical_late_s)


class Exposure(Spec):
    """A known vulnerability that is installed somewhere."""

    advisory: str
    aliases: list[str] = Field(default_factory=list)
    severity: str
    """`critical`, `high`, `medium`, `low`; empty where nobody says."""
    component: PatchTarget
    part: str
    package: str
    """As the advisory calls it."""
    published: datetime
    age_s: float
    versions: list[str]
    """That are installed and affected."""
    fixed: list[str]
    """Versions that mend it, as far as the advisory tells them."""
    nodes: list[str]


class PatchCycleReport(Spec):
    """The state of a fleet against its patch cycle."""

    fleet: str
    environment: str
    at: datetime
    cadences: list[CadenceRow]
    exposures: list[Exposure]
    undecided: list[str]
    """Advisories on installed packages whose versions cannot be compared, each with its reason."""
    advisories: int
    """How many were read that are about what gpufleet patches."""
    oldest_critical_s: float | None
    """How long the oldest critical vulnerability that is still installed has been known."""

    @property
    def is_good(self) -> bool:
        """Whether nothing is overdue."""
        return all(row.overdue_s == 0 for row in self.cadences)
