"""The fleet file: one environment, declared whole."""

from typing import Annotated

from pydantic import Field

from gpufleet.spec import forms
from gpufleet.spec.clusters import ProvisionedCluster
from gpufleet.spec.compatibility import Compatibility
from gpufleet.spec.costs import Costs
from gpufleet.spec.drill_cadence import DrillCadence
from gpufleet.spec.evidence import ExchangeRate, Measurement
from gpufleet.spec.gateway import Gateway
from gpufleet.spec.governance import (
    Budget,
    EscalationStep,
    FreezeCalendar,
    Governance,
    Identity,
    PatchCadence,
    PatchTarget,
    Retention,
    Risk,
    Shift,
    SnapshotKeys,
    SnapshotRetention,
    Team,
)
from gpufleet.spec.hardware import GpuType, NodeGroup, Rack, Site, Supplier
from gpufleet.spec.quantities import (
    ImageReference,
    Name,
    Names,
    RelativePath,
    RevisionName,
    Spec,
)
from gpufleet.spec.serving import DataClass, ModelRevision, Pool, UseCase
from gpufleet.spec.snapshot_schedule import SnapshotSchedule


class Images(Spec):
    """Images of gpufleet itself, by digest."""

    gpufleet: ImageReference
    """Restores weights in the pods' init container; later also worker, agent and jobs."""
    gateway: ImageReference | None = None
    """The gateway at sites that are not embedded; none runs there where it is not given."""


class Fleet(Spec):
    """Everything that one environment declares; every section is a mapping by name.

    An instance made by `load_fleet` also satisfies the checks that span sections
    (`gpufleet.spec.checks`).
    """

    fleet: Name
    """Name of the fleet."""
    environment: Name
    """Name of the environment, such as production."""
    include: Names = Field(default_factory=list)
    """Shared parts, read from `shared/NAME.yaml` beside this file."""
    currency: Annotated[str, Field(pattern=forms.CURRENCY)] = "USD"
    """ISO 4217 code of every amount of money in the file."""
    images: Images
    sites: Annotated[dict[Name, Site], Field(min_length=1)]
    racks: Annotated[dict[Name, Rack], Field(min_length=1)]
    gpus: dict[Name, GpuType] = Field(default_factory=dict)
    """Overrides of the built-in GPU catalogue, or types that it lacks."""
    node_groups: Annotated[dict[Name, NodeGroup], Field(min_length=1)]
    suppliers: dict[Name, Supplier] = Field(default_factory=dict)
    identities: dict[Name, Identity] = Field(default_factory=dict)
    teams: Annotated[dict[Name, Team], Field(min_length=1)]
    models: Annotated[dict[RevisionName, ModelRevision], Field(min_length=1)]
    use_cases: Annotated[dict[Name, UseCase], Field(min_length=1)]
    pools: Annotated[dict[Name, Pool], Field(min_length=1)]
    measurements: dict[Name, Measurement] = Field(default_factory=dict)
    exchange_rates: dict[Annotated[str, Field(pattern=forms.CURRENCY)], ExchangeRate] = Field(
        default_factory=dict
    )
    """What other currencies are worth; hosted prices are in USD."""
    costs: Costs = Costs()
    gateway: Gateway = Gateway()
    budget: Budget | None = None
    freeze_calendars: dict[Name, FreezeCalendar] = Field(default_factory=dict)
    patching: dict[PatchTarget, PatchCadence] = Field(default_factory=dict)
    compatibility: Compatibility = Compatibility()
    advisories: list[RelativePath] = Field(default_factory=list)
    """OSV or CSAF files, relative to the fleet file: known vulnerabilities of what is installed."""
    retention: dict[DataClass, Retention] = Field(default_factory=dict)
    snapshots: SnapshotRetention = SnapshotRetention()
    snapshot_schedule: SnapshotSchedule = SnapshotSchedule()
    snapshot_keys: SnapshotKeys = SnapshotKeys()
    drills: DrillCadence = DrillCadence()
    staffing: dict[Name, Shift] = Field(default_factory=dict)
    escalation: list[EscalationStep] = Field(default_factory=list)
    risks: dict[Name, Risk] = Field(default_factory=dict)
    governance: Governance = Governance()

    @property
    def slug(self) -> str:
        """`sample-production`: names stacks and folders."""
        return f"{self.fleet}-{self.environment}"

    def node_groups_at(self, site: str) -> dict[str, NodeGroup]:
        """The node groups of one site, by name."""
        return {name: group for name, group in self.node_groups.items() if group.site == site}

    def awaits_cluster(self, site: str) -> bool:
        """Whether a site's cluster is being provisioned, and cannot be reached yet."""
        cluster = self.sites[site].cluster
        return isinstance(cluster, ProvisionedCluster) and cluster.context is None

    def pools_at(self, site: str) -> dict[str, Pool]:
        """The pools with at least one placement at a site, by name."""
        groups = self.node_groups_at(site)
        return {name: pool for name, pool in self.pools.items() if groups.keys() & pool.placements}
