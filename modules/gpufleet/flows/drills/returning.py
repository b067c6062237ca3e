"""Gives production back after a drill for real: by whoever comes first, the drill or the keeper."""

from dataclasses import dataclass
from functools import partial

from gpufleet.core.drills.production import Return, next_return
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
        sites: where something was taken, or came up.
    """

    ground: Ground
    flow: str
    scenario: str
    real: ForReal
    sites: tuple[str, ...]

    @classmethod
    def of(cls, ground: Ground, report: DrillReport) -> "Returning | None":
        """Of the drill of a report; None where it was in isolation."""
        real = report.for_real
        if real is None:
            return None
        sites = dict.fromkeys([*real.sites, *(each.site for each in report.placed)])
        return cls(ground, report.flow, report.scenario, real, tuple(sites))

    def proceed(self) -> str:
        """Do what can be done now; what is waited for, or empty once production is as before.

        What was lost is told to come back first, and before anything else is asked: no site keeps
        another one at nothing.

        Raises:
            FleetError: a site or the database does not answer; what does is given back before.
        """
        self._tell_lost()
        while (step := next_return(self)) is not None:
            if step is Return.READY:
                for site, pools in self._lost_pools().items():
                    self._at(site).let_start(pools)
                return f"not every replica is ready again: {', '.join(self._late())}"
            if step is Return.LOST:
                self._tell_lost()
            elif step is Return.REPLACEMENT:
                self._stage.strike_at(self.sites)
            else:
                self._tell(Reason.YIELDS)
        return ""

    def clean(self) -> None:
        """Remove keys, files and whatever else is left of it, at every site; it hits nothing more.

        Raises:
            FleetError: of the first that does not answer; what does is cleaned before.
        """
        self._stage.strike()

    @property
    def _stage(self) -> Stage:
        return Stage(self.ground, self.flow, self.scenario, for_real=True)

    def _at(self, site: str) -> Production:
        return Production(self.ground, self.flow, site)

    def _taken(self, reason: Reason) -> list[Scaled]:
        return [each for each in self.real.scaled if each.reason is reason]

    @property
    def lost_told(self) -> bool:
        """Whether all that was lost is told to come back."""
        cordoned = self.real.cordoned
        is_cordoned = cordoned and self._at(cordoned.site).is_cordoned(cordoned)
        return self._are_told(Reason.LOST) and not is_cordoned

    @property
    def lost_ready(self) -> bool:
        """Whether it serves again."""
        return not self._late()

    @property
    def replacement_gone(self) -> bool:
        """Whether nothing is left of what came up instead."""
        return not self._stage.stands(self.sites)

    @property
    def batch_told(self) -> bool:
        """Whether batch is told to have its GPUs again."""
        return self._are_told(Reason.YIELDS)

    def _are_told(self, reason: Reason) -> bool:
        return all(self._at(each.site).is_told(each) for each in self._taken(reason))

    def _late(self) -> list[str]:
        late = [
            f"{each.pool} at {each.site}"
            for each in self._taken(Reason.LOST)
            if not self._at(each.site).is_ready(each)
        ]
        cordoned = self.real.cordoned
        if cordoned and not self._at(cordoned.site).is_made_again(cordoned):
            late.append(f"{cordoned.pool} at {cordoned.site}")
        # Clusters notice an end a moment later than whoever brought it about.
        return late or [
            f"{pool} at {site}"
            for site, pools in self._lost_pools().items()
            for pool in sorted({each.pool for each in self._at(site).kept_down(pools)})
        ]

    def _lost_pools(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for each in self._taken(Reason.LOST):
            found.setdefault(each.site, set()).add(each.pool)
        if cordoned := self.real.cordoned:
            found.setdefault(cordoned.site, set()).add(cordoned.pool)
        return found

    def _tell_lost(self) -> None:
        cordoned = self.real.cordoned
        uncordon = [partial(self._at(cordoned.site).uncordon, cordoned)] if cordoned else []
        in_spite_of_errors(partial(self._tell, Reason.LOST), *uncordon)

    def _tell(self, reason: Reason) -> None:
        """Tell every workload its earlier number; one that cannot be told keeps no other."""
        in_spite_of_errors(*(partial(self._tell_one, each) for each in self._taken(reason)))

    def _tell_one(self, taken: Scaled) -> None:
        production = self._at(taken.site)
        if not production.is_told(taken):
            production.give_back(taken)
