"""A drill for real as it is played: the same phases, with production in the stand-ins' place."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from gpufleet.core.drills.production import production_fleet
from gpufleet.flows.drills.for_real_admission import demand_open, demand_told
from gpufleet.flows.drills.objects import Where
from gpufleet.flows.drills.play import Play
from gpufleet.flows.drills.production_stage import ProductionStage
from gpufleet.flows.drills.stage import wait_until
from gpufleet.spec.drills import Placed, Reason
from gpufleet.spec.errors import Failed
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.reports import AnswerRow

_SERVES_WITHIN_S: Final = 60.0
"""Production serves; the keys that ask are a moment old."""
_FAILS_WITHIN: Final = timedelta(minutes=10)
"""From its begin until production is hit; what it has seen of production is no older then."""
_NOTICED_WITHIN_S: Final = 120.0
_LOOK_EVERY_S: Final = 0.3
_AT_ONCE: Final = 8


@dataclass(frozen=True)
class ForRealPlay(Play):
    """One drill for real."""

    stage: ProductionStage

    def _name(self, name: str) -> str:
        return name

    def _staged(self, placed: Sequence[Placed]) -> Fleet:
        return production_fleet(self._fleet, placed)

    def _steady(self) -> list[str]:
        """The use cases that the gateway answers for before the failure.

        The stage is announced at every site first: what is in its way is found while nothing fails.

        Raises:
            Retryable: a site does not answer, or the stage of another drill is still there.
        """
        for site in self.plan.sites:
            self.stage.announce(site)
        until = time.monotonic() + _SERVES_WITHIN_S
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            answered = {
                name: threads.submit(self.asking.until_answered, name, until, lambda: False)
                for name in self.plan.use_cases
            }
        found = [name for name, row in answered.items() if isinstance(row.result(), AnswerRow)]
        if silent := [name for name in self.plan.use_cases if name not in found]:
            self.story.doubted(f"was not answered before the failure: {', '.join(silent)}")
        return found

    def _fail(self, steady: Sequence[str], at: datetime) -> dict[str, Any]:
        """As in isolation; but in no freeze, however long ago it was admitted.

        Raises:
            PolicyRefused: a freeze has begun.
            Failed: it was interrupted since it began; or a pool has no replica that could fail.
                None has failed then.
            Retryable: a site's cluster cannot be told that there is none.
        """
        self._demand_uninterrupted()
        demand_open(self.run.ground, self.plan, actor=self.run.actor, flow=self.run.id)
        demand_told(self.run.ground, self.plan)
        self._demand_there()
        return super()._fail(steady, at)

    def _demand_uninterrupted(self) -> None:
        """Refuse to hit production by numbers from before, at an hour that nobody expects."""
        report = self.story.report()
        is_old = self.run.ground.clock() - report.begun_at > _FAILS_WITHIN
        if report.workers > 1 or is_old:
            raise Failed(
                "was interrupted before the failure",
                where=f"flow {self.run.id}",
                mend="ask again: ./fleet dr.drill --for-real --apply",
            )

    def _demand_there(self) -> None:
        for site in dict.fromkeys(each.site for each in self.plan.lost):
            there = self.stage.there(site)
            pools = (each.pool for each in self.plan.lost if each.site == site)
            if gone := sorted(set(pools) - there):
                raise Failed(
                    f"no replica that could fail is there of {', '.join(gone)}",
                    where=f"site {site}",
                    mend="plan it again: ./fleet dr.drill --for-real",
                )

    def _left_s(self) -> float:
        """How long production may still be hit, s."""
        report = self.story.report()
        most_s = report.for_real.at_most_s if report.for_real else 0.0
        passed = self.run.ground.clock() - (report.failed_at or report.begun_at)
        return most_s - passed.total_seconds()

    def _demand_in_time(self) -> None:
        """Go on with no phase once production was hit for as long as was approved.

        Raises:
            Failed: it was; production is given back then.
        """
        if self._left_s() <= 0:
            raise Failed(
                "took longer than was approved",
                where=f"flow {self.run.id}",
                mend="production is given back; ask again: ./fleet dr.drill --for-real --apply",
            )

    def _patience_s(self, failed_at: datetime) -> float:
        return max(0.0, min(super()._patience_s(failed_at), self._left_s()))

    def _serve(
        self, stage: Fleet, placed: Sequence[Placed], where: Where, failed_at: datetime
    ) -> dict[str, Any]:
        self._demand_in_time()
        return super()._serve(stage, placed, where, failed_at)

    def _keep_away(self) -> None:
        self._demand_in_time()
        self.stage.keep_away()
        real = self.stage.real
        if lost := real.cordoned:
            target = f"{lost.pool}@{lost.site}"
            self.run.note("drill.taken", target=target, node=lost.node, pod=lost.pod)
        self._note_taken(Reason.LOST)

    def _detect(self, steady: Sequence[str], fact: str) -> str:
        """Until the gateway asks none of the lost replicas any more."""
        del fact
        self._demand_in_time()
        wait_until(lambda: not self.stage.still_serving(), _NOTICED_WITHIN_S, _LOOK_EVERY_S)
        if left := self.stage.still_serving():
            self.story.doubted(f"the gateway went on asking what was lost: {', '.join(left)}")
            return "the gateway has not noticed"
        return f"the gateway asks nothing that was lost; {len(steady)} use cases are asked for"

    def _provision(self, stage: Fleet, placed: Sequence[Placed], fact: str) -> str:
        """Let batch make room, and make what replicas run in."""
        self._demand_in_time()
        if self.stage.real.cordoned:
            return "its workload makes the replica again by itself, on another node"
        gone = self.stage.let_batch_yield()
        self._note_taken(Reason.YIELDS)
        for site in dict.fromkeys(each.site for each in placed):
            self.stage.set_up(stage, site, started=False, where=self.script.where(fact))
        batch = f"{gone} replicas of batch yield" if gone else "batch yields nothing"
        return f"{batch}; workloads stand, and replicas start once weights are there"

    def _doubt_lost(self, placed: Sequence[Placed]) -> None:
        """Doubt answers that what was lost may have given: the gateway asks it again."""
        del placed
        if again := self.stage.still_serving():
            self.story.doubted(f"serves, which was lost: {', '.join(again)}")

    def _note_taken(self, reason: Reason) -> None:
        for each in self.stage.taken(reason):
            self.run.note(
                "drill.taken",
                target=f"{each.pool}@{each.site}",
                reason=reason.value,
                before=each.before,
                left=each.left,
            )
