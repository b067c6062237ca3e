"""The parts of a protected set, made as files: consistent, and without a secret in clear."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gpufleet.core.cluster_worker import worker_site
from gpufleet.core.protection import plain_secrets, pointers
from gpufleet.edges.audit_table import AuditTable
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database_copy import copy_sqlite, dump_postgresql, kind_of
from gpufleet.edges.declared_files import read_declared, write_declared
from gpufleet.edges.stack_states import Stack, StackStates
from gpufleet.edges.workspace import PRIVATE
from gpufleet.flows.ground import Ground
from gpufleet.flows.images import listed as built_images
from gpufleet.flows.stacks import stacks_of
from gpufleet.spec.errors import FleetError
from gpufleet.spec.protection import (
    HEADS_FILE,
    POSTGRESQL_FILE,
    SQLITE_FILE,
    AuditHead,
    DatabaseKind,
    Heads,
    Part,
    PartFacts,
)

POINTERS_FILE: Final = "pointers.json"
Missing = list[str]


def gather(ground: Ground, folder: Path) -> list[PartFacts]:
    """Make every part below a folder.

    Heads come first: whatever they say is in the database, which is copied after them.

    Raises:
        BadInput: there is no `pg_dump`.
        Retryable, Failed: the database cannot be copied.
    """
    return [_part(ground, folder, part, make) for part, make in _MAKERS.items()]


def _part(
    ground: Ground, folder: Path, part: Part, make: Callable[[Ground, Path], Missing]
) -> PartFacts:
    into = folder / part.value
    into.mkdir(mode=PRIVATE)
    at = system_clock()
    try:
        missing = make(ground, into)
    except FleetError as error:
        # Without its database a set is none; without another part it is better than an older one.
        if part is Part.DATABASE:
            raise
        missing = [f"{part.value}: {error.where}: {error.what}"]
    files = [file for file in into.rglob("*") if file.is_file()]
    return PartFacts(
        part=part,
        at=at,
        files=len(files),
        size_bytes=sum(file.stat().st_size for file in files),
        missing=missing,
    )


def _heads(ground: Ground, into: Path) -> Missing:
    heads = Heads(
        journal=ground.journal.ends(),
        audit=[
            AuditHead(
                chain=segment.chain, sequence=segment.last, hash=segment.head, sites=segment.sites
            )
            for segment in AuditTable(ground.database).heads()
        ],
    )
    (into / HEADS_FILE).write_text(heads.model_dump_json(indent=2), encoding="utf-8")
    return []


def _database(ground: Ground, into: Path) -> Missing:
    if kind_of(ground.database) is DatabaseKind.SQLITE:
        copy_sqlite(ground.database, into / SQLITE_FILE)
    else:
        dump_postgresql(ground.database, into / POSTGRESQL_FILE)
    return []


def _state(ground: Ground, into: Path) -> Missing:
    """States, also of stacks whose update is under way: Pulumi writes each step's state whole."""
    states = StackStates(ground.state)
    missing: Missing = []
    for stack in stacks_of(ground.fleet, ground.state):
        content = states.read(stack)
        if content is None:
            continue
        if fault := _fault(content):
            missing.append(f"{stack.shown}: {fault}")
            continue
        file = into / state_path(stack)
        file.parent.mkdir(mode=PRIVATE, exist_ok=True)
        file.write_bytes(content)
        config = ground.workspace.stack_config(stack.project, stack.name)
        if config.is_file():
            (file.parent / config.name).write_bytes(config.read_bytes())
    return missing


def state_path(stack: Stack) -> str:
    """Where a stack's state is in its part."""
    return f"{stack.project}/{stack.name}.json"


def _fault(content: bytes) -> str:
    """Why a state is not protected; empty where it is."""
    try:
        state = json.loads(content)
        found = plain_secrets(state)
    except (ValueError, AttributeError):
        return "its state cannot be read"
    return f"its state has a secret in clear: {found[0]}" if found else ""


def _fleet(ground: Ground, into: Path) -> Missing:
    write_declared(read_declared(ground.fleet, ground.fleet_file), into)
    on_cluster = worker_site(ground.fleet) is not None
    missing: Missing = []
    for name in ground.fleet.advisories:
        file, source = into / name, ground.fleet_file.parent / name
        if on_cluster and not source.exists():
            # The worker's pods are not given what their publishers have, and no stack reads.
            continue
        try:
            content = source.read_bytes()
        except OSError as error:
            missing.append(f"{name}: cannot be read: {error.strerror}")
            continue
        file.parent.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        file.write_bytes(content)
    return missing


def _pointers(ground: Ground, into: Path) -> Missing:
    built: list[tuple[str, str]] = []
    missing: Missing = []
    try:
        built = [(report.image, report.digest) for report in built_images(ground.workspace)]
    except (FleetError, OSError) as error:
        missing.append(f"images that were built here: {error}")
    found = json.dumps(pointers(ground.fleet, built), indent=2, sort_keys=True)
    (into / POINTERS_FILE).write_text(found, encoding="utf-8")
    return missing


_MAKERS: Final[dict[Part, Callable[[Ground, Path], Missing]]] = {
    Part.AUDIT_HEADS: _heads,
    Part.DATABASE: _database,
    Part.STATE: _state,
    Part.FLEET: _fleet,
    Part.POINTERS: _pointers,
}
"""In the order in which they are made."""
