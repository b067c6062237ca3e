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
    streams, targets = demand.streams(demand.peak), demand.targets(demand.peak)
    most = closed_form_bounds(streams, targets, candidate.speed).likely
    usual = demand.share_of(most)
    return Needs(steady=usual, usual=usual, most=most)


def simulated(demand: PoolDemand, candidate: Candidate) -> Needs | None:
    """What it needs; None where `MOST_REPLICAS` are too few.

    The peak is simulated as bursty as it is declared, a usual day with smooth arrivals. What the
    bursts of a usual day take is the number of the peak, in the proportion of the work.

    Raises:
        Unreachable: no number of replicas holds a target.
    """
    at_peak = fewest_replicas(
        demand.streams(demand.peak),
        demand.targets(demand.peak),
        candidate.speed,
        most=MOST_REPLICAS,
        seed=SEED,
    )
    if at_peak is None:
        return None
    steady = at_peak.smooth_replicas
    if not demand.is_flat:
        found = smooth_replicas(
            demand.streams(demand.usual),
            demand.targets(demand.usual),
            candidate.speed,
            most=at_peak.replicas,
            seed=SEED,
        )
        steady = at_peak.replicas if found is None else found
    usual = max(steady, demand.share_of(at_peak.replicas))
    return Needs(steady=steady, usual=usual, most=at_peak.replicas, at_peak=at_peak)
