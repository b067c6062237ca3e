"""Files of batches: in the object store of a site in the residency, until their time is over."""

import sys
from dataclasses import dataclass
from datetime import timedelta

from gpufleet.core import batch_jobs
from gpufleet.edges.batch_table import BatchTable
from gpufleet.edges.object_store import ObjectStore
from gpufleet.flows.ground import Ground
from gpufleet.flows.stores import stores_of
from gpufleet.spec.batches import StoredFile
from gpufleet.spec.errors import FleetError, PolicyRefused, Retryable

INPUT = "batch"
OUTPUT = "batch_output"


@dataclass(frozen=True)
class Caller:
    """On whose behalf something is asked.

    Args:
        owner: key or person.
        team: whose batches and files are seen.
        use_cases: that it may use.
    """

    owner: str
    team: str
    use_cases: frozenset[str]


def table_of(ground: Ground) -> BatchTable:
    """Where batches and files are kept track of."""
    return BatchTable(ground.database)


def store_of(ground: Ground, site: str) -> ObjectStore:
    """A site's object store.

    Raises:
        Retryable: it was never started.
    """
    store = stores_of(ground).get(site)
    if store is None:
        raise Retryable("has no object store yet", where=f"site {site}", mend="./fleet up")
    return store


def put_input(
    ground: Ground, caller: Caller, file: str, filename: str, content: bytes
) -> StoredFile:
    """Keep a file of requests where all use cases of its caller that could read it are at home.

    Args:
        ground: the environment.
        caller: whose it is.
        file: its id; the same again is the same file.
        filename: as the caller names it.
        content: JSON lines.

    Raises:
        PolicyRefused: no store is within every residency.
        Retryable: none of them answers.
    """
    fleet = ground.fleet
    use_cases = [name for name in batch_jobs.batch_use_cases(fleet) if name in caller.use_cases]
    if not use_cases:
        raise PolicyRefused(
            "may use no use case of class batch", where=caller.owner, mend="ask for another key"
        )
    sites = batch_jobs.storing_sites(fleet, use_cases)
    if not sites:
        raise PolicyRefused(
            f"no site lies in the residency of all of {', '.join(use_cases)}",
            where=caller.owner,
            mend="use a key that is scoped to one of them",
        )
    now = ground.clock()
    kept = timedelta(seconds=batch_jobs.kept_s(fleet, use_cases))
    stored = StoredFile(
        id=file,
        team=caller.team,
        use_case=None,
        owner=caller.owner,
        filename=filename,
        purpose=INPUT,
        size_bytes=len(content),
        site=_put_at_first(ground, sites, batch_jobs.file_key(file), content),
        key=batch_jobs.file_key(file),
        created_at=now,
        expires_at=now + kept,
    )
    table_of(ground).add_file(stored)
    return stored


def content_of(ground: Ground, file: StoredFile) -> bytes:
    """What is in a file.

    Raises:
        Failed: it is gone.
        Retryable: its store does not answer.
    """
    return store_of(ground, file.site).get(batch_jobs.bucket_of(ground.fleet), file.key)


def remove(ground: Ground, file: StoredFile) -> None:
    """Delete a file, its content first: what is forgotten is gone."""
    store_of(ground, file.site).delete(batch_jobs.bucket_of(ground.fleet), [file.key])
    table_of(ground).forget_file(file.id)


def sweep(ground: Ground) -> int:
    """Delete the files whose time is over; returns how many. One whose store is lost stays."""
    gone = 0
    for file in table_of(ground).expired_files(ground.clock()):
        try:
            remove(ground, file)
        except FleetError as error:
            sys.stderr.write(f"file {file.id} cannot be deleted yet: {error.what}\n")
            continue
        ground.note(
            "batch.file.deleted",
            actor="retention",
            target=file.id,
            owner=file.owner,
            site=file.site,
        )
        gone += 1
    return gone


def _put_at_first(ground: Ground, sites: list[str], key: str, content: bytes) -> str:
    """Put an object into the first of these sites' stores that answers; returns the site."""
    bucket = batch_jobs.bucket_of(ground.fleet)
    for site in sites:
        try:
            store = store_of(ground, site)
            store.make_bucket(bucket)
            store.put(bucket, key, content)
        except Retryable as error:
            sys.stderr.write(f"site {site}: {error.what}\n")
            continue
        return site
    raise Retryable("no object store answers", where=", ".join(sites))
