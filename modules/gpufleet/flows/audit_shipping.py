"""Audit records on their way: sealed segments to the object stores.

A segment leaves this machine when at least one store has given it back as it was; what the others
missed is noted, and copied when they answer again (`audit_copies`).
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gpufleet.core.gateway.audit import last_uses, locked_until, retention_s, segment_of
from gpufleet.edges.audit_files import SEALED, backlog, lines_of, segments
from gpufleet.edges.audit_recovery import recover
from gpufleet.edges.audit_store import AuditStore
from gpufleet.edges.audit_table import AuditTable
from gpufleet.edges.key_table import KeyTable
from gpufleet.flows.ground import Ground, whoami
from gpufleet.flows.stores import stores_of
from gpufleet.spec.audit import (
    CONTENT,
    KeptSegment,
    Segment,
    ShippingReport,
)
from gpufleet.spec.errors import Failed, FleetError, Retryable
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.records import Fact

if TYPE_CHECKING:
    from pydantic import JsonValue

HEADS: Final = "audit.heads"
BROKEN: Final = "audit.broken"
_HEADS_EVERY_S: Final = 600
_LOCKED_AT_LEAST: Final = timedelta(minutes=1)
"""A lock has to end in the future."""


def bucket_of(fleet: Fleet) -> str:
    """The bucket of an environment's audit records."""
    return f"{fleet.slug}-audit"


def audit_stores(ground: Ground) -> dict[str, AuditStore]:
    """The stores that keep audit records, by site."""
    bucket = bucket_of(ground.fleet)
    return {site: AuditStore(store, bucket) for site, store in stores_of(ground).items()}


def sites_for(fleet: Fleet, data_class: str) -> set[str]:
    """Sites at which records of a chain may be kept.

    Prompts and answers stay in the residency of their use case; records without content (who, when,
    and salted hashes) may be at every site.

    Raises:
        Failed: the use case of prompts and answers is not declared any more.
    """
    _, content, name = data_class.partition(CONTENT)
    if not content:
        return set(fleet.sites)
    case = fleet.use_cases.get(name)
    if case is None:
        raise Failed(
            "prompts and answers of a use case that is not declared may be kept nowhere",
            where=f"use case {name}",
            mend="declare it until they are shipped, or remove them",
        )
    return {site for site, declared in fleet.sites.items() if declared.region in case.residency}


class Shipper:
    """Ships what a gateway's processes have sealed; one at a time for a folder.

    Args:
        ground: the environment.
        folder: the gateway's audit records.
    """

    def __init__(self, ground: Ground, folder: Path) -> None:
        self.ground = ground
        self._folder = folder
        self._stores: dict[str, AuditStore] = {}
        self._heads: dict[str, JsonValue] | None = None
        self._heads_turn = -1

    def ship(self, now: datetime) -> ShippingReport:
        """Ship every sealed segment, after closing what dead processes left open.

        Args:
            now: the time.

        Raises:
            Retryable: no store could be reached; what could not be shipped stays here.
            Failed: some records may be kept nowhere; the others are shipped.
        """
        if not self._folder.is_dir():
            return ShippingReport(shipped=0, interrupted=0, unshipped_s=0.0, waiting_bytes=0)
        interrupted = len(recover(self._folder))
        shipped: list[Segment] = []
        failure: FleetError | None = None
        for _, file in segments(self._folder, SEALED):
            try:
                segment = self._ship_one(file, now)
            except FleetError as error:
                failure = error
                if isinstance(error, Retryable):
                    break
            else:
                shipped += [segment] if segment else []
        self._note_heads(shipped, now)
        if failure is not None:
            # A store that was moved is found again.
            self._stores = {}
            raise failure
        return ShippingReport(
            shipped=len(shipped),
            interrupted=interrupted,
            unshipped_s=unshipped_s(self._folder, now),
            waiting_bytes=backlog(self._folder).size_bytes,
        )

    def _ship_one(self, file: Path, now: datetime) -> Segment | None:
        """Ship a segment, and remove it here; None where it is broken."""
        content = file.read_bytes()
        lines = lines_of(content)
        segment = segment_of(lines)
        if segment is None or segment.size_bytes != len(content):
            _set_aside(self.ground, file, content)
            return None
        self._stores = self._stores or audit_stores(self.ground)
        keep_segment(self.ground, self._stores, segment, content, now)
        KeyTable(self.ground.database).used(last_uses(lines))
        file.unlink()
        return segment

    def _note_heads(self, shipped: list[Segment], now: datetime) -> None:
        """Keep how far chains have come in the journal, which is anchored elsewhere; once a turn.

        What a process that ended had gathered and not written is known by the database.
        """
        if self._heads is None:
            since = now - timedelta(seconds=2 * _HEADS_EVERY_S)
            lately = AuditTable(self.ground.database).shipped_since(since)
            self._heads = {each.chain: [each.last, each.head] for each in lately}
        self._heads |= {each.chain: [each.last, each.head] for each in shipped}
        turn = int(now.timestamp() // _HEADS_EVERY_S)
        if not self._heads or turn == self._heads_turn:
            return
        digest = hashlib.sha256(json.dumps(self._heads, sort_keys=True).encode()).hexdigest()
        fact = Fact(
            id=f"{HEADS}:{self.ground.journal.writer}:{turn}:{digest[:16]}",
            event=HEADS,
            actor=whoami(),
            body={"heads": self._heads},
        )
        self.ground.journal.append(fact)
        self._heads, self._heads_turn = {}, turn


def keep_segment(
    ground: Ground,
    stores: Mapping[str, AuditStore],
    segment: Segment,
    content: bytes,
    now: datetime,
) -> None:
    """Put a segment into every store that may have it, and keep in mind where it is.

    Args:
        ground: the environment.
        stores: by site.
        segment: what it is.
        content: its lines.
        now: the system's time.

    Raises:
        Failed: it may be kept nowhere.
        Retryable: no store takes it.
    """
    lasts_s = retention_s(ground.fleet.retention, segment.data_class)
    until = max(locked_until(segment, lasts_s, now), now + _LOCKED_AT_LEAST)
    able = sorted(stores.keys() & sites_for(ground.fleet, segment.data_class))
    if not able:
        where = f"data class {segment.data_class}"
        raise Failed("no site with an object store may keep these records", where=where)
    reached: list[str] = []
    failures: dict[str, FleetError] = {}
    for site in able:
        try:
            stores[site].put(segment, content, until)
        except FleetError as error:
            sys.stderr.write(f"audit records at {site}: {error.what}\n")
            failures[site] = error
        else:
            reached.append(site)
    if not reached:
        raise Retryable(
            f"no object store takes the audit records: {next(iter(failures.values())).what}",
            where=segment.key,
            mend="they are kept here and shipped when one does",
        )
    kept = KeptSegment(**segment.model_dump(), shipped_at=now, keep_until=until, sites=reached)
    AuditTable(ground.database).add(kept, failures)


def unshipped_s(folder: Path, now: datetime) -> float:
    """Age of the oldest record that is in no object store, s; 0 where there is none."""
    oldest = backlog(folder).oldest_at_s
    return 0.0 if oldest is None else max(0.0, now.timestamp() - oldest)


def _set_aside(ground: Ground, file: Path, content: bytes) -> None:
    """Keep a file that is no segment, and say so: somebody wrote into it."""
    digest = hashlib.sha256(content).hexdigest()
    fact = Fact(
        id=f"{BROKEN}:{file.name}:{digest[:16]}",
        event=BROKEN,
        actor=whoami(),
        target=file.name,
        body={"digest": digest, "size_bytes": len(content)},
    )
    ground.journal.append(fact)
    file.rename(file.with_suffix(".broken"))
