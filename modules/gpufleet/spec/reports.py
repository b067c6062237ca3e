"""What tasks answer with: the models behind every `--json`."""

from pydantic import Field

from gpufleet.spec.quantities import Spec


class PoolRow(Spec):
    """One pool on one site, as it is in the cluster."""

    site: str
    pool: str
    class_: str = Field(serialization_alias="class")
    revision: str
    replicas_ready: int
    replicas_wanted: int
    gpus_used: int
    """GPUs that the scheduler has given to the pool's pods."""
    gpus_free: int
    """GPUs of the pool's node group that nobody has."""
    nodes: int
    """Nodes that the pods stand on."""
    racks: int
    """Racks that the pods stand in."""

    @property
    def is_ready(self) -> bool:
        """Whether every replica that is wanted answers."""
        return self.replicas_ready >= self.replicas_wanted


class StackResult(Spec):
    """What an update did to one stack, in resources."""

    stack: str
    created: int = 0
    updated: int = 0
    replaced: int = 0
    deleted: int = 0
    same: int = 0
    seconds: float

    @property
    def changed(self) -> int:
        """Number of resources that were changed."""
        return self.created + self.updated + self.replaced + self.deleted


class AnswerRow(Spec):
    """One answer of the gateway."""

    use_case: str
    route: str
    """primary, fallback, hosted, summary or cache."""
    reason: str
    """Why it took this route."""
    model: str
    request_id: str
    """What the audit log calls it."""
    ttft_s: float
    """From the request to its first token."""
    seconds: float
    """To its last."""
    text: str


class UpReport(Spec):
    """The outcome of `up`."""

    fleet: str
    environment: str
    pools: list[PoolRow]
    answers: list[AnswerRow]
    """A completion through the gateway for each use case that it can reach from here."""
    stacks: list[StackResult]
    seconds: float
    next_steps: list[str]


class ResourceChange(Spec):
    """One resource that an update would change."""

    action: str
    kind: str
    name: str
    fields: list[str]
    """Paths of the properties that differ."""


class StackPreview(Spec):
    """What an update of one stack would change; `same` resources would stay."""

    stack: str
    changes: list[ResourceChange]
    same: int

    @property
    def is_first(self) -> bool:
        """Whether nothing of the stack stands yet."""
        return not self.same and all(change.action == "create" for change in self.changes)


class PreviewReport(Spec):
    """What `up` would change."""

    fleet: str
    environment: str
    stacks: list[StackPreview]
    warnings: list[str] = Field(default_factory=list)
    """What a reader should know, such as a plan that was made for an earlier fleet file."""

    @property
    def changes(self) -> int:
        """Number of resources that would change."""
        return sum(len(stack.changes) for stack in self.stacks)


class ProcessRow(Spec):
    """A process of the embedded platform."""

    site: str
    process: str
    state: str
    ready: bool
    pid: int
    restarts: int


class DriftRow(Spec):
    """A difference between fleet file, stack state and cluster."""

    site: str
    between: str
    """`fleet and cluster`, `fleet and state` or `state and cluster`."""
    what: str
    declared: str
    actual: str


class StatusReport(Spec):
    """How an environment is."""

    fleet: str
    environment: str
    pools: list[PoolRow]
    processes: list[ProcessRow]
    drift: list[DriftRow]
    warnings: list[str] = Field(default_factory=list)
    """What a reader should know, such as a plan that was made for an earlier fleet file."""

    @property
    def is_good(self) -> bool:
        """Whether everything runs, is ready, and is as declared."""
        return (
            not self.drift
            and all(pool.is_ready for pool in self.pools)
            and all(process.ready for process in self.processes)
        )


class GatewayPoolRow(Spec):
    """One pool as the gateway sees it."""

    pool: str
    model: str
    replicas: int
    """Pods that have an address."""
    ready: int
    """Those that Kubernetes calls ready."""
    answering: int
    """Those whose metrics could be read lately."""
    running: float
    waiting: float
    kv_usage: float
    """Largest share of a KV cache in use."""
    predicted_queue_s: float | None
    """Of one more request, as the workers predict it; None before a request came."""
    ejected: int
    """Replicas that a worker keeps out."""


class GatewayUseCaseRow(Spec):
    """One use case at the gateway."""

    use_case: str
    pool: str
    fallback: str
    """Empty where there is none."""
    in_flight: int
    concurrency_limit: int | None
    queue_time_limit_s: float
    hosted: str
    """Provider and model; empty where its data may not leave, or none is declared."""
    hosted_spend: float | None
    """This month's, in the fleet's currency; None where nothing was spent."""
    hosted_cap: float | None
    cache_hit_rate: float | None = None
    """Share of the answers since the gateway's start that were given again; None where the use case
    allows no cache, or nothing was answered."""
    cache_saved: float | None = None
    """What those answers would have cost, in the fleet's currency."""


class GatewayReport(Spec):
    """How the gateway is."""

    fleet: str
    environment: str
    url: str
    authority: str
    """File with the certificate that its clients have to trust."""
    file_ages_s: dict[str, float]
    """How old the workers' view is, by file."""
    pools: list[GatewayPoolRow]
    use_cases: list[GatewayUseCaseRow]


class FreezeRow(Spec):
    """What a site's cluster was told of freezes."""

    site: str
    frozen: bool
    message: str
    """What a person is told who is refused."""


class StateVersion(Spec):
    """One version of a stack's state that was kept."""

    stack: str
    site: str
    """Where the object store is that has it."""
    version: str
    kept_at: str
    size_bytes: int
