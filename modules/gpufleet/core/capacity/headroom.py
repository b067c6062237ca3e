"""What has to be there beyond the peak: for failed GPUs, for maintenance, for rollouts."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import NodeGroup

YEAR_S: Final = 365 * 86_400.0
UNKNOWN_REPAIR_S: Final = 30 * 86_400.0
"""Until a failed GPU is replaced where no supplier is declared: an assumption, on the slow side."""
WAVE_SHARE: Final = 0.05
"""Nodes of a maintenance wave after the first: one, or this share of the group."""


@dataclass(frozen=True)
class Failures:
    """How many GPUs of a pool are broken at a time."""

    gpus: int
    annual_failure_rate: float
    repair_s: float
    availability: float

    @property
    def mean(self) -> float:
        """GPUs that are broken on average: the load of a queue without waiting (Little's law)."""
        return self.gpus * self.annual_failure_rate * self.repair_s / YEAR_S

    @property
    def spares(self) -> int:
        """GPUs that are broken at most, in a share `availability` of the time.

        The number that is broken is Poisson, whatever the repair time's distribution (M/G/inf).
        """
        return poisson_quantile(self.mean, self.availability)


def poisson_quantile(mean: float, probability: float) -> int:
    """The smallest k with P(X <= k) >= probability, for a Poisson X.

    Args:
        mean: at least 0; counted in logarithms, so that a large one is no trouble.
        probability: below 1.
    """
    if mean <= 0:
        return 0
    count, cumulated, log_term = 0, math.exp(-mean), -mean
    # Behind the mean the terms fall faster than any rounding error adds up.
    most = mean + 40 * math.sqrt(mean) + 100
    while cumulated < probability and count < most:
        count += 1
        log_term += math.log(mean / count)
        cumulated += math.exp(log_term)
    return count


def repair_s(fleet: Fleet, groups: Iterable[str]) -> float:
    """How long a failed GPU is away at worst over node groups: their suppliers' RMA turnaround."""
    return max(
        (
            fleet.suppliers[supplier].rma_turnaround_s if supplier else UNKNOWN_REPAIR_S
            for supplier in (fleet.node_groups[group].supplier for group in groups)
        ),
        default=UNKNOWN_REPAIR_S,
    )


def wave_nodes(group: NodeGroup) -> int:
    """Nodes that a maintenance wave takes away at once."""
    return max(1, math.floor(group.nodes * WAVE_SHARE))


def kept_available(replicas: int, min_available: float) -> int:
    """Replicas that a voluntary disruption leaves running."""
    # A share such as 0.7 of 10 is 7, not the 8 that binary fractions make of it.
    return math.ceil(replicas * min_available - 1e-9)
