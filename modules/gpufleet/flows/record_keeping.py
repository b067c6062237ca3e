"""The journal's anchors and verification: heads of its chains in every site's locked store."""

import os
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from gpufleet.core.journal import is_refuted, lost, restorations_of, verify
from gpufleet.edges.object_store import ObjectStore
from gpufleet.flows.ground import Ground
from gpufleet.flows.protected_sets import heads_of
from gpufleet.flows.snapshots.requests import store_of
from gpufleet.flows.stores import places_of, stores_of
from gpufleet.spec.errors import BadInput, FleetError, Retryable
from gpufleet.spec.records import Anchor, JournalRecord, JournalReport

_KEEP_AT_LEAST: Final = timedelta(days=365)
_PREFIX: Final = "anchors/"


def bucket_of(ground: Ground) -> str:
    """The bucket of an environment's anchors."""
    return f"{ground.fleet.slug}-journal"


def anchor(ground: Ground) -> int:
    """Keep every head that moved in the sites' object stores; returns how many.

    Raises:
        Retryable: no store could be reached.
    """
    waiting = ground.journal.unanchored()
    if not waiting:
        return 0
    kept_s = [retention.audit_s for retention in ground.fleet.retention.values()]
    until = ground.clock() + max([_KEEP_AT_LEAST, *(timedelta(seconds=s) for s in kept_s)])
    bucket, reached = bucket_of(ground), 0
    stores = stores_of(ground)
    for site, store in stores.items():
        try:
            store.make_locked_bucket(bucket)
            for head in waiting:
                key = f"{_PREFIX}{head.writer}/{head.sequence:012d}"
                store.put_locked(bucket, key, head.model_dump_json().encode(), until)
        except FleetError as error:
            sys.stderr.write(f"anchor at {site}: {error.what}\n")
            continue
        reached += 1
    if stores and not reached:
        raise Retryable("no object store could be reached", mend="the anchors are kept later")
    for head in waiting:
        ground.journal.mark_anchored(head)
    return len(waiting)


def verified(ground: Ground) -> JournalReport:
    """The whole journal against its hashes, its heads and every anchor.

    Raises:
        Retryable: the database, or every object store, does not answer.
    """
    records = list(ground.journal.records())
    anchors = _anchors(ground)
    refuted, proven = _judged(ground, records)
    return JournalReport(
        records=len(records),
        writers=len({record.writer for record in records}),
        anchors=len(anchors),
        findings=verify(records, anchors, ground.journal.heads(), refuted=refuted),
        lost=lost(records, anchors, refuted=refuted, proven=proven),
    )


def records(ground: Ground, *, event: str = "", flow: str = "") -> list[JournalRecord]:
    """The journal by time; only records whose event begins with `event`, or of one flow."""
    found = [
        record
        for record in ground.journal.records()
        if record.event.startswith(event) and (not flow or record.flow == flow)
    ]
    return sorted(found, key=lambda record: (record.at, record.writer, record.sequence))


def export(ground: Ground, to: str) -> None:
    """Write every record as a line of JSON; a file is written whole or not at all.

    Args:
        ground: the environment.
        to: a file; `-` for stdout.

    Raises:
        BadInput: the file cannot be written.
    """
    lines = (record.model_dump_json() + "\n" for record in ground.journal.records())
    if to == "-":
        sys.stdout.writelines(lines)
        return
    file = Path(to)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as sink:
            sink.writelines(lines)
        temporary.replace(file)
    except OSError as error:
        raise BadInput(f"cannot be written: {error.strerror}", where=to) from None
    finally:
        temporary.unlink(missing_ok=True)


def _judged(ground: Ground, records: Iterable[JournalRecord]) -> tuple[set[str], set[str]]:
    """IDs of restorations that their protected sets refute, and of those that they prove."""
    refuted: set[str] = set()
    proven: set[str] = set()
    for record in restorations_of(records):
        kept = _heads(ground, str(record.body.get("snapshot", "")))
        if is_refuted(record, kept or (), ground.clock()):
            refuted.add(record.id)
        elif kept is not None:
            proven.add(record.id)
    return refuted, proven


def _heads(ground: Ground, snapshot: str) -> list[Anchor] | None:
    """The journal's heads in a protected set; None where no store has it any more."""
    for site in places_of(ground):
        try:
            return heads_of(store_of(ground, site), snapshot).journal
        except FleetError:
            continue
    return None


def _anchors(ground: Ground) -> list[Anchor]:
    found: dict[tuple[str, int, str], Anchor] = {}
    failures: list[FleetError] = []
    stores = stores_of(ground)
    for store in stores.values():
        try:
            for kept in _kept(store, bucket_of(ground)):
                found[kept.writer, kept.sequence, kept.hash] = kept
        except FleetError as error:
            failures.append(error)
    if failures and len(failures) == len(stores):
        raise Retryable(
            f"the anchors cannot be read: {failures[0].what}",
            where=failures[0].where,
            mend="without them a cut tail would not show: try again when a store answers",
        )
    return list(found.values())


def _kept(store: ObjectStore, bucket: str) -> list[Anchor]:
    anchors = []
    for key, content in store.oldest(bucket, _PREFIX):
        try:
            anchors.append(Anchor.model_validate_json(content))
        except ValidationError:
            raise Retryable("an anchor cannot be read", where=f"{bucket}/{key}") from None
    return anchors
