"""Where a drill for real plays: production's own replicas fail, others come up under its names."""

from dataclasses import dataclass
from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.core.drills.stage import DRILL, NAMESPACE
from gpufleet.core.observed import is_ready
from gpufleet.edges.kube_paths import collection_path
from gpufleet.flows.drills.hits import Hits, serving
from gpufleet.flows.drills.objects import ANYWHERE, Where
from gpufleet.flows.drills.production import Production
from gpufleet.flows.drills.stage import Stage, entered
from gpufleet.spec.drills import ForReal, Reason, Scaled
from gpufleet.spec.errors import Failed
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.simulation import FaultKind

_PODS: Final = collection_path("v1", "Pod", NAMESPACE)


@dataclass(frozen=True)
class ProductionStage(Stage):
    """The stage of a drill for real."""

    for_real: bool = True

    @property
    def real(self) -> ForReal:
        """What it takes from production, as it is kept.

        Raises:
            Failed: nothing is; or the drill has ended, and takes nothing more.
        """
        report = self.ground.drills.report(self.flow)
        if report.for_real is None or report.ended_at is not None:
            why = "has ended" if report.for_real else "nothing is kept of what it takes"
            raise Failed(why, where=f"drill {self.flow}")
        return report.for_real

    def taken(self, reason: Reason) -> list[Scaled]:
        """The workloads that are made smaller for a reason."""
        return [each for each in self.real.scaled if each.reason is reason]

    def set_up(self, stage: Fleet, site: str, *, started: bool, where: Where = ANYWHERE) -> None:
        """Make what comes up at a site; of a single replica its own workload makes another.

        Raises:
            Retryable: as of every stage.
        """
        if self.real.cordoned is None:
            super().set_up(stage, site, started=started, where=where)

    def there(self, site: str) -> set[str]:
        """The pools at a site of which a replica is there that could fail, or has.

        Raises:
            Retryable: the node agent does not answer.
        """
        return self._at(site).pools_there(self.real.cordoned)

    def fail(self, site: str, kind: FaultKind) -> set[str]:
        """Let what is to fail end, its node cordoned first; returns whose pools' replicas did.

        Raises:
            Retryable: the site does not answer.
        """
        production = self._at(site)
        if lost := self.real.cordoned:
            production.cordon(lost)
            return production.end_replicas({lost.pool}, kind, lost.pod)
        return production.end_replicas({each.pool for each in self.taken(Reason.LOST)}, kind)

    def keep_away(self) -> None:
        """Let nothing begin anew where, in earnest, there would be nothing.

        Raises:
            Retryable: a site does not answer.
        """
        real = self.real
        for site in real.sites:
            self.announce(site)
        if real.cordoned:
            self._at(real.cordoned.site).remove(real.cordoned)
        for each in self.taken(Reason.LOST):
            self._at(each.site).scale_away(each)

    def let_batch_yield(self) -> int:
        """Let batch make room; returns how many of its replicas go.

        Raises:
            Retryable: a site does not answer.
        """
        yielding = self.taken(Reason.YIELDS)
        for each in yielding:
            self._at(each.site).scale_away(each)
        return sum(each.before - each.left for each in yielding)

    def ready_pools(self, site: str) -> dict[str, int]:
        """Replicas in the place of lost ones that are ready, and that the gateway asks, by pool.

        Raises:
            Retryable: the site does not answer.
        """
        if lost := self.real.cordoned:
            ready = [each for each in Hits(self.ground, site).ready_of(lost) if each != lost.uid]
            return {lost.pool: len(ready)} if len(ready) >= lost.before else {}
        found: dict[str, int] = {}
        with entered(self.ground, site) as cluster:
            pods = cluster.items(_PODS, labels=f"{names.POOL},{DRILL}={self.flow}")
        for pod in pods:
            pool = pod["metadata"]["labels"][names.POOL]
            asked = {each.uid for each in serving(self.ground, pool)}
            if is_ready(pod) and pod["metadata"]["uid"] in asked:
                found[pool] = found.get(pool, 0) + 1
        return found

    def still_serving(self) -> list[str]:
        """Pools whose lost replicas the gateway still asks, each with its site."""
        if lost := self.real.cordoned:
            here = serving(self.ground, lost.pool)
            gone = [each for each in here if each.uid == lost.uid and each.site == lost.site]
            return [f"{lost.pool} at {lost.site}"] if gone else []
        return [
            f"{each.pool} at {each.site}"
            for each in self.taken(Reason.LOST)
            if any(found.site == each.site for found in serving(self.ground, each.pool))
        ]

    def _at(self, site: str) -> Production:
        return Production(self.ground, self.flow, site)
