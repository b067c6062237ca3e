"""Replicas that one way to serve a pool needs: expected by closed forms, decided by simulation."""

from dataclasses import dataclass, replace
from typing import Final, Self

from gpufleet.core.capacity.bounds import closed_form_bounds
from gpufleet.core.capacity.demand import PoolDemand
from gpufleet.core.capacity.options import Candidate
from gpufleet.core.capacity.sizing import Sized, fewest_replicas, smooth_replicas

SEED: Final = 20_260
"""Of every simulation of a plan: the same fleet file gives the same plan."""
MOST_REPLICAS: Final = 4096
"""A pool that needs more is not planned, but split."""


@dataclass(frozen=True)
class Needs:
    """Replicas of one way to serve a pool."""

    steady: int
    """In the busiest hour of a usual day, if arrivals were smooth."""
    usual: int
    """In that hour, with the declared burstiness."""
    most: int
    """At the declared peak."""
    at_peak: Sized | None = None
    """What the simulation of the peak found; none where it was not simulated."""

    @property
    def exact(self) -> bool:
        """Whether they were simulated."""
        return self.at_peak is not None

    def scaled(self, factor: float) -> Self:
        """So many times as much, at least one."""
        return replace(
            self,
            steady=max(1, round(self.steady * factor)),
            usual=max(1, round(self.usual * factor)),
            most=max(1, round(self.most * factor)),
        )


def expected(demand: PoolDemand, candidate: Candidate) -> Needs:
    """What it is expected to need, by closed forms.

    Raises:
        Unreachable: no number of replicas holds a target.
    """
    most = max(
        closed_form_bounds(demand.streams(hour), demand.targets(hour), candidate.speed).likely
        for hour in demand.peak_hours
    )
    usual = demand.share_of(most)
    return Needs(steady=usual, usual=usual, most=most)


def simulated(demand: PoolDemand, candidate: Candidate) -> Needs | None:
    """What it needs; None where `MOST_REPLICAS` are too few.

    The peak is simulated as bursty as it is declared, and so is the busiest hour of each use case
    that is quiet in it; a usual day with smooth arrivals. What the bursts of a usual day take is
    the number of the peak, in the proportion of the work.

    Raises:
        Unreachable: no number of replicas holds a target.
    """
    at_peak = _at_peak(demand, candidate)
    if at_peak is None:
        return None
    steady = at_peak.smooth_replicas
    if not demand.is_flat:
        found = [
            smooth_replicas(
                demand.streams(hour),
                demand.targets(hour),
                candidate.speed,
                most=at_peak.replicas,
                seed=SEED,
            )
            for hour in demand.usual_hours
        ]
        steady = max(at_peak.replicas if each is None else each for each in found)
    usual = max(steady, demand.share_of(at_peak.replicas))
    return Needs(steady=steady, usual=usual, most=at_peak.replicas, at_peak=at_peak)


def _at_peak(demand: PoolDemand, candidate: Candidate) -> Sized | None:
    """What holds in the pool's busiest hour and in those of its use cases.

    Each use case's prediction is of the hour that tells most of it.
    """
    hours = demand.peak_hours
    by_hour: dict[int, Sized] = {}
    least, pending = 1, list(range(len(hours)))
    while pending:
        at = pending.pop(0)
        sized = fewest_replicas(
            demand.streams(hours[at]),
            demand.targets(hours[at]),
            candidate.speed,
            least=least,
            most=MOST_REPLICAS,
            seed=SEED,
        )
        if sized is None:
            return None
        by_hour[at] = sized
        if sized.replicas > least:
            # Hours that were seen with fewer are seen again with as many as will run.
            least = sized.replicas
            pending += [seen for seen, found in by_hour.items() if found.replicas < least]
    told = {}
    for index in range(len(demand.names)):
        at = max(by_hour, key=lambda hour: hours[hour].rates_rps[index])
        told[index] = next(p for p in by_hour[at].predictions if p.use_case == index)
    return replace(
        by_hour[0],
        smooth_replicas=max(sized.smooth_replicas for sized in by_hour.values()),
        queue_limit=max(sized.queue_limit for sized in by_hour.values()),
        predictions=tuple(told.values()),
    )
