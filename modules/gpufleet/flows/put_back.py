"""Putting in place what a protected set brought back; what is replaced is kept beside it."""

import json
from collections.abc import Collection
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gpufleet.core.journal import RESTORED, restoration
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import Database, open_database
from gpufleet.edges.database_copy import (
    check_sqlite,
    dump_postgresql,
    holders_of,
    kind_of,
    put_sqlite,
    restore_postgresql,
)
from gpufleet.edges.stack_states import PLATFORM, POOLS, Stack, StackStates
from gpufleet.edges.workspace import PRIVATE, Workspace
from gpufleet.flows.ground import Ground, whoami
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import BadInput, Failed, Retryable
from gpufleet.spec.protection import (
    POSTGRESQL_FILE,
    SQLITE_FILE,
    BroughtBack,
    DatabaseKind,
    Part,
    PutBack,
)

_STAMP: Final = "%Y%m%dT%H%M%S%f"


def put_back_database(
    workspace: Workspace, fleet_file: Path, brought: BroughtBack, *, despite_damage: bool = False
) -> PutBack:
    """Make a copy of the database the environment's, of the same kind; nobody may have it open.

    This installation writes into the journal under another name from then on, and its first record
    says what came back: anchors of what was lost are no findings.

    Args:
        workspace: where the environment's state is.
        fleet_file: of the environment.
        brought: what `bring_back` gave for the database.
        despite_damage: also replace a PostgreSQL database that cannot be dumped; nothing of it is
            kept then.

    Raises:
        BadInput: it is no database, or of another kind than the environment's.
        Failed: it is damaged, or what it replaces cannot be kept.
        Retryable: a process has the environment's database open.
    """
    state = workspace.for_fleet(load_fleet(fleet_file)).make()
    folder, stamp = Path(brought.folder), datetime.now(UTC).strftime(_STAMP)
    _check_part(brought, Part.DATABASE)
    with closing(open_database(state)) as database:
        kind = kind_of(database)
        name = SQLITE_FILE if kind is DatabaseKind.SQLITE else POSTGRESQL_FILE
        file = folder / name
        if not file.is_file():
            raise BadInput(
                f"the set has no copy for {kind.value}", where=str(folder), mend=f"wanted: {name}"
            )
        if kind is DatabaseKind.SQLITE:
            kept = _put_sqlite(database, file, stamp)
        else:
            kept = state.root / "protect" / f"before-{stamp}.dump"
            kept = _dumped(database, kept, despite_damage=despite_damage)
            restore_postgresql(database, file)
    writer = state.root / "writer"
    if writer.is_file():
        writer.replace(writer.with_name(f"writer.before-{stamp}"))
    ground = Ground.open(workspace, fleet_file)
    try:
        facts = restoration(ground.journal.heads(), brought.snapshot)
        ground.note(RESTORED, actor=whoami(), target=brought.snapshot, **facts)
    finally:
        ground.close()
    return PutBack(part=Part.DATABASE, replaced=[str(kept)] if kept else [])


def put_back_state(
    ground: Ground, brought: BroughtBack, *, stacks: Collection[str] = ()
) -> PutBack:
    """Put stacks' states in place; the next update of each stack finds what it knows of.

    Args:
        ground: the environment.
        brought: what `bring_back` gave for the states.
        stacks: names of those that are put in place, such as `pools fra1`; all where it is empty.

    Raises:
        BadInput: no such stack came back.
        Failed: a state is not whole.
        Retryable: an update of a stack is under way.
    """
    _check_part(brought, Part.STATE)
    folder, states = Path(brought.folder), StackStates(ground.state)
    found = {stack.shown: stack for stack in _stacks(folder, ground.fleet.slug)}
    if strange := sorted(set(stacks) - found.keys()):
        have = ", ".join(f"`{name}`" for name in found)
        raise BadInput("no such stack came back", where=strange[0], mend=f"there are: {have}")
    replaced, same = [], []
    for shown in sorted(stacks or found):
        stack = found[shown]
        config = ground.workspace.stack_config(stack.project, stack.name)
        kept_config = folder / stack.project / config.name
        if kept_config.is_file() and not config.is_file():
            config.parent.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            config.write_bytes(kept_config.read_bytes())
        content = (folder / stack.project / f"{stack.name}.json").read_bytes()
        if states.read(stack) == content:
            same.append(shown)
            continue
        try:
            json.loads(content)["checkpoint"]
        except (ValueError, KeyError, TypeError):
            raise Failed("the state is not whole", where=f"stack {shown}") from None
        states.replace(stack, content, system_clock())
        replaced.append(shown)
    return PutBack(part=Part.STATE, replaced=replaced, kept=same)


def _stacks(folder: Path, slug: str) -> list[Stack]:
    named = [
        Stack.named(project, slug, file.name.removesuffix(".json"))
        for project in (PLATFORM, POOLS)
        for file in sorted((folder / project).glob("*.json"))
    ]
    return [stack for stack in named if stack is not None]


def _check_part(brought: BroughtBack, part: Part) -> None:
    if brought.part is not part:
        raise BadInput(f"is {brought.part.value}, not {part.value}", where=brought.folder)


def _put_sqlite(database: Database, file: Path, stamp: str) -> Path | None:
    check_sqlite(file)
    place = Path(str(database.url.database))
    if holders := holders_of(place):
        shown = ", ".join(map(str, holders))
        raise Retryable(
            "processes have the database open", where=str(place), mend=f"end them first: {shown}"
        )
    return put_sqlite(file, place, stamp)


def _dumped(database: Database, kept: Path, *, despite_damage: bool) -> Path | None:
    """Keep what is replaced; None where it cannot be kept, and need not."""
    kept.parent.mkdir(mode=PRIVATE, exist_ok=True)
    try:
        dump_postgresql(database, kept)
    except Failed as error:
        kept.unlink(missing_ok=True)
        if despite_damage:
            return None
        raise Failed(
            f"the database that is to be replaced cannot be kept: {error.what}",
            where=error.where,
            mend="where it is damaged: put_back_database(..., despite_damage=True)",
        ) from None
    return kept
