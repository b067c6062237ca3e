"""What a drill would have lost for good: records that only what failed has held."""

from datetime import datetime
from typing import Final

from gpufleet.core.drills.scenarios import STORE_LOST
from gpufleet.edges.audit_table import AuditTable
from gpufleet.flows.ground import Ground
from gpufleet.spec.drills import DrillPlan

_MOST_SEGMENTS: Final = 1000


def lost_s(ground: Ground, plan: DrillPlan, failed_at: datetime) -> float:
    """How far back the records go, at the failure, that are only where something was lost, s.

    Audit records: the journal and the database are not at a site. What is lost beside a site or
    its store holds none.

    Args:
        ground: the environment.
        plan: of the drill.
        failed_at: when the failure was declared.
    """
    table, target = AuditTable(ground.database), plan.target
    lost = target.partition("@")[2] if plan.scenario == STORE_LOST.name else target
    since = [
        (failed_at - segment.begins).total_seconds()
        for site in ground.fleet.sites
        if site != lost
        for segment in table.owed(site, _MOST_SEGMENTS)
        if segment.sites == [lost]
    ]
    return round(max([0.0, *since]), 3)
