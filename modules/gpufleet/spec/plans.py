"""A capacity plan: what each pool needs to keep its promises, why, and what it costs."""

from decimal import Decimal

from pydantic import Field

from gpufleet.spec.quantities import Digest, Spec
from gpufleet.spec.serving import Prewarm, ServingClass, UseCaseLimits


class Predicted(Spec):
    """What users of a pool would see at its declared peak, by the simulation."""

    p95_s: float
    """95th percentile from request to last token, of the use case that is nearest to its limit."""
    ttft_p95_s: float
    error_rate: float
    """Share of requests that were shed or gave up."""
    utilization: float
    """Share of the replicas' time in which they work, at the busiest hour of a usual day."""


class UseCasePrediction(Spec):
    """What one use case would see, beside what it was promised."""

    use_case: str
    p95_s: float
    p95_limit_s: float
    ttft_p95_s: float
    ttft_p95_limit_s: float
    error_rate: float
    error_rate_limit: float


class Headroom(Spec):
    """GPUs beyond steady and burst, so that the promise holds while something is away."""

    failures: int
    """For GPUs that are broken, at the declared availability: a Poisson quantile."""
    maintenance: int
    """For the nodes that a maintenance wave takes away."""
    surge: int
    """For the replicas that a rollout starts before it stops others."""
    site_loss: int = 0
    """For what the loss of a site takes away: replicas that may run at the other sites."""


class PlannedPlacement(Spec):
    """A pool's replicas on one node group, as planned."""

    replicas: int
    """Replicas that always run."""
    max_replicas: int
    nodes_per_replica: int
    gpus_per_node: int

    @property
    def gpus(self) -> int:
        """GPUs of every replica that may run."""
        return self.max_replicas * self.nodes_per_replica * self.gpus_per_node


class ArithmeticStep(Spec):
    """One step of how a number came about, as `--explain` shows it."""

    number: str
    """The field of the pool that it leads to, such as `gpus_steady`."""
    text: str
    """Such as `50 requests/s / 8 requests/s per GPU = 6.25, rounded up: 7`."""
    source: str = ""
    """`file:line:column: field`, a measurement, or the shipped table that it comes from."""


class PoolPlan(Spec):
    """What one pool needs."""

    pool: str
    class_: ServingClass = Field(alias="class")
    use_cases: list[str]
    model: str
    gpu_type: str
    tp: int
    """GPUs of a replica on each of its nodes."""
    pp: int
    """Nodes of a replica."""
    evidence: str
    """What the speed is known from: `measured-rate`, `measured-points` or `roofline`."""
    evidence_source: str
    gpus_steady: int
    """Always on: they hold the promises in the busiest hour of a usual day, arrivals smooth."""
    gpus_burst: int
    """On demand beyond those: what declared peaks and burstiness add."""
    replicas_min: int
    replicas_max: int
    """Steady, burst, and what the loss of a site asks of the other sites."""
    concurrency_limit: int
    """Requests in flight at one replica."""
    queue_limit: int
    """Requests that wait at one replica; more are refused at once."""
    queue_time_target_s: float
    """Time in queue at which the autoscaler adds a replica."""
    placements: dict[str, PlannedPlacement]
    """By node group."""
    prewarm: list[Prewarm]
    limits: dict[str, UseCaseLimits]
    """By use case."""
    predicted: Predicted
    by_use_case: list[UseCasePrediction]
    headroom: Headroom
    site_loss: str
    """`kept`: the promises hold without any one site; else what is lost, as a sentence."""
    smooth_gpus: int
    """GPUs that the declared peak would need if arrivals were Poisson: what burstiness adds is the
    difference to `gpus_steady + gpus_burst`."""
    cost_monthly: Decimal
    """In the fleet's currency, all GPUs that the plan keeps for the pool."""
    cost_per_1k: Decimal | None
    """For 1,000 served requests, in the fleet's currency."""
    cost_per_1k_usd: Decimal | None
    """The same in US$; none where the fleet declares no rate for it."""
    latency_by_gpus: list[tuple[int, float, float]]
    """Around the chosen number, at the peak: GPUs, p95, p95 of the time to the first token, s."""
    explain: list[ArithmeticStep]

    @property
    def gpus(self) -> int:
        """GPUs that the pool runs at most, for the loss of a site too: those of its cost."""
        return self.gpus_steady + self.gpus_burst + self.headroom.site_loss


class Totals(Spec):
    """The whole environment against its budget."""

    gpus_steady: int
    gpus_burst: int
    gpus_headroom: int
    gpus_owned: int
    cost_monthly: Decimal
    """Of everything that is owned, used or idle."""
    cost_idle_monthly: Decimal
    """Of GPUs that no pool of the plan keeps."""
    budget_monthly: Decimal | None
    budget_left_monthly: Decimal | None


class Plan(Spec):
    """An environment's capacity plan."""

    fleet: str
    environment: str
    currency: str
    fleet_digest: Digest
    """Of the fleet file as it was planned."""
    pools: list[PoolPlan]
    totals: Totals
    explain: list[ArithmeticStep]
    """How the totals came about."""
    warnings: list[str]
    """What a reader should know, such as evidence that is only a roofline."""
    seconds: float
    """How long planning took."""

    @property
    def kept_monthly(self) -> Decimal:
        """What the GPUs that pools may run cost in a month, in the fleet's currency."""
        return sum((pool.cost_monthly for pool in self.pools), Decimal(0))

    @property
    def gpus(self) -> int:
        """GPUs that the pools run at most, for the loss of a site too: those of their cost."""
        return sum(pool.gpus for pool in self.pools)


class TrafficPoint(Spec):
    """What a multiple of the declared traffic would need."""

    traffic: float
    """Requests as a multiple of the declared ones."""
    gpus: int
    """GPUs that the pools would run at most, for the loss of a site too."""
    cost_monthly: Decimal
    """Of those GPUs, in the fleet's currency."""
    cost_per_1k: Decimal
    """For 1,000 served requests."""
