"""What is told of snapshots that are taken by themselves."""

from datetime import datetime

from gpufleet.spec.quantities import Spec
from gpufleet.spec.snapshots import SnapshotKind


class ScheduleRow(Spec):
    """One thing that is taken again and again, in one store."""

    revision: str
    kind: SnapshotKind
    site: str
    """Whose store."""
    every_s: float
    rpo_s: float
    """Age above which the newest good one is too old."""
    runs: str
    """Who takes it: `worker`, or the CronJob's name and its schedule."""
    newest: str
    """ID of the newest good snapshot; empty where there is none."""
    age_s: float | None
    """Of the newest good one; None where there is none, or where the store does not answer."""
    next_at: datetime | None
    """When the next is due; None where the store does not answer."""
    late: bool
    """Whether the newest is older than it may be, or nobody knows."""
    fault: str = ""
    """Why nothing is known; empty where all is."""


class ScheduleReport(Spec):
    """Everything that is taken by itself."""

    rows: list[ScheduleRow]

    @property
    def is_good(self) -> bool:
        """Whether nothing is too old."""
        return not any(row.late for row in self.rows)
