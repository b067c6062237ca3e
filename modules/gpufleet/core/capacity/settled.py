"""What was chosen for a pool, before its numbers are made."""

from dataclasses import dataclass

from gpufleet.core.capacity.choice import Pattern
from gpufleet.core.capacity.demand import PoolDemand
from gpufleet.core.capacity.headroom import Failures
from gpufleet.core.capacity.needs import Needs
from gpufleet.core.capacity.options import Candidate
from gpufleet.core.capacity.sizing import Sized
from gpufleet.core.cost.serving import planned_capacity
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plans import PoolPlan


@dataclass(frozen=True)
class Settled:
    """What was chosen for a pool, and everything that its numbers follow from."""

    name: str
    demand: PoolDemand
    candidate: Candidate
    needs: Needs
    failures: Failures
    chosen: Pattern
    keeps_site_loss: bool
    """Whether the other sites have to hold what a site's loss needs."""
    peak_after_loss: bool
    """Whether that is the declared peak; else the busiest hour of a usual day."""
    autoscaled: bool
    """Whether replicas start and stop by load."""

    @property
    def gpus_per_replica(self) -> int:
        """GPUs of one replica over all its nodes."""
        return self.candidate.gpus_per_replica

    @property
    def steady(self) -> int:
        """Replicas that always run."""
        return sum(stand.replicas for stand in self.chosen.stands.values())

    @property
    def most(self) -> int:
        """Replicas that may run."""
        return sum(stand.most for stand in self.chosen.stands.values())

    @property
    def peak(self) -> int:
        """Replicas that the declared peak needs, and a batch pool always runs."""
        return min(self.most, max(self.needs.most, self.steady)) if self.autoscaled else self.most

    @property
    def utilization(self) -> float:
        """Share of the steady replicas' full rate that a usual day's busiest hour asks for."""
        peak, usual = (sum(hour.rates_rps) for hour in (self.demand.peak, self.demand.usual))
        sized = self.at_peak
        return min(1.0, sized.load * sized.replicas * usual / peak / self.steady)

    @property
    def at_peak(self) -> Sized:
        """What the simulation of the declared peak found."""
        assert self.needs.at_peak is not None  # noqa: S101 - only what is simulated is settled
        return self.needs.at_peak

    def request_gpu_hours(self, fleet: Fleet, plan: PoolPlan) -> float:
        """GPU-hours of a mean request of a usual day, at the default utilization."""
        usual = self.demand.usual
        work = self.demand.work(usual) / sum(usual.rates_rps)
        return planned_capacity(fleet, plan).gpu_hours(work, fleet.costs.default_utilization)
