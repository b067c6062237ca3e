"""What is particular about each scenario: what fails, what is decided, how weights come back."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gpufleet.core.drills import scenarios
from gpufleet.core.drills.failover import stand_ins
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.drills.artifacts import damage, not_shown, restore_newest, told
from gpufleet.flows.drills.drill_store import DrillStore
from gpufleet.flows.drills.planning import replacement
from gpufleet.flows.drills.script import Doubted, Script
from gpufleet.flows.drills.stage import Stage, free_at
from gpufleet.flows.ground import Ground
from gpufleet.flows.snapshots.requests import bucket_of
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.flows.stores import places_of
from gpufleet.spec.drills import DrillPlan, Placed
from gpufleet.spec.errors import Failed, Retryable

_NOBODY: Final = "http://127.0.0.1:9"
"""The discard port: nothing answers there."""


@dataclass(frozen=True)
class _Common:
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

    def fail(self) -> str:
        """Nothing but the replicas."""
        return ""

    def decide(self, fact: str) -> list[Placed]:
        """As planned."""
        del fact
        return self.plan.placed

    def avoids(self, fact: str) -> str:
        """Nothing."""
        del fact
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


class SiteLost(_Common):
    """Replicas come up at the other sites, by what is free there now."""

    def decide(self, fact: str) -> list[Placed]:
        """By what is free at the other sites now."""
        del fact
        others = [site for site in self.ground.fleet.sites if site != self.plan.target]
        found = replacement(self.ground, self.plan.target, free_at(self.ground, others))
        return list(found.placed)


class GpuLost(_Common):
    """The node of the stand-in is not used again: its GPU is gone."""

    def fail(self) -> str:
        """Which node it was."""
        (site,) = {each.site for each in self.plan.lost}
        nodes = [node for node in self.stage.nodes(site) if node]
        if not nodes:
            raise Retryable("no stand-in has a node yet", where=f"site {site}")
        return nodes[0]

    def decide(self, fact: str) -> list[Placed]:
        """Another node at the same site, of its group or a spare one."""
        pool, _, site = self.plan.target.partition("@")
        free = free_at(self.ground, [site], without=[fact])
        return [each for each in stand_ins(self.ground.fleet, site, free) if each.pool == pool]

    def avoids(self, fact: str) -> str:
        """That node."""
        return fact


class CacheCorrupted(_Common):
    """A restored tree of the revision is damaged on the disk, and is made good from the store."""

    def prepare(self) -> None:
        """Restore the revision into a cache of the drill's own."""
        for revision, site in self.wanted(self.plan.lost):
            self.keep_newest(revision, site)

    def fail(self) -> str:
        """Damage some bytes of every file."""
        damaged = sum(damage(file) for file in sorted(self.folder.rglob("*")) if file.is_file())
        return str(damaged)

    def restore(self, placed: Sequence[Placed], doubted: Doubted) -> str:
        """Over the damaged tree: what is whole stays, what is not is fetched."""
        del doubted
        return "; ".join(
            self.keep_newest(revision, site, reuse=True) for revision, site in self.wanted(placed)
        )


class StoreLost(_Common):
    """The object store of the site does not answer: the weights come from another site's."""

    def restore(self, placed: Sequence[Placed], doubted: Doubted) -> str:
        """From the first other store that has the revision whole."""
        del doubted
        return "; ".join(self._restored(revision, site) for revision, site in self.wanted(placed))

    def _restored(self, revision: str, lost: str) -> str:
        place = replace(places_of(self.ground)[lost], endpoint=_NOBODY)
        gone = SnapshotStore(SnapshotObjects(SnapshotPlace(place, bucket_of(self.ground.fleet))))
        with suppress(Retryable):
            gone.listed()
            raise Failed("the lost store answers", where=_NOBODY)
        silent: Retryable | None = None
        for site in places_of(self.ground):
            if site == lost:
                continue
            try:
                found = restore_newest(self.ground, self.folder, site, revision)
            except Retryable as error:
                silent = silent or error
                continue
            if found.snapshot:
                return f"{told(found, site)}, from {site}"
        raise silent or Failed(f"no other store has a snapshot of {revision}", where=f"site {lost}")


class BadSnapshot(_Common):
    """The newest snapshot is damaged in the store: the last good one is taken instead."""

    def prepare(self) -> None:
        """Make two snapshots in a store of the drill's own, from the revision's newest."""
        ((revision, site),) = self.wanted(self.plan.lost)
        self.keep_newest(revision, site)
        self._store(site).fill(self.folder / revision, revision)

    def fail(self) -> str:
        """Damage what only the newer one needs."""
        ((_, site),) = self.wanted(self.plan.lost)
        return str(self._store(site).rot())

    def restore(self, placed: Sequence[Placed], doubted: Doubted) -> str:
        """The newest one is found to be damaged, and the one before it is taken."""
        del doubted
        ((revision, site),) = self.wanted(placed)
        return self._store(site).restore_last_good(revision, self.folder / "restored")

    def _store(self, site: str) -> DrillStore:
        return DrillStore(self.ground, site, self.stage.flow, self.folder)


Made = Callable[[Ground, DrillPlan, Stage], Script]
_SCRIPTS: Final[Mapping[str, Made]] = MappingProxyType(
    {
        scenarios.SITE_LOST.name: SiteLost,
        scenarios.GPU_LOST.name: GpuLost,
        scenarios.CACHE_CORRUPTED.name: CacheCorrupted,
        scenarios.STORE_LOST.name: StoreLost,
        scenarios.BAD_SNAPSHOT.name: BadSnapshot,
    }
)


def script_of(ground: Ground, plan: DrillPlan, stage: Stage) -> Script:
    """What is particular about the scenario of a plan."""
    return _SCRIPTS[plan.scenario](ground, plan, stage)
