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


class UpReport(Spec):
    """The outcome of `up`."""

    fleet: str
    environment: str
    pools: list[PoolRow]
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
