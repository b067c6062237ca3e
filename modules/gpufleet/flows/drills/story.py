"""The story of a drill while it goes on: kept after each phase, however often it is resumed."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from gpufleet.core.drills.verdict import tally
from gpufleet.flows.durable import Run
from gpufleet.spec.drills import (
    DrillPlan,
    DrillReport,
    DrillState,
    ForReal,
    Phase,
    PhaseTime,
    Placed,
    UseCaseRecovery,
)

_TOLD: Final = frozenset({DrillState.MET, DrillState.MISSED})


class Story:
    """Writes the report of one drill.

    Args:
        run: the flow.
        plan: what it does.
        why: for whoever reads it later.
    """

    def __init__(self, run: Run, plan: DrillPlan, why: str) -> None:
        self._run = run
        self._plan = plan
        self._why = why
        self._table = run.ground.drills

    def begin(self) -> None:
        """Keep that it begins."""
        plan = self._plan
        self._table.begin(
            DrillReport(
                flow=self._run.id,
                scenario=plan.scenario,
                target=plan.target,
                actor=self._run.actor,
                why=self._why,
                begun_at=self._run.ground.clock(),
                outlook=plan.outlook,
                notes=plan.notes,
                for_real=plan.for_real,
            )
        )

    def visited(self) -> None:
        """Count a worker that works on it; with a second one its times hold an interruption."""
        self._change(lambda report: {"workers": report.workers + 1})

    def issued(self, key: str) -> None:
        """Keep the id of a key that was made for it."""
        self._change(lambda report: {"keys": [*report.keys, key]})

    def noted(self, notes: Iterable[str]) -> None:
        """Keep what a reader has to know; the same again changes nothing."""
        told = list(notes)
        self._change(
            lambda report: {"notes": [*report.notes, *(n for n in told if n not in report.notes)]}
        )

    def doubted(self, note: str) -> None:
        """Keep why it is not met however soon service was back, unless its plan has said so."""
        if note in self._plan.notes:
            return
        self.noted([note])
        self._change(lambda report: {"doubts": list(dict.fromkeys([*report.doubts, note]))})

    def failed_at(self, at: datetime) -> None:
        """Keep when the failure was declared."""
        self._change(lambda _: {"failed_at": at})

    def decided(self, placed: Sequence[Placed]) -> None:
        """Keep what comes up."""
        self._change(lambda _: {"placed": list(placed)})

    def phase(self, phase: Phase, seconds: float, detail: str = "") -> None:
        """Keep how long a phase took."""
        new = PhaseTime(phase=phase, seconds=round(seconds, 3), detail=detail)

        def change(report: DrillReport) -> dict[str, Any]:
            others = [each for each in report.phases if each.phase is not phase]
            order = list(Phase)
            return {"phases": sorted([*others, new], key=lambda each: order.index(each.phase))}

        self._change(change)

    def took(self, real: ForReal) -> None:
        """Keep what is taken from production, as it was found; before it is taken."""
        self._change(lambda _: {"for_real": real})

    def approved(self, by: Sequence[str]) -> None:
        """Keep who has signed it."""
        self._change(lambda _: {"approved_by": list(by)})

    def given_back(self) -> None:
        """Keep that production is as it was."""
        at = self._run.ground.clock()
        self._change(lambda report: {"given_back_at": report.given_back_at or at})

    def came_back(self, found: Sequence[UseCaseRecovery]) -> None:
        """Keep how the use cases came back."""
        self._change(lambda _: {"use_cases": list(found)})

    def cleaned(self) -> None:
        """Keep that nothing of it is left."""
        self._change(lambda _: {"cleaned": True})

    def ended(self) -> DrillReport:
        """Keep how it ended, by how the use cases came back."""

        def change(report: DrillReport) -> dict[str, Any]:
            found = tally(report.use_cases)
            met = found.met and not report.doubts
            state = DrillState.MET if met else DrillState.MISSED
            numbers = found.model_dump(exclude={"use_case"}) | {"met": met}
            return {"state": state, "ended_at": self._run.ground.clock(), **numbers}

        return self._change(change)

    def broken(self, state: DrillState, why: str) -> DrillReport:
        """Keep that it was not carried through, and that something of it may be left.

        Also where somebody has cleaned up already: a step may have gone on meanwhile.
        """
        at = self._run.ground.clock()
        self.noted([why] if why else [])

        def change(report: DrillReport) -> dict[str, Any]:
            # What was measured stays true, however long the way back takes.
            told = report.state if report.state in _TOLD else state
            ended_at = report.ended_at or at
            return {"state": told, "ended_at": ended_at, "cleaned": False, "given_back_at": None}

        return self._change(change)

    def report(self) -> DrillReport:
        """The story so far."""
        return self._table.report(self._run.id)

    def _change(self, how: Callable[[DrillReport], dict[str, Any]]) -> DrillReport:
        return self._table.change(
            self._run.id, lambda report: report.model_copy(update=how(report))
        )
