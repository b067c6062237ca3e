"""Audit records whose retention has ended: deleted, with proof.

The journal states what is about to be deleted before any store is asked to, and what is gone when
every store has agreed. Only the second is a proof: a gap without it is a finding.
"""

from datetime import datetime
from itertools import groupby, takewhile
from typing import Final

from gpufleet.core.gateway.audit import due_at, retention_s
from gpufleet.edges.audit_table import AuditTable
from gpufleet.flows.audit_shipping import audit_stores
from gpufleet.flows.ground import Ground, whoami
from gpufleet.spec.audit import Deletion, DeletionPlan, KeptSegment, Segment
from gpufleet.spec.records import Fact

DELETING: Final = "audit.deleting"
DELETED: Final = "audit.deleted"


def plan_deletion(ground: Ground, now: datetime) -> DeletionPlan:
    """Segments whose retention has ended, from the beginning of each chain."""
    return _deletion(_due(ground, now), applied=False)


def delete(ground: Ground, now: datetime) -> DeletionPlan:
    """Delete segments whose retention has ended; the journal keeps the proof.

    Raises:
        Retryable: a store does not answer; the next call goes on.
        Failed: a store holds one locked still.
    """
    due = _due(ground, now)
    stores = audit_stores(ground)
    for _, grouped in groupby(due, key=lambda segment: segment.chain):
        wanted = list(grouped)
        _state(ground, DELETING, wanted, now)
        gone: list[KeptSegment] = []
        try:
            for segment in wanted:
                for store in stores.values():
                    store.delete(segment.key)
                gone.append(segment)
        finally:
            if gone:
                _state(ground, DELETED, gone, now)
                AuditTable(ground.database).mark_deleted(gone, now)
    return _deletion(due, applied=True)


def _due(ground: Ground, now: datetime) -> list[KeptSegment]:
    """Segments that are to be deleted: never one behind another that stays."""
    due: list[KeptSegment] = []
    unlocked = AuditTable(ground.database).unlocked(now)
    for _, grouped in groupby(unlocked, key=lambda kept: kept.chain):
        due += takewhile(lambda kept: due_at(kept, ground.fleet.retention) <= now, grouped)
    return due


def _state(ground: Ground, event: str, segments: list[KeptSegment], now: datetime) -> None:
    """State in the journal which segments of a chain are to be deleted, or are, and why."""
    chain, data_class = segments[0].chain, segments[0].data_class
    deletion = Deletion(
        chain=chain,
        data_class=data_class,
        retention_s=retention_s(ground.fleet.retention, data_class),
        segments=[
            Segment(**segment.model_dump(include=set(Segment.model_fields))) for segment in segments
        ],
        deleted_at=now,
        by=whoami(),
    )
    fact = Fact(
        id=f"{event}:{chain}:{segments[0].first}-{segments[-1].last}",
        event=event,
        actor=deletion.by,
        target=chain,
        body=deletion.model_dump(mode="json"),
    )
    ground.journal.append(fact)


def _deletion(due: list[KeptSegment], *, applied: bool) -> DeletionPlan:
    return DeletionPlan(
        segments=due,
        records=sum(segment.records for segment in due),
        size_bytes=sum(segment.size_bytes for segment in due),
        applied=applied,
    )
