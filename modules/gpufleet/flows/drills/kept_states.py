"""The states of stacks that were kept: after each update, and in protected sets; newest first."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from gpufleet.edges.stack_states import Stack
from gpufleet.flows.ground import Ground
from gpufleet.flows.protected_parts import state_path
from gpufleet.flows.protection import bring_back, stores_of
from gpufleet.flows.snapshots.catalogue import newest_good
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.flows.stacks import stacks_of
from gpufleet.flows.state_backup import content_of, versions
from gpufleet.spec.errors import BadInput, Failed
from gpufleet.spec.protection import REVISION, Part
from gpufleet.spec.snapshots import SnapshotKind


@dataclass(frozen=True)
class KeptState:
    """A state of a stack, kept in a site's object store."""

    id: str
    """Of the object's version, or of the protected set, with the site."""
    at: datetime
    """What was there at this time is in it."""
    source: str
    """For people."""
    read: Callable[[], bytes]


def stacks_at(ground: Ground, target: str) -> list[Stack]:
    """The stacks of a target `PROJECT@SITE`."""
    project, _, site = target.partition("@")
    every = stacks_of(ground.fleet, ground.state)
    return [stack for stack in every if (stack.project, stack.site) == (project, site)]


def kept_states(ground: Ground, stack: Stack, folder: Path) -> list[KeptState]:
    """Every state of a stack that was kept after an update, and that of each newest set.

    Args:
        ground: the environment.
        stack: of it.
        folder: where a protected set's part comes to, if it is read.

    Raises:
        Retryable: a store does not answer.
    """
    found = [*_after_updates(ground, stack), *_in_sets(ground, stack, folder)]
    return sorted(found, key=lambda each: each.at, reverse=True)


def digest(content: bytes) -> str:
    """By which two states are told apart."""
    return hashlib.sha256(content).hexdigest()


def _after_updates(ground: Ground, stack: Stack) -> Iterator[KeptState]:
    for row in versions(ground):
        if row.stack == stack.shown:
            at = datetime.fromisoformat(row.kept_at)
            read = partial(content_of, ground, stack, row)
            yield KeptState(
                f"{row.site} {row.version}", at, f"kept after an update, at {row.site}", read
            )


def _in_sets(ground: Ground, stack: Stack, folder: Path) -> Iterator[KeptState]:
    for site, store in stores_of(ground).items():
        newest = newest_good(store, REVISION, SnapshotKind.STATE)
        if newest is not None:
            source = f"of the protected set {newest.id} at {site}"
            read = partial(_from_set, store, newest.id, stack, folder / "sets" / site)
            yield KeptState(f"{site} {newest.id}", newest.created, source, read)


def _from_set(store: SnapshotStore, snapshot: str, stack: Stack, to: Path) -> bytes:
    to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    brought = bring_back(store, Part.STATE, to, snapshot=snapshot)
    try:
        return Path(brought.folder, state_path(stack)).read_bytes()
    except FileNotFoundError:
        raise BadInput("the set has no state of it", where=f"stack {stack.shown}") from None


def readable(found: Sequence[KeptState]) -> Iterator[tuple[KeptState, bytes]]:
    """Those that can be read, with their content."""
    for each in found:
        with suppress(BadInput, Failed):
            yield each, each.read()


def newest_readable(found: Sequence[KeptState]) -> tuple[KeptState, bytes]:
    """The newest state that can be read, with its content.

    Raises:
        Failed: none can be.
    """
    newest = next(readable(found), None)
    if newest is None:
        what = f"none of {len(found)} kept states can be read"
        raise Failed(what, where="a stack's state", mend="./fleet state.list")
    return newest
