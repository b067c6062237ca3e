"""Patching: what is to be installed where, in which waves, and what came of it."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import Field, JsonValue, model_validator

from gpufleet.spec.governance import PatchTarget
from gpufleet.spec.quantities import (
    Digest,
    Fraction,
    Integer,
    Names,
    PackageVersion,
    Seconds,
    Spec,
    Text,
)


class Advisory(Spec):
    """A known vulnerability that an update mends."""

    id: Text
    """Such as `CVE-2026-1234`, or the vendor's own number."""
    severity: Text | Literal[""] = ""
    """`critical`, `high`, `medium` or `low`; empty where nobody says."""


class Part(StrEnum):
    """What of a component is installed, where it has several."""

    DRIVER = "driver"
    """Kernel driver with fabric manager and DCGM."""
    BMC = "bmc"
    VBIOS = "vbios"
    CONTAINERD = "containerd"
    TOOLKIT = "container-toolkit"
    KERNEL = "kernel"
    SECURITY = "security"
    """Every security update of the operating system."""


PARTS: Final[Mapping[PatchTarget, tuple[Part, ...]]] = {
    PatchTarget.DRIVER: (Part.DRIVER,),
    PatchTarget.FIRMWARE: (Part.BMC, Part.VBIOS),
    PatchTarget.RUNTIME: (Part.CONTAINERD, Part.TOOLKIT),
    PatchTarget.OS: (Part.KERNEL, Part.SECURITY),
}
"""What each component is made of; the first one stands for it where nobody says which."""
COMPONENT_OF: Final[Mapping[Part, PatchTarget]] = {
    part: component for component, parts in PARTS.items() for part in parts
}
"""The component that a part belongs to."""


class PatchOrder(Spec):
    """What somebody wants to install."""

    component: PatchTarget
    part: Part
    version: PackageVersion
    """What the hosts are to have afterwards."""
    sites: Names = Field(default_factory=list)
    """Sites to patch; every one where the list is empty."""
    pools: Names = Field(default_factory=list)
    """Pools whose node groups are patched; every one where the list is empty."""
    node_groups: Names = Field(default_factory=list)
    """Node groups to patch; every one where the list is empty."""
    why: Text | Literal[""] = ""
    advisories: list[Advisory] = Field(default_factory=list)
    soak_s: Seconds = 600
    """Time between two waves in which the gates have to hold."""
    canary_share: Fraction = 0.05
    """Share of the hosts in the second wave; the first has one host."""
    early_share: Fraction = 0.25
    """Share of the hosts in the third wave; the fourth has the rest."""
    failures_allowed: Annotated[Integer, Field(ge=0, le=100)] = 0
    """Hosts of one wave that may fail before the flow stops."""


class HostChange(Spec):
    """What happens to one host."""

    host: str
    """The node's name: in the fleet file, in the cluster, and in the inventory."""
    site: str
    rack: str
    node_group: str
    pools: list[str]
    before: str
    """Version that it has, as far as is known; empty where nobody knows."""
    after: str


class Wave(Spec):
    """Hosts that are patched before the next soak; batches follow each other without one."""

    number: Annotated[Integer, Field(ge=1)]
    batches: list[list[str]]
    """Hosts that are out of service at the same time: all of one rack, and no pool falls below its
    minimum availability."""

    @property
    def hosts(self) -> list[str]:
        """All hosts of the wave, in order."""
        return [host for batch in self.batches for host in batch]


class Gate(Spec):
    """What has to be true during a soak."""

    name: str
    """Such as `replicas ready: chat`."""
    site: str
    query: str
    """PromQL; its value is compared with `at_most`."""
    at_most: float
    required: bool = True
    """Whether no series at all counts as failed; a use case that is not served yet has none."""


class PatchPlan(Spec):
    """What a patch would do."""

    fleet: str
    environment: str
    fleet_digest: Digest
    order: PatchOrder
    hosts: dict[str, HostChange]
    """By name; only those that do not have the version yet."""
    waves: list[Wave]
    gates: list[Gate]
    batch_s: float
    """How long a batch takes at most, by the 95th percentile of earlier ones, s."""
    rollback_s: float
    """How long it takes to bring a batch back, s."""
    can_go_back: bool
    """Whether the component can be installed in its version of before."""
    left_out: dict[str, str]
    """Hosts that are not patched, with the reason."""
    undoes: str = ""
    """The patch that it takes back; a way back goes on in a freeze."""

    @model_validator(mode="after")
    def _each_host_once(self) -> Self:
        planned = [host for wave in self.waves for host in wave.hosts]
        if sorted(planned) != sorted(self.hosts):
            message = "every host has to be in exactly one wave"
            raise ValueError(message)
        return self


class HostState(StrEnum):
    """How far a host is."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    UNCHANGED = "unchanged"
    """It had the version already."""
    FAILED = "failed"
    """Untouched, or brought back to where it was: still in service."""
    UNFIT = "unfit"
    """Not touched: its hardware had faults before; it is as it was."""
    ROLLED_BACK = "rolled-back"
    QUARANTINED = "quarantined"
    """Cordoned for good: a person has to look at it."""


class HostOutcome(Spec):
    """What came of one host."""

    host: str
    state: HostState
    before: str = ""
    after: str = ""
    """Version that was read from it last."""
    seconds: float = 0
    failed_task: str = ""
    error: str = ""


class WaveOutcome(Spec):
    """What came of one wave."""

    number: int
    begun_at: datetime
    ended_at: datetime
    hosts: list[HostOutcome]
    gates: list[dict[str, JsonValue]] = Field(default_factory=list)
    """Each gate with the value that it had."""
    stopped_by: str = ""
    """Why nothing came after it; empty where it was good."""


class PatchReport(Spec):
    """The story of one patch."""

    flow: str
    actor: str
    order: PatchOrder
    begun_at: datetime
    ended_at: datetime | None = None
    waves: list[WaveOutcome] = Field(default_factory=list)
    held: list[str] = Field(default_factory=list)
    """When it waited, and for what."""
    outcome: str = "running"
    """`running`, `paused`, `done`, `rolled-back`, `stopped`, `not-begun`, `failed` or
    `cancelled`; `queued` before its worker has begun."""

    @property
    def waits_for(self) -> str:
        """What it waits for now; empty where it goes on or has ended."""
        waits = self.ended_at is None and self.held and " until " not in self.held[-1]
        return self.held[-1] if waits else ""

    @property
    def hosts(self) -> dict[str, HostOutcome]:
        """The last outcome of each host."""
        return {outcome.host: outcome for wave in self.waves for outcome in wave.hosts}
