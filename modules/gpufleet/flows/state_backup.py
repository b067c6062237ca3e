"""Pulumi's states: kept in the sites' object stores after each update, and brought back."""

import hashlib
import json
import sys
from datetime import timedelta
from typing import Final

from gpufleet.edges.object_store import ObjectStore
from gpufleet.edges.stack_states import Stack, StackStates
from gpufleet.flows.ground import Ground
from gpufleet.flows.stacks import stacks_of
from gpufleet.flows.stores import stores_of
from gpufleet.spec.errors import BadInput, Failed, FleetError, Retryable
from gpufleet.spec.reports import StateVersion

KEEP: Final = timedelta(days=30)
"""No version can be deleted before; later ones stay until the store's own rules remove them."""


def bucket_of(ground: Ground) -> str:
    """The bucket of an environment's states."""
    return f"{ground.fleet.slug}-state"


def back_up(ground: Ground) -> list[str]:
    """Keep every state that changed since it was kept last, in every store; returns the stacks.

    A state whose update is under way is kept once that has ended.

    Raises:
        Retryable: no store could be reached.
    """
    states = StackStates(ground.state)
    stores = stores_of(ground)
    kept: list[str] = []
    for stack in stacks_of(ground.fleet, ground.state):
        content = None if states.is_locked(stack) else states.read(stack)
        if content is None or not stores:
            continue
        digest = hashlib.sha256(content).hexdigest()
        marker = ground.state.root / "pulumi" / "kept" / f"{stack.project}-{stack.name}"
        if marker.is_file() and marker.read_text(encoding="ascii") == digest:
            continue
        _put_everywhere(ground, stores, stack, content)
        marker.parent.mkdir(mode=0o700, exist_ok=True)
        marker.write_text(digest, encoding="ascii")
        kept.append(stack.shown)
    return kept


def versions(ground: Ground) -> list[StateVersion]:
    """Every version that was kept, newest first."""
    found: dict[tuple[str, str], StateVersion] = {}
    for site, store in stores_of(ground).items():
        for stack in stacks_of(ground.fleet, ground.state):
            for kept in store.versions(bucket_of(ground), _key(stack)):
                row = StateVersion(
                    stack=stack.shown,
                    site=site,
                    version=kept["VersionId"],
                    kept_at=kept["LastModified"].isoformat(timespec="seconds"),
                    size_bytes=kept["Size"],
                )
                found[site, row.version] = row
    return sorted(found.values(), key=lambda row: row.kept_at, reverse=True)


def restore(ground: Ground, stack_name: str, version: str, *, apply: bool) -> StateVersion:
    """Bring one version of a stack's state back; what it replaces is kept first.

    Raises:
        BadInput: there is no such stack or version.
        Retryable: an update of the stack is under way, or no store answers.
    """
    stacks = stacks_of(ground.fleet, ground.state)
    stack = next((known for known in stacks if known.shown == stack_name), None)
    if stack is None:
        known = ", ".join(f"`{known.shown}`" for known in stacks)
        raise BadInput("no such stack", where=stack_name, mend=f"there are: {known}")
    chosen = next(
        (
            row
            for row in versions(ground)
            if row.stack == stack.shown and version in {row.version, "latest"}
        ),
        None,
    )
    if chosen is None:
        raise BadInput("no such version", where=version, mend="./fleet state.list shows them")
    if not apply:
        return chosen
    content = content_of(ground, stack, chosen)
    try:
        json.loads(content)["checkpoint"]
    except (ValueError, KeyError):
        raise Failed("the kept state is not whole", where=chosen.version) from None
    StackStates(ground.state).replace(stack, content, ground.clock())
    return chosen


def content_of(ground: Ground, stack: Stack, version: StateVersion) -> bytes:
    """A state of a stack that was kept.

    Raises:
        Retryable: its store does not answer.
    """
    store = stores_of(ground)[version.site]
    return store.get(bucket_of(ground), _key(stack), version.version)


def _put_everywhere(
    ground: Ground, stores: dict[str, ObjectStore], stack: Stack, content: bytes
) -> None:
    reached = 0
    for site, store in stores.items():
        try:
            store.make_locked_bucket(bucket_of(ground))
            store.put_locked(bucket_of(ground), _key(stack), content, ground.clock() + KEEP)
        except FleetError as error:
            sys.stderr.write(f"backup of {stack.shown} at {site}: {error.what}\n")
            continue
        reached += 1
    if not reached:
        raise Retryable("no object store could be reached", mend="the state is kept later")


def _key(stack: Stack) -> str:
    return f"{stack.project}/{stack.name}.json"
