"""Gives production back after a drill for real: by whoever comes first, the drill or the keeper."""

from dataclasses import dataclass
from functools import partial

from gpufleet.core.drills.production import Return, Standing, next_return
from gpufleet.flows.drills.attempts import in_spite_of_errors
from gpufleet.flows.drills.production import Production
from gpufleet.flows.drills.stage import Stage
from gpufleet.flows.ground import Ground
from gpufleet.spec.drills import DrillReport, ForReal, Reason, Scaled


@dataclass(frozen=True)
class Returning:
    """The way back of one drill for real; each call finds what an earlier one has done.

    Args:
        ground: the environment.
        flow: of the drill.
        scenario: of it.
        real: what was taken, as it was before.
    """

    ground: Ground
    flow: str
    scenario: str
    real: ForReal

    @classmethod
    def of(cls, ground: Ground, report: DrillReport) -> "Returning | None":
        """Of the drill of a report; None where it was in isolation."""
        if report.for_real is None:
            return None
        return cls(ground, report.flow, report.scenario, report.for_real)

    def proceed(self) -> str:
        """Do what can be done now; what is waited for, or empty once production is as before.

        Raises:
            FleetError: a site or the database does not answer; what does is given back before.
        """
        while True:
            late = self._late()
            step = next_return(self._standing(are_ready=not late))
            if step is None:
                break
            if step is Return.READY:
                return f"not every replica is ready again: {', '.join(late)}"
            if step is Return.LOST:
                self._tell_lost()
            elif step is Return.REPLACEMENT:
                self._stage.strike()
            else:
                self._tell(Reason.YIELDS)
        # Keys and files too, where nothing of it stands.
        self._stage.strike()
        return ""

    @property
    def _stage(self) -> Stage:
        return Stage(self.ground, self.flow, self.scenario, for_real=True)

    def _at(self, site: str) -> Production:
        return Production(self.ground, self.flow, site)

    def _taken(self, reason: Reason) -> list[Scaled]:
        return [each for each in self.real.scaled if each.reason is reason]

    def _standing(self, *, are_ready: bool) -> Standing:
        cordoned = self.real.cordoned
        lost_told = self._are_told(Reason.LOST) and not (
            cordoned and self._at(cordoned.site).is_cordoned(cordoned)
        )
        return Standing(
            lost_told=lost_told,
            lost_ready=lost_told and are_ready,
            replacement_gone=not self._stage.stands(),
            batch_told=self._are_told(Reason.YIELDS),
        )

    def _are_told(self, reason: Reason) -> bool:
        return all(self._at(each.site).is_told(each) for each in self._taken(reason))

    def _late(self) -> list[str]:
        return [
            f"{each.pool} at {each.site}"
            for each in self._taken(Reason.LOST)
            if not self._at(each.site).is_ready(each)
        ]

    def _tell_lost(self) -> None:
        self._tell(Reason.LOST)
        if cordoned := self.real.cordoned:
            self._at(cordoned.site).uncordon(cordoned)

    def _tell(self, reason: Reason) -> None:
        """Tell every workload its earlier number; one that cannot be told keeps no other."""
        in_spite_of_errors(
            *(partial(self._at(each.site).give_back, each) for each in self._taken(reason))
        )
