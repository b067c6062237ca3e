"""What the newest protected set holds and its environment has no more: a loss nobody mended.

Without this look an empty database, made anew after a loss, would be protected as the newest one,
and a prune would remove the last set that holds anything.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from gpufleet.core.journal import RESTORED, unexcused
from gpufleet.edges.stack_states import PLATFORM, POOLS, Stack, StackStates
from gpufleet.flows.ground import Ground
from gpufleet.flows.protected_parts import state_path
from gpufleet.flows.protected_sets import heads_of, protected_sets
from gpufleet.flows.snapshots.catalogue import newest_good
from gpufleet.flows.snapshots.store import SnapshotStore, manifest_of
from gpufleet.spec.errors import BadInput, Failed, FleetError
from gpufleet.spec.protection import REVISION, Heads, Part
from gpufleet.spec.snapshots import SnapshotKind, SnapshotSummary

_RESTORATIONS: Final = 1000
"""The newest that are looked at: each one was a person's deed."""
_Sets = list[tuple[str, SnapshotSummary]]


def check_nothing_lost(
    ground: Ground, stores: Mapping[str, SnapshotStore]
) -> dict[str, FleetError]:
    """Compare an environment with its newest protected set that can be read.

    Returns:
        Stores whose sets could not be looked at, and why.

    Raises:
        Failed: records of the journal, or a stack's state, are gone.
        Retryable: the database does not answer.
    """
    failures: dict[str, FleetError] = {}
    for site, summary in _newest_first(stores, failures):
        store = stores[site]
        try:
            heads = heads_of(store, summary.id)
            held = {each.path for each in manifest_of(store, summary.id).files}
        except (BadInput, Failed):
            # An older one that can be read says more than none.
            continue
        except FleetError as error:
            failures[site] = error
            continue
        if gone := [*_records(ground, heads), *_states(ground, held)]:
            raise Failed(
                f"what the newest protected set holds is gone: {'; '.join(gone)}",
                where=f"snapshot {summary.id} at {site}",
                mend="bring it back (docs/protection.md); where it is to be gone: "
                "dr.protect --despite-loss --apply",
            )
        break
    return failures


def _newest_first(
    stores: Mapping[str, SnapshotStore], failures: dict[str, FleetError]
) -> Iterator[tuple[str, SnapshotSummary]]:
    """The newest good one of every store, then all that there are; grows `failures`."""
    newest: _Sets = []
    for site, store in stores.items():
        try:
            found = newest_good(store, REVISION, SnapshotKind.STATE)
        except FleetError as error:
            failures[site] = error
            continue
        newest += [(site, found)] if found else []
    yield from _ordered(newest)
    every: _Sets = []
    for site, _ in newest:
        try:
            every += [(site, each) for each in protected_sets(stores[site])]
        except FleetError as error:
            failures[site] = error
    yield from (each for each in _ordered(every) if each not in newest)


def _ordered(found: _Sets) -> _Sets:
    return sorted(found, key=lambda each: (each[1].created, each[1].id), reverse=True)


def _records(ground: Ground, heads: Heads) -> Iterator[str]:
    lacking = ground.journal.lacks(heads.journal)
    if not lacking:
        return
    for anchor in unexcused(lacking, ground.journal.latest(RESTORED, _RESTORATIONS)):
        yield f"the journal of {anchor.writer} up to record {anchor.sequence}"


def _states(ground: Ground, held: Collection[str]) -> Iterator[str]:
    """States of stacks at sites that the fleet file still has."""
    states = StackStates(ground.state)
    for path in sorted(held):
        part, _, inside = path.partition("/")
        project, _, file = inside.partition("/")
        if part != Part.STATE or project not in {PLATFORM, POOLS}:
            continue
        stack = Stack.named(project, ground.fleet.slug, file.removesuffix(".json"))
        is_state = stack is not None and inside == state_path(stack)
        if stack and is_state and stack.site in ground.fleet.sites and states.read(stack) is None:
            yield f"the state of {stack.shown}"
