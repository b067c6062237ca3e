"""The story of a patch while it goes on: kept after each step, however often it is resumed."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import JsonValue

from gpufleet.flows.durable import Run
from gpufleet.spec.patching import HostOutcome, HostState, PatchPlan, PatchReport, WaveOutcome

RUNNING = "running"
PAUSED = "paused"


class Story:
    """Writes the report of one patch.

    Args:
        run: the flow.
        plan: what it does.
    """

    def __init__(self, run: Run, plan: PatchPlan) -> None:
        self._run = run
        self._plan = plan
        self._table = run.ground.patches
        self._waits: dict[str, str] = {}

    def begin(self) -> None:
        """Keep the plan, and an empty report."""
        report = PatchReport(
            flow=self._run.id,
            actor=self._run.actor,
            order=self._plan.order,
            begun_at=self._run.ground.clock(),
        )
        self._table.begin(report, self._plan)

    def waits(self, where: str, why: str) -> str:
        """Note what a step waits for, once for each reason; empty when it goes on.

        Returns:
            The reason, for whoever waits.
        """
        # The first look tells in any case: a worker that was killed may have left a wait open.
        if self._waits.get(where) != why:
            self._waits[where] = why
            now = f"{self._run.ground.clock():%Y-%m-%d %H:%M:%S %Z}"
            self._table.change(self._run.id, lambda report: held_report(report, where, why, now))
        return why

    def wave(
        self,
        number: int,
        begun_at: datetime,
        found: Sequence[HostOutcome],
        *,
        stopped_by: str = "",
    ) -> None:
        """Keep what came of a wave so far; hosts that nothing is known of are pending."""
        known = {each.host: each for each in found}
        hosts = [
            known.get(host) or HostOutcome(host=host, state=HostState.PENDING)
            for host in self._plan.waves[number - 1].hosts
        ]

        def change(report: PatchReport) -> PatchReport:
            old = next((wave for wave in report.waves if wave.number == number), None)
            new = WaveOutcome(
                number=number,
                begun_at=begun_at,
                ended_at=self._run.ground.clock(),
                hosts=hosts,
                gates=old.gates if old else [],
                stopped_by=stopped_by,
            )
            others = [wave for wave in report.waves if wave.number != number]
            return report.model_copy(
                update={
                    "waves": sorted([*others, new], key=lambda wave: wave.number),
                    "outcome": RUNNING,
                    "ended_at": None,
                }
            )

        self._table.change(self._run.id, change)

    def gates(self, number: int, readings: Sequence[dict[str, JsonValue]]) -> None:
        """Keep the last readings of a wave's gates."""

        def change(report: PatchReport) -> PatchReport:
            waves = [
                wave.model_copy(update={"gates": list(readings)}) if wave.number == number else wave
                for wave in report.waves
            ]
            return report.model_copy(update={"waves": waves})

        self._table.change(self._run.id, change)

    def gates_of(self, number: int) -> list[dict[str, JsonValue]]:
        """The last readings of a wave's gates."""
        waves = self._table.report(self._run.id).waves
        return next((wave.gates for wave in waves if wave.number == number), [])

    def end(self, outcome: str) -> PatchReport:
        """Keep how it ended."""
        now = self._run.ground.clock()

        def change(report: PatchReport) -> PatchReport:
            return report.model_copy(update={"outcome": outcome, "ended_at": now})

        return self._table.change(self._run.id, change)


def held_report(report: PatchReport, where: str, why: str, now: str) -> PatchReport:
    """A report with a wait begun, or with one ended; the same wait again changes nothing.

    Args:
        report: as it stands.
        where: the step that waits.
        why: what it waits for; empty where it goes on.
        now: as people read it.
    """
    held = list(report.held)
    begins, ends = f"{where}: ", " until "
    if held and held[-1].startswith(begins) and ends not in held[-1]:
        if why and held[-1].startswith(f"{begins}{why}; from "):
            # The same wait, seen by the worker that took it over.
            return report.model_copy(update={"outcome": _outcome(why), "ended_at": None})
        held[-1] += f"{ends}{now}"
    if why:
        held.append(f"{begins}{why}; from {now}")
    return report.model_copy(update={"held": held, "outcome": _outcome(why), "ended_at": None})


def _outcome(why: str) -> str:
    return PAUSED if why.startswith(PAUSED) else RUNNING
