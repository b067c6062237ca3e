"""What is particular about each scenario: what fails, what is decided, how weights come back."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from gpufleet.core.drills import records, scenarios
from gpufleet.core.drills.failover import stand_ins
from gpufleet.core.weights import snapshots_bucket
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.drills.artifacts import damage, restore_newest, told
from gpufleet.flows.drills.database_lost import DatabaseLost
from gpufleet.flows.drills.drill_store import DrillStore
from gpufleet.flows.drills.node_lost import NodeLost
from gpufleet.flows.drills.objects import Where
from gpufleet.flows.drills.planning import replacement
from gpufleet.flows.drills.script import Common, Doubted, Script
from gpufleet.flows.drills.stage import Stage, free_at
from gpufleet.flows.drills.state_lost import StateLost
from gpufleet.flows.ground import Ground
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.flows.stores import places_of
from gpufleet.spec.drills import DrillPlan, Placed
from gpufleet.spec.errors import Failed, Retryable

_NOBODY: Final = "http://127.0.0.1:9"
"""The discard port: nothing answers there."""


class SiteLost(Common):
    """Replicas come up at the other sites, by what is free there now."""

    def decide(self, fact: str) -> list[Placed]:
        """By what is free at the other sites now."""
        del fact
        others = [site for site in self.ground.fleet.sites if site != self.plan.target]
        found = replacement(self.ground, self.plan.target, free_at(self.ground, others))
        return list(found.placed)


class GpuLost(Common):
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

    def where(self, fact: str) -> Where:
        """On any node but that."""
        return Where(avoid=fact)


class CacheCorrupted(Common):
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


class StoreLost(Common):
    """The object store of the site does not answer: the weights come from another site's."""

    def restore(self, placed: Sequence[Placed], doubted: Doubted) -> str:
        """From the first other store that has the revision whole."""
        del doubted
        return "; ".join(self._restored(revision, site) for revision, site in self.wanted(placed))

    def _restored(self, revision: str, lost: str) -> str:
        place = replace(places_of(self.ground)[lost], endpoint=_NOBODY)
        gone = SnapshotStore(
            SnapshotObjects(SnapshotPlace(place, snapshots_bucket(self.ground.fleet)))
        )
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


class BadSnapshot(Common):
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
        scenarios.NODE_LOST.name: NodeLost,
        scenarios.GPU_LOST.name: GpuLost,
        scenarios.CACHE_CORRUPTED.name: CacheCorrupted,
        scenarios.STORE_LOST.name: StoreLost,
        scenarios.BAD_SNAPSHOT.name: BadSnapshot,
        records.STATE_LOST.name: StateLost,
        records.DATABASE_LOST.name: DatabaseLost,
    }
)


def script_of(ground: Ground, plan: DrillPlan, stage: Stage) -> Script:
    """What is particular about the scenario of a plan."""
    return _SCRIPTS[plan.scenario](ground, plan, stage)
