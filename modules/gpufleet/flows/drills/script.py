"""What a play asks of its scenario, and what most scenarios answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from gpufleet.flows.drills.artifacts import not_shown, restore_newest, told
from gpufleet.flows.drills.losses import lost_s
from gpufleet.flows.drills.objects import Where
from gpufleet.flows.drills.stage import Stage, wait_until
from gpufleet.flows.ground import Ground
from gpufleet.spec.drills import DrillPlan, Placed
from gpufleet.spec.errors import Failed

Doubted = Callable[[str], None]
"""Told what keeps a drill from being met, however soon service was back."""
_GONE_WITHIN_S: Final = 60.0


class Script(Protocol):
    """What is particular about a scenario; each call finds what an earlier one has done.

    `fact` is what `fail` has told.
    """

    def prepare(self) -> None:
        """Make what is to fail, before the clock runs."""

    def where(self, fact: str) -> Where:
        """On which nodes replicas may run; before the failure the fact is empty."""

    def fail(self) -> str:
        """Let it fail, besides the replicas; what has to be known of it later."""

    def notice(self, fact: str, doubted: Doubted) -> str:
        """See that it is lost, where replicas go on; by what that is seen."""

    def decide(self, fact: str) -> list[Placed]:
        """What comes up, now that it has failed."""

    def choose(self, fact: str) -> str:
        """What is restored, where replicas go on; in a few words."""

    def make_room(self, fact: str) -> str:
        """Let what has failed go, where something else comes up at its site; in a few words."""

    def restore(self, placed: Sequence[Placed], doubted: Doubted) -> str:
        """Bring it back; what that was made of.

        Args:
            placed: what needs it.
            doubted: told what is not shown to come back.

        Raises:
            FleetError: it cannot be had.
        """

    def lost_s(self, fact: str, failed_at: datetime) -> float:
        """How far back the records go, at the failure, that are lost for good, s."""


@dataclass(frozen=True)
class Common:
    """What scenarios have in common: nothing but replicas fails, and they come up where planned.

    Args:
        ground: the environment.
        plan: what the drill does.
        stage: where it plays.
    """

    ground: Ground
    plan: DrillPlan
    stage: Stage

    def prepare(self) -> None:
        """Nothing."""

    def where(self, fact: str) -> Where:
        """Anywhere."""
        del fact
        return Where()

    def fail(self) -> str:
        """Nothing but the replicas."""
        return ""

    def notice(self, fact: str, doubted: Doubted) -> str:
        """By the gateway alone."""
        del fact, doubted
        return ""

    def decide(self, fact: str) -> list[Placed]:
        """As planned."""
        del fact
        return self.plan.placed

    def choose(self, fact: str) -> str:
        """Nothing beside what comes up."""
        del fact
        return ""

    def make_room(self, fact: str) -> str:
        """What has failed goes first, where something comes up at the same site."""
        del fact
        lost = {each.site for each in self.plan.lost}
        for site in dict.fromkeys(each.site for each in self.plan.placed if each.site in lost):
            self.stage.clear(site)
            wait_until(partial(self.stage.is_empty, site), _GONE_WITHIN_S)
        return ""

    def restore(self, placed: Sequence[Placed], doubted: Doubted) -> str:
        """Each revision once for each site: its nodes would do so side by side."""
        parts = []
        for revision, site in self.wanted(placed):
            found = restore_newest(self.ground, self.folder, site, revision)
            if not found.snapshot:
                doubted(not_shown(revision, site))
            parts.append(told(found, site))
        return "; ".join(parts)

    def lost_s(self, fact: str, failed_at: datetime) -> float:
        """Audit records that only what failed has held."""
        del fact
        return lost_s(self.ground, self.plan, failed_at)

    def keep_newest(self, revision: str, site: str, *, reuse: bool = False) -> str:
        """Restore the newest snapshot of a revision into the drill's folder; what came back.

        Raises:
            Failed: it is gone.
        """
        found = restore_newest(self.ground, self.folder, site, revision, keep=True, reuse=reuse)
        if not found.snapshot:
            raise Failed("its snapshot is gone", where=f"{revision} at {site}")
        return told(found, site)

    def wanted(self, placed: Sequence[Placed]) -> list[tuple[str, str]]:
        """The revisions that are needed at each site."""
        pools = self.ground.fleet.pools
        return list(dict.fromkeys((pools[each.pool].model, each.site) for each in placed))

    @property
    def folder(self) -> Path:
        """Of this drill alone; it goes with the stage."""
        return self.stage.folder
