"""Drills: what is to fail, what comes back, how long each phase took, and what was declared."""

from datetime import datetime
from enum import StrEnum
from typing import Final

from pydantic import Field

from gpufleet.spec.quantities import Digest, Spec

DRILL_PREFIX: Final = "drill-"
"""How the names of a drill's use cases and pools begin; in records and metrics too."""


class Phase(StrEnum):
    """What the time from a declared failure to a verified token is made of, in this order."""

    DETECT = "detect"
    """Until the gateway has noticed, for every use case."""
    DECIDE = "decide"
    """Until it is known what comes up where."""
    PROVISION = "provision"
    """Until what it runs in stands."""
    ARTIFACTS = "artifacts"
    """Until the weights are there, every byte verified."""
    LOAD = "load"
    """Until a replica of each pool is ready."""
    FIRST_TOKEN = "first-token"  # noqa: S105 - not that kind of token
    """Until the gateway has answered for every use case."""


class DrillState(StrEnum):
    """How a drill stands."""

    RUNNING = "running"
    MET = "met"
    MISSED = "missed"
    FAILED = "failed"
    """It could not be carried through; nothing is known of the objectives."""
    CANCELLED = "cancelled"


class PhaseTime(Spec):
    """How long a phase took, or is expected to take."""

    phase: Phase
    seconds: float
    detail: str = ""
    """What it was made of, and what it was not."""


class Placed(Spec):
    """Replicas of a pool that come up on a node group."""

    pool: str
    site: str
    node_group: str
    replicas: int
    nodes_per_replica: int
    gpus_per_node: int
    yields: str = ""
    """The batch pool whose GPUs they take; empty where GPUs are free."""

    @property
    def gpus(self) -> int:
        """GPUs of all of them."""
        return self.replicas * self.nodes_per_replica * self.gpus_per_node


class Reason(StrEnum):
    """Why a drill for real takes something of production."""

    LOST = "lost"
    """It is what fails."""
    YIELDS = "yields"
    """Batch work whose GPUs interactive work needs meanwhile."""


class Scaled(Spec):
    """A workload of production that a drill for real makes smaller, and how it was before."""

    pool: str
    site: str
    node_group: str
    reason: Reason
    kind: str
    """Deployment or LeaderWorkerSet."""
    namespace: str
    before: int
    """Replicas that it is to have; by the plan, and then as it was found."""
    ready: int | None = None
    """Replicas of those that served: as many have to be ready again; all where it is not known."""
    left: int
    """Replicas that it keeps meanwhile."""
    autoscaled: bool = False
    """Whether KEDA owns its number: then it is paused."""
    paused: str | None = None
    """What KEDA was paused at before; none where it was not."""
    pods: list[str] = Field(default_factory=list)
    """Those of its pods that go first; any where none is named."""


class Cordoned(Spec):
    """A node on which a drill for real lets nothing new begin, and the replica on it that ends."""

    site: str
    node: str
    pool: str
    namespace: str
    pod: str
    uid: str = ""
    """Of the pod: a later one may have its name."""
    before: int
    """Ready replicas of the pool at the site: as many have to be there again."""


class ForReal(Spec):
    """What a drill for real does to production, and how long at most."""

    scaled: list[Scaled] = Field(default_factory=list)
    cordoned: Cordoned | None = None
    accepted: list[str] = Field(default_factory=list)
    """Use cases that are accepted to be down meanwhile."""
    at_most_s: float
    """From the failure until production is told to come back as it was, s."""
    approvals_needed: int
    """Signatures of others; never fewer than one."""

    @property
    def sites(self) -> list[str]:
        """Where something of production is taken."""
        cordoned = [self.cordoned.site] if self.cordoned else []
        return list(dict.fromkeys([*(each.site for each in self.scaled), *cordoned]))


class Outlook(Spec):
    """What is said before a drill begins."""

    phases: list[PhaseTime]
    recovered_s: float
    rto_s: float
    """The shortest of the use cases that come back."""
    source: str
    """Where the times come from."""
    remedies: list[str]
    """What would hold the objective, each by itself; none where it is held."""

    @property
    def holds(self) -> bool:
        """Whether the objective is expected to be held."""
        return self.recovered_s <= self.rto_s


class DrillPlan(Spec):
    """What a drill does."""

    fleet: str
    environment: str
    fleet_digest: Digest
    """Of the fleet file that it was made for."""
    scenario: str
    target: str
    """What is lost, such as a site."""
    use_cases: list[str]
    """Those that are hit, the shortest objective first."""
    lost: list[Placed]
    """What stands in for what is lost: it serves before the failure, and is what fails."""
    placed: list[Placed]
    """What comes up instead, with what is free now; decided again after the failure."""
    unheld: dict[str, str]
    """Use cases that cannot come back, each with why and what would change that."""
    notes: list[str]
    """What the drill does not show."""
    outlook: Outlook
    for_real: ForReal | None = None
    """What production is hit by; none in isolation."""

    @property
    def sites(self) -> list[str]:
        """Every site where something ends or comes up."""
        real = self.for_real.sites if self.for_real else []
        placed = [each.site for each in (*self.lost, *self.placed)]
        return list(dict.fromkeys([*real, *placed]))


class UseCaseRecovery(Spec):
    """How a use case came back."""

    use_case: str
    pool: str
    rto_s: float
    rpo_s: float
    recovered_s: float | None
    """From the failure to a verified token; none where there was none."""
    ttft_s: float | None = None
    """Of that answer."""
    model: str = ""
    """The revision that gave it."""
    lost_s: float | None = None
    """How much recorded work was lost; none where it was not measured."""
    why_not: str = ""
    """Why it did not come back."""

    @property
    def met(self) -> bool:
        """Whether both objectives were met."""
        in_time = self.recovered_s is not None and 0 <= self.recovered_s <= self.rto_s
        return in_time and (self.lost_s is None or self.lost_s <= self.rpo_s)


class Tally(Spec):
    """A drill in few numbers: those of the use case that was nearest to its objective, or past."""

    use_case: str
    recovered_s: float | None
    rto_s: float
    rpo_s: float
    lost_s: float | None
    met: bool
    """Whether every use case met its own."""


class DrillReport(Spec):
    """The story of a drill."""

    flow: str
    scenario: str
    target: str
    actor: str
    why: str = ""
    state: DrillState = DrillState.RUNNING
    begun_at: datetime
    failed_at: datetime | None = None
    """When the failure was declared; from here the clock runs."""
    ended_at: datetime | None = None
    outlook: Outlook
    placed: list[Placed] = Field(default_factory=list)
    phases: list[PhaseTime] = Field(default_factory=list)
    use_cases: list[UseCaseRecovery] = Field(default_factory=list)
    recovered_s: float | None = None
    rto_s: float | None = None
    rpo_s: float | None = None
    lost_s: float | None = None
    met: bool = False
    workers: int = 0
    """That have worked on it: with more than one its times hold an interruption."""
    cleaned: bool = False
    """Whether nothing of it is left."""
    notes: list[str] = Field(default_factory=list)
    doubts: list[str] = Field(default_factory=list)
    """Those of the notes for which it is not met, though every use case met its own."""
    keys: list[str] = Field(default_factory=list)
    """Ids of the gateway keys that were made for it."""
    for_real: ForReal | None = None
    """What was taken from production, as it was before; none in isolation."""
    approved_by: list[str] = Field(default_factory=list)
    given_back_at: datetime | None = None
    """When production was as before, every replica ready; none before."""

    @property
    def hits_production(self) -> bool:
        """Whether something may be taken from production that is not given back yet."""
        return self.for_real is not None and self.given_back_at is None

    @property
    def sites(self) -> list[str]:
        """Every site where one for real takes something, or lets something come up."""
        real = self.for_real.sites if self.for_real else []
        return list(dict.fromkeys([*real, *(each.site for each in self.placed)]))


class Trend(Spec):
    """How the drills of one scenario and target went, over time."""

    scenario: str
    target: str
    for_real: bool = False
    """Whether they were production's: those in isolation have a trend of their own."""
    drills: int
    met: int
    last_at: datetime
    last_s: float | None
    best_s: float | None
    worst_s: float | None
    change_s: float | None
    """The last one against the median of those before it: more is worse."""
    proven_at: datetime | None
    """When the objectives were last met."""


class Possible(Spec):
    """A scenario, as it could be drilled now."""

    scenario: str
    title: str
    fails: str
    proves: str
    plan: DrillPlan | None
    """For one target; none where it cannot be drilled here."""
    why_not: str = ""


class ProvenRestore(Spec):
    """A restore of a revision that was proven: every byte read back and verified."""

    revision: str
    site: str
    """Whose store it came from."""
    snapshot: str
    at: datetime
    seconds: float
    bytes_total: int


class Due(Spec):
    """When something has to be proven again."""

    scenario: str
    """Or `restore`, for a revision."""
    target: str
    every_s: float
    proven_at: datetime | None
    """When it was last; none where it never was."""
    proven_s: float | None
    """What it took then."""
    due_at: datetime
    overdue_s: float
