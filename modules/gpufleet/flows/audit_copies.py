"""Copies of audit records for stores that were down when the others took them."""

import hashlib
import sys
from datetime import datetime
from typing import Final

from gpufleet.edges.audit_store import AuditStore
from gpufleet.edges.audit_table import AuditTable
from gpufleet.flows.audit_shipping import audit_stores, sites_for
from gpufleet.flows.ground import Ground
from gpufleet.spec.audit import KeptSegment
from gpufleet.spec.errors import Failed, FleetError, Retryable

_AT_ONCE: Final = 100
"""Segments for one site in a round: a store that was down for days must not hold up the others."""


def copy_owed(ground: Ground, now: datetime) -> dict[str, int]:
    """Bring stores what they missed; returns how many segments each site's store still lacks.

    A site that may not have a segment any more, and a segment whose lock has ended, are owed
    nothing.

    Raises:
        Retryable: the database does not answer.
    """
    table = AuditTable(ground.database)
    owed = table.copies_owed()
    stores = audit_stores(ground) if owed else {}
    for site in sorted(owed):
        for segment in table.owed(site, _AT_ONCE):
            try:
                is_due = segment.keep_until > now and segment.deleted_at is None
                wanted = is_due and site in sites_for(ground.fleet, segment.data_class)
                if wanted:
                    _copy(segment, site, stores)
            except FleetError as error:
                sys.stderr.write(f"copy of audit records for {site}: {error.what}\n")
                if isinstance(error, Retryable):
                    break
                continue
            table.settle(segment, site, has_it=wanted)
    return table.copies_owed() if owed else {}


def _copy(segment: KeptSegment, site: str, stores: dict[str, AuditStore]) -> None:
    """Copy a segment from the first store that has it as it was shipped.

    Raises:
        Failed: no store that answers has it so, or this site has none now.
        Retryable: the site's store does not answer.
    """
    if site not in stores:
        raise Failed("the site has no object store now", where=f"site {site}")
    for source in segment.sites:
        try:
            content = stores[source].get(segment.key) if source in stores else b""
        except FleetError:
            continue
        if hashlib.sha256(content).hexdigest() == segment.digest:
            stores[site].put(segment, content, segment.keep_until)
            return
    raise Failed("no store that answers has it as it was shipped", where=segment.key)
