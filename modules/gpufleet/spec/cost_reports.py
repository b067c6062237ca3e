"""What tasks about costs answer with; all amounts in the fleet's currency."""

from datetime import datetime
from decimal import Decimal

from gpufleet.spec.quantities import Spec


class CostParts(Spec):
    """What an amount consists of."""

    amortization: Decimal
    power: Decimal
    facility: Decimal
    oncall: Decimal

    @property
    def total(self) -> Decimal:
        """The amount."""
        return self.amortization + self.power + self.facility + self.oncall


class UseCaseCost(Spec):
    """What one use case costs in a period."""

    use_case: str
    team: str
    pool: str
    requests: int
    successful: int
    """Requests that end in a successful task."""
    work: int
    """Units of work of its requests: output tokens, with prompt tokens at a quarter of one."""
    gpu_hours: Decimal
    """That its requests took."""
    served: Decimal
    """Cost of those GPU-hours."""
    idle: Decimal
    """Its share of what the pool keeps beside them."""
    cost_per_1k: Decimal | None
    """For 1,000 served requests: at the conservative utilization, with the buffer, without idle."""
    cost_per_1k_with_idle: Decimal | None
    """All that is kept for it, for 1,000 served requests, without a buffer."""
    cost_per_task: Decimal | None
    """`cost_per_1k` for one successful task."""


class TeamCost(Spec):
    """What a team's use cases cost together, or what nobody can be charged for."""

    team: str
    requests: int
    successful: int
    served: Decimal
    idle: Decimal
    cost_per_1k: Decimal | None
    """As of its use cases, by their requests."""
    cost_per_task: Decimal | None

    @property
    def total(self) -> Decimal:
        """Served and idle."""
        return self.served + self.idle


class PoolCost(Spec):
    """What one pool costs in a period."""

    pool: str
    gpus: int
    """That it keeps: for every replica that may run."""
    gpu_hours: Decimal
    served_gpu_hours: Decimal
    utilization: float
    """Share of its capacity that a GPU serves in those hours."""
    utilization_source: str
    capacity_source: str
    parts: CostParts
    served: Decimal
    idle: Decimal
    cost_per_1k: Decimal | None
    """As of its use cases, by their requests."""
    use_cases: list[UseCaseCost]

    @property
    def total(self) -> Decimal:
        """Served and idle."""
        return self.served + self.idle


class PeriodCost(Spec):
    """What the environment costs in a period."""

    begin: datetime
    end: datetime
    pools: list[PoolCost]
    teams: list[TeamCost]
    unassigned: Decimal
    """Of GPUs that no pool keeps."""
    unobserved: Decimal = Decimal(0)
    """Of hours that nothing is known about: without power, since nobody saw what they drew."""
    total: Decimal
    cost_per_1k: Decimal | None
    """As of all use cases, by their requests."""
    buffer: Decimal
    """Added to a forecast: `governance.cost_buffer` of the total."""
    budget: Decimal | None
    budget_left: Decimal | None
    """Negative where the budget does not hold."""

    @property
    def use_cases(self) -> list[UseCaseCost]:
        """Of every pool."""
        return [row for pool in self.pools for row in pool.use_cases]

    @property
    def idle(self) -> Decimal:
        """What is kept and serves nothing: in pools, and of no pool."""
        return sum((pool.idle for pool in self.pools), self.unassigned)


class CostReport(Spec):
    """Costs by period."""

    fleet: str
    environment: str
    currency: str
    kind: str
    """`forecast` or `actual`."""
    buffer_share: float
    periods: list[PeriodCost]
    notes: list[str]
    """What a reader should know, such as a gap in what was observed."""


class Cause(Spec):
    """What one cause has added to the cost."""

    cause: str
    amount: Decimal
    """Positive where it made the actual cost higher."""


class CostComparison(Spec):
    """Why the actual cost differs from the forecast."""

    fleet: str
    environment: str
    currency: str
    begin: datetime
    end: datetime
    forecast: Decimal
    actual: Decimal
    variance: Decimal
    """Actual less forecast; the causes add up to it."""
    causes: list[Cause]
    by_pool: dict[str, Decimal]
    """The same variance by pool; `unassigned` and `unobserved` are of none."""
    notes: list[str]
