"""Pulumi's state is lost, or an older one: in a backend of the drill's own it comes back."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final

from gpufleet.core.drills.stack_state import emptied, made_again, updated_at
from gpufleet.edges.pulumi import PulumiCli
from gpufleet.edges.stack_states import PLATFORM, Stack, StackStates
from gpufleet.edges.variables import BACKEND_VARIABLE, backend_url
from gpufleet.edges.whole_files import write_whole
from gpufleet.edges.workspace import EnvironmentDir
from gpufleet.flows.drills.kept_states import (
    KeptState,
    digest,
    kept_states,
    newest_readable,
    readable,
    stacks_at,
)
from gpufleet.flows.drills.script import Common, Doubted
from gpufleet.flows.environment import Environment, variables_of
from gpufleet.flows.ground import Ground
from gpufleet.spec.drills import Placed
from gpufleet.spec.errors import Failed
from gpufleet.spec.reports import StackPreview

_RESTORED: Final = "restored.json"
_THERE: Final = "there.json"
_NO_OLDER: Final = "no older state was kept: that a stale one is told apart is not shown"


@dataclass(frozen=True)
class SpareBackend:
    """A backend of a drill's own: previews by it read no state of the environment's.

    Args:
        ground: the environment.
        folder: of the backend.
    """

    ground: Ground
    folder: Path

    def put(self, states: Mapping[Stack, bytes]) -> None:
        """Make it hold these states."""
        found = StackStates(self._state)
        found.begin()
        for stack, content in states.items():
            found.replace(stack, content, self.ground.clock())

    def previews(self, stacks: Iterable[Stack], *, refreshed: bool = False) -> list[StackPreview]:
        """What an update of each stack would change, by what it holds.

        Raises:
            Failed: a program fails.
        """
        cli = self._cli
        return [cli.preview(each, lambda _: None, refreshed=refreshed) for each in stacks]

    @property
    def _state(self) -> EnvironmentDir:
        return EnvironmentDir(self.folder)

    @cached_property
    def _cli(self) -> PulumiCli:
        ground = self.ground
        environment = Environment.load(ground.workspace, ground.fleet_file, lambda _: None)
        variables = variables_of(ground.workspace, ground.fleet_file)
        variables[BACKEND_VARIABLE] = backend_url(self._state.pulumi_state)
        return PulumiCli(ground.workspace, self._state, environment.binaries, variables)


class StateLost(Common):
    """The stacks of a site have no state; the newest that was kept is brought back."""

    def fail(self) -> str:
        """Nothing of the environment's own; what each state is like at the failure."""
        live = self._live
        if gone := [stack.shown for stack in self._stacks if stack not in live]:
            raise Failed("its state is lost already", where=f"stack {gone[0]}")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = {
            each.id: each.at.isoformat()
            for stack in self._stacks
            for each in kept_states(self.ground, stack, self.folder)
        }
        write_whole(self.folder / _THERE, json.dumps(there))
        return json.dumps({stack.shown: digest(live[stack]) for stack in self._stacks})

    def notice(self, fact: str, doubted: Doubted) -> str:
        """A preview without the state wants to make everything."""
        del fact
        lost = {stack: emptied(self._live[stack]) for stack in self._stacks}
        found = self._previewed("lost", lost)
        for each in found:
            if not each.is_first or not each.changes:
                doubted(f"a preview of {each.stack} does not tell that its state is lost")
        count = sum(len(each.changes) for each in found)
        return f"without it a preview makes {count} resources, and knows none"

    def choose(self, fact: str) -> str:
        """The newest state of each stack that can be read."""
        del fact
        told = []
        for stack in self._stacks:
            kept, _ = newest_readable(self._kept(stack))
            told.append(f"{stack.shown}: of {_shown(kept.at)}, {kept.source}")
        return "; ".join(told)

    def restore(self, placed: Sequence[Placed], doubted: Doubted) -> str:
        """Put them in place, and see by previews that nothing is to be made again."""
        del placed
        restored: dict[Stack, bytes] = {}
        told: list[str] = []
        points: dict[str, dict[str, str]] = {}
        for stack in self._stacks:
            states = self._kept(stack)
            kept, content = newest_readable(states)
            restored[stack] = content
            points[stack.shown] = {"at": kept.at.isoformat(), "digest": digest(content)}
            told.append(_stale(stack, states, content, doubted))
        write_whole(self.folder / _RESTORED, json.dumps(points))
        for refreshed in (False, True):
            beside = "the cluster" if refreshed else "the state"
            found = self._previewed("restored", restored, refreshed=refreshed)
            for each in found:
                if again := made_again(each.changes):
                    names = ", ".join(change.name for change in again[:3])
                    doubted(f"beside {beside} {each.stack} would make {names} again")
            same = sum(each.same for each in found)
            changes = sum(len(each.changes) for each in found)
            told.append(f"beside {beside}: {same} the same, {changes} to change")
        return "; ".join(filter(None, told))

    def lost_s(self, fact: str, failed_at: datetime) -> float:
        """Nothing of a state that came back as it was; of another one its age."""
        before: dict[str, str] = json.loads(fact)
        content = (self.folder / _RESTORED).read_text(encoding="utf-8")
        points: dict[str, dict[str, str]] = json.loads(content)
        ages = [
            (failed_at - datetime.fromisoformat(point["at"])).total_seconds()
            for shown, point in points.items()
            if point["digest"] != before[shown]
        ]
        return round(max([0.0, *ages]), 3)

    def _previewed(
        self, name: str, states: Mapping[Stack, bytes], *, refreshed: bool = False
    ) -> list[StackPreview]:
        """By a backend with these states, and of the site's other stacks what they are now."""
        backend = SpareBackend(self.ground, self.folder / name)
        backend.put({**self._live, **states})
        return backend.previews(self._stacks, refreshed=refreshed)

    def _kept(self, stack: Stack) -> list[KeptState]:
        """What was kept when it was lost, and since when: a later one would not be there."""
        content = (self.folder / _THERE).read_text(encoding="utf-8")
        there: dict[str, str] = json.loads(content)
        # Some stores date a version anew when another one is put over it.
        found = [
            replace(each, at=datetime.fromisoformat(there[each.id]))
            for each in kept_states(self.ground, stack, self.folder)
            if each.id in there
        ]
        return sorted(found, key=lambda each: each.at, reverse=True)

    @cached_property
    def _stacks(self) -> list[Stack]:
        return stacks_at(self.ground, self.plan.target)

    @property
    def _live(self) -> dict[Stack, bytes]:
        """What there is of the target's stacks, and of the platform that they stand on."""
        states = StackStates(self.ground.state)
        site = self.plan.target.partition("@")[2]
        wanted = [*self._stacks, Stack(PLATFORM, self.ground.fleet.slug, site)]
        found = {stack: states.read(stack) for stack in wanted}
        return {stack: content for stack, content in found.items() if content is not None}


def _stale(stack: Stack, states: Sequence[KeptState], newest: bytes, doubted: Doubted) -> str:
    """Whether an older state is told from the newest by the update that wrote it."""
    for _, older in readable(states):
        if digest(older) == digest(newest):
            continue
        before, after = updated_at(older), updated_at(newest)
        if before is None or after is None or before >= after:
            doubted(f"a stale state of {stack.shown} is not told from the newest")
            return ""
        return f"{stack.shown}: that of {_shown(before)} is told to be older"
    return f"{stack.shown}: {_NO_OLDER}"


def _shown(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
