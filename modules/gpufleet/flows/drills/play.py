"""A drill as it is played: stand-ins serve and fail, others come up, the gateway answers.

Each phase is a step of a durable flow: what it found is kept, and a worker that takes the drill
over goes on with the phase that was cut short. Times are by the environment's clock, which such a
worker has too; each goes on from it by steady time, and a drill during which it is set has failed.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from gpufleet.core.drills.scenario import Ends
from gpufleet.core.drills.scenarios import scenario_of
from gpufleet.core.drills.stage import drill_name, stage_fleet
from gpufleet.flows.drills.objects import Where
from gpufleet.flows.drills.onlooking import Onlooker
from gpufleet.flows.drills.script import Script
from gpufleet.flows.drills.stage import Stage, wait_until
from gpufleet.flows.drills.story import Story
from gpufleet.flows.drills.timing import Stopwatch
from gpufleet.flows.durable import Run
from gpufleet.flows.gateway_answers import Asking
from gpufleet.spec.drills import DrillPlan, Phase, Placed, UseCaseRecovery
from gpufleet.spec.errors import Failed, FleetError, Retryable
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.reports import AnswerRow
from gpufleet.spec.simulation import FaultKind

STEADY_WITHIN_S: Final = 300.0
"""What is to fail has to serve before; a pool that does not is left out of what is detected."""
_DETECTED_WITHIN_S: Final = 120.0
_LEAST_PATIENCE_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.3
_AT_ONCE: Final = 8


@dataclass(frozen=True)
class Play:
    """One drill.

    Args:
        run: the flow.
        plan: what it does.
        story: where it is told.
        stage: where it plays.
        asking: a client of the gateway, with keys for the stand-ins.
        script: of its scenario.
    """

    run: Run
    plan: DrillPlan
    story: Story
    stage: Stage
    asking: Asking
    script: Script

    def perform(self) -> None:
        """Fail and restore, phase after phase.

        Raises:
            FleetError: a phase could not be carried through at all.
        """
        run, watch = self.run, self._stopwatch
        watch.demand_unset()
        run.step("prepared", self.script.prepare)
        steady: list[str] = run.step("steady", self._steady)
        # A step of its own: however often the failure is tried, the clock runs from the first time.
        failed_at = datetime.fromisoformat(run.step("declared", watch.now))
        failure: dict[str, Any] = run.step("failure", lambda: self._fail(steady, failed_at))
        run.note("drill.failed", target=self.plan.target, at=failed_at.isoformat())
        if self._ends is Ends.REPLICAS:
            run.step("kept away", self._keep_away)
        asked = steady if self._ends is Ends.NOTHING else []
        with Onlooker(self.asking, asked, self.story.doubted) as onlooker:
            self._come_back(steady, failed_at, failure, onlooker)

    def _come_back(
        self,
        steady: Sequence[str],
        failed_at: datetime,
        failure: Mapping[str, Any],
        onlooker: Onlooker,
    ) -> None:
        run, watch, fact = self.run, self._stopwatch, str(failure["fact"])
        at = watch.timed(Phase.DETECT, failed_at, lambda: self._detect(steady, fact))
        decided: dict[str, Any] = run.step("decide", lambda: self._decide(fact))
        at = watch.told(Phase.DECIDE, at, decided)
        placed = [Placed.model_validate(each) for each in decided["placed"]]
        stage = self._staged(placed)
        where = self.script.where(fact)
        at = watch.timed(Phase.PROVISION, at, lambda: self._provision(stage, placed, fact))
        at = watch.timed(
            Phase.ARTIFACTS, at, lambda: self.script.restore(placed, self.story.doubted)
        )
        served: dict[str, Any] = run.step(
            "serve", lambda: self._serve(stage, placed, where, failed_at)
        )
        at = watch.told(Phase.LOAD, at, {"at": served["loaded_at"], "detail": served["detail"]})
        if self._ends is Ends.NOTHING:
            served = {**served, "detail": onlooker.told()}
        watch.told(Phase.FIRST_TOKEN, at, served)
        records_s = failure["lost_s"]
        if records_s is None:
            records_s = run.step("lost", lambda: self.script.lost_s(fact, failed_at))
        run.step("compared", lambda: self._compare(served["answers"], failed_at, records_s))

    @property
    def _fleet(self) -> Fleet:
        return self.run.ground.fleet

    def _name(self, name: str) -> str:
        """How the gateway knows a use case or pool of the plan."""
        return drill_name(name)

    def _staged(self, placed: Sequence[Placed]) -> Fleet:
        """The fleet of what plays."""
        return stage_fleet(self._fleet, placed)

    @property
    def _ends(self) -> Ends:
        return scenario_of(self.plan.scenario).ends

    @cached_property
    def _stopwatch(self) -> Stopwatch:
        return Stopwatch(self.run, self.story)

    def _steady(self) -> list[str]:
        """Let the stand-ins of what is to be lost serve; the use cases that do."""
        lost = self.plan.lost
        if not lost:
            told = f"nothing stands in for {self.plan.target}: no GPU is free there"
            self.story.noted([f"{told}, so that how long it takes to notice was not timed"])
            return []
        stage = self._staged(lost)
        for site in _sites(lost):
            self.stage.set_up(stage, site, started=True, where=self.script.where(""))
        until = time.monotonic() + STEADY_WITHIN_S
        pools = {each.pool for each in lost}
        names = [name for pool in pools for name in self._hit(pool)]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            answered = {
                name: threads.submit(
                    self.asking.until_answered, self._name(name), until, lambda: False
                )
                for name in names
            }
        found = [name for name, row in answered.items() if isinstance(row.result(), AnswerRow)]
        told = "did not serve before the failure, so that nobody detects it"
        if silent := [name for name in names if name not in found]:
            self.story.doubted(f"{told}: {', '.join(silent)}")
        if alone := [name for name in self.plan.use_cases if name not in names]:
            self.story.noted([f"{told}, for want of a stand-in: {', '.join(alone)}"])
        return found

    def _fail(self, steady: Sequence[str], at: datetime) -> dict[str, Any]:
        """Let the failure happen; what has to be known of it, and what is lost by it, s.

        Raises:
            Failed: a stand-in that served goes on, or none is there.
        """
        fact = self.script.fail()
        if self._ends is Ends.NOTHING:
            self.story.failed_at(at)
            # How much is lost shows once something is restored.
            return {"fact": fact, "lost_s": None}
        kind = FaultKind.POWER if self._ends is Ends.NODE else FaultKind.CRASH
        for site in _sites(self.plan.lost):
            hit = self.stage.fail(site, kind)
            here = {each.pool for each in self.plan.lost if each.site == site}
            served = {p for p in here if not set(steady).isdisjoint(self._fleet.pools[p].use_cases)}
            spared = sorted(pool for pool in served if self._name(pool) not in hit)
            if spared or not hit:
                what = f"no stand-in of {', '.join(spared or sorted(here))} is there to fail"
                raise Failed(what, where=f"site {site}", mend="./fleet status, then drill again")
        self.story.failed_at(at)
        return {"fact": fact, "lost_s": self.script.lost_s(fact, at)}

    def _keep_away(self) -> None:
        """Let no controller begin anew at a site where, in earnest, there would be none."""
        lost = self._staged(self.plan.lost)
        for site in _sites(self.plan.lost):
            self.stage.set_up(lost, site, started=False)

    def _detect(self, steady: Sequence[str], fact: str) -> str:
        """Until the gateway refuses for every use case that it has answered for."""
        if self._ends is Ends.NOTHING:
            return self.script.notice(fact, self.story.doubted)
        left = set(steady)

        def noticed() -> bool:
            for name in sorted(left):
                if isinstance(self._asked(name), FleetError):
                    left.discard(name)
            return not left

        wait_until(noticed, _DETECTED_WITHIN_S, _LOOK_EVERY_S)
        if left:
            self.story.doubted(f"the gateway went on answering for {', '.join(sorted(left))}")
        return f"{len(steady) - len(left)} of {len(steady)} use cases are refused"

    def _asked(self, use_case: str) -> AnswerRow | FleetError:
        return self.asking.until_answered(self._name(use_case), 0.0, lambda: True)

    def _decide(self, fact: str) -> dict[str, Any]:
        """What comes up, from what is free now."""
        if self._ends is Ends.NOTHING:
            going_on = [each.model_dump(mode="json") for each in self.plan.lost]
            detail = self.script.choose(fact)
            return {"at": self._stopwatch.now(), "placed": going_on, "detail": detail}
        placed = self.script.decide(fact)
        self.story.decided(placed)
        replicas = sum(each.replicas for each in placed)
        sites = ", ".join(sorted({each.site for each in placed}))
        return {
            "at": self._stopwatch.now(),
            "placed": [each.model_dump(mode="json") for each in placed],
            "detail": f"replicas at {sites}: {replicas}" if replicas else "nothing can come up",
        }

    def _provision(self, stage: Fleet, placed: Sequence[Placed], fact: str) -> str:
        """Make what replicas run in; what has failed where they come up goes first."""
        if self._ends is Ends.NOTHING:
            return "nothing: the replicas go on"
        room = self.script.make_room(fact)
        for site in _sites(placed):
            self.stage.set_up(stage, site, started=False, where=self.script.where(fact))
        made = "namespace, accounts, routes and workloads; replicas start once weights are there"
        return f"{room}; {made}" if room else made

    def _serve(
        self, stage: Fleet, placed: Sequence[Placed], where: Where, failed_at: datetime
    ) -> dict[str, Any]:
        """Start the replicas, and ask for every use case from when its pool has one."""
        for site in _sites(placed):
            self.stage.set_up(stage, site, started=True, where=where)
        until = time.monotonic() + self._patience_s(failed_at)
        pools = {each.pool for each in placed}
        ready: dict[str, str] = {}
        asked: dict[str, Future[dict[str, Any]]] = {}
        counts: dict[str, int] = {}
        with ThreadPoolExecutor(_AT_ONCE) as threads:

            def look() -> bool:
                counts.clear()
                for site in _sites(placed):
                    for pool, count in self.stage.ready_pools(site).items():
                        counts[pool] = counts.get(pool, 0) + count
                for pool in sorted(pools - ready.keys()):
                    if counts.get(self._name(pool)):
                        ready[pool] = self._stopwatch.now()
                        for name in self._held(pool):
                            asked[name] = threads.submit(self._answer, name, until)
                return pools == ready.keys() and all(each.done() for each in asked.values())

            wait_until(look, self._patience_s(failed_at), _LOOK_EVERY_S)
        self._doubt_lost(placed)
        answers = {name: future.result() for name, future in asked.items()}
        wanted = sum(each.replicas for each in placed)
        loaded_at = max(ready.values(), default=self._stopwatch.now())
        answered = [str(each["at"]) for each in answers.values()]
        return {
            "at": max(loaded_at, *(answered or [self._stopwatch.now()])),
            "loaded_at": loaded_at,
            "detail": f"{sum(counts.values())} of {wanted} replicas are ready",
            "answers": answers,
        }

    def _doubt_lost(self, placed: Sequence[Placed]) -> None:
        """Doubt answers that what was lost may have given: it is ready again."""
        for site in _sites(self.plan.lost):
            if site in _sites(placed):
                continue
            with suppress(Retryable):
                if again := sorted(self.stage.ready_pools(site)):
                    self.story.doubted(f"{', '.join(again)} at {site} serves, which was lost")

    def _hit(self, pool: str) -> list[str]:
        return [name for name in self._fleet.pools[pool].use_cases if name in self.plan.use_cases]

    def _held(self, pool: str) -> list[str]:
        return [name for name in self._hit(pool) if name not in self.plan.unheld]

    def _patience_s(self, failed_at: datetime) -> float:
        """Until the longest objective has passed: then nobody waits any longer."""
        longest_s = max(self._fleet.use_cases[name].rto_s for name in self.plan.use_cases)
        passed_s = (self._stopwatch.clock() - failed_at).total_seconds()
        return max(_LEAST_PATIENCE_S, longest_s - passed_s)

    def _answer(self, use_case: str, until: float) -> dict[str, Any]:
        """Ask until the pool of a use case has answered, with the revision that it is to serve."""
        wanted = self._fleet.use_cases[use_case].model
        while True:
            found = self.asking.until_answered(self._name(use_case), until, lambda: False)
            at = self._stopwatch.now()
            if isinstance(found, FleetError):
                return {"at": at, "why_not": found.what}
            if (found.route, found.model) == ("primary", wanted) and found.text:
                return {"at": at, "ttft_s": found.ttft_s, "model": found.model}
            if time.monotonic() > until:
                return {"at": at, "why_not": f"answered by {found.model} ({found.route})"}
            time.sleep(_LOOK_EVERY_S)

    def _compare(
        self, answers: Mapping[str, Mapping[str, Any]], failed_at: datetime, records_s: float
    ) -> None:
        """Keep how each use case came back, beside what was declared for it."""
        fleet = self._fleet
        pools = {name: pool for pool, each in fleet.pools.items() for name in each.use_cases}
        found = []
        for name in self.plan.use_cases:
            answer = answers.get(name, {})
            back = "ttft_s" in answer
            passed = datetime.fromisoformat(answer["at"]) - failed_at if back else None
            found.append(
                UseCaseRecovery(
                    use_case=name,
                    pool=pools[name],
                    rto_s=fleet.use_cases[name].rto_s,
                    rpo_s=fleet.use_cases[name].rpo_s,
                    recovered_s=round(passed.total_seconds(), 3) if passed else None,
                    ttft_s=answer.get("ttft_s"),
                    model=answer.get("model", ""),
                    lost_s=records_s,
                    why_not="" if back else self._why_not(name, answer),
                )
            )
        self.story.came_back(found)

    def _why_not(self, use_case: str, answer: Mapping[str, Any]) -> str:
        return (
            self.plan.unheld.get(use_case)
            or str(answer.get("why_not", ""))
            or "no replica of its pool was ready in time"
        )


def _sites(placed: Sequence[Placed]) -> list[str]:
    return list(dict.fromkeys(each.site for each in placed))
