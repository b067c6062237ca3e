"""A change of an environment, before anything is applied."""

from decimal import Decimal
from typing import Self

from pydantic import JsonValue

from gpufleet.spec.quantities import Digest, Spec
from gpufleet.spec.reports import PoolRow, StackPreview, StackResult


class PoolChange(Spec):
    """What a change does to one pool on one site."""

    site: str
    pool: str
    replicas_before: int
    replicas_after: int
    gpus_before: int
    gpus_after: int
    revision_before: str
    revision_after: str


class Opening(Spec):
    """When a site may change."""

    site: str
    open: bool
    reason: str
    opens: str
    """The next opening, ISO 8601; empty where it is open, or none is known."""


class PoolRisk(Spec):
    """How near a pool comes to breaking its promise, at the declared peak."""

    pool: str
    p95_share_before: float | None
    """Predicted p95 over its limit, of the use case that is nearest; above 1 it is broken."""
    p95_share_after: float | None
    unknown: str
    """Why one of them is not known; empty where both are, or the pool was not there before."""


class CapacityChange(Spec):
    """What a change means for GPUs, cost and promises, before anything is applied."""

    currency: str
    gpus_before: int
    """Of every replica that may run."""
    gpus_after: int
    cost_monthly_before: Decimal
    """Of those GPUs."""
    cost_monthly_after: Decimal
    risks: list[PoolRisk]
    """Of pools whose speed or load changes."""


class ChangePlan(Spec):
    """What would be changed, and when it could be."""

    fleet: str
    environment: str
    fleet_digest: Digest
    """Of the fleet file as it was planned: another one is refused."""
    pools: list[PoolChange]
    stacks: list[StackPreview]
    openings: list[Opening]
    expected_s: float
    """How long it takes at most, by the 95th percentile of earlier changes, seconds."""
    rollback_s: float
    """How long it takes to go back, seconds."""
    approvals_needed: int
    capacity: CapacityChange | None = None

    @property
    def changes(self) -> int:
        """Number of resources that would change."""
        return sum(len(stack.changes) for stack in self.stacks)

    @property
    def gpus(self) -> int:
        """GPUs that pools take more (or, below zero, less) than before."""
        return sum(pool.gpus_after - pool.gpus_before for pool in self.pools)

    def summary(self) -> dict[str, JsonValue]:
        """The plan as those who approve it see it."""
        return {
            "changes": self.changes,
            "gpus": self.gpus,
            "capacity": self.capacity.model_dump(mode="json") if self.capacity else None,
            "pools": [pool.model_dump(mode="json") for pool in self.pools],
            "stacks": [
                {
                    "stack": stack.stack,
                    "changes": [
                        f"{change.action} {change.kind} {change.name}" for change in stack.changes
                    ],
                }
                for stack in self.stacks
                if stack.changes
            ],
        }


class ChangeReport(Spec):
    """What a change did."""

    flow: str
    stacks: list[StackResult]
    pools: list[PoolRow]
    seconds: float

    @classmethod
    def of(cls, value: JsonValue) -> Self:
        """As the flow returned it."""
        return cls.model_validate(value)

    @classmethod
    def of_nothing(cls) -> Self:
        """Where nothing was to be changed: no flow was begun."""
        return cls(flow="", stacks=[], pools=[], seconds=0)


class FlowRow(Spec):
    """A flow, as people ask for it."""

    id: str
    kind: str
    state: str
    """`queued`, `running`, `done`, `failed`, `cancelled` or `refused`."""
    step: str
    """The last thing that it told."""
    actor: str
    created_at: str
    seconds: float
    worker: str
    error: str
