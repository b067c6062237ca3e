"""What every flow stands on: the environment's database and the tables in it, clock and journal."""

import getpass
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from pydantic import JsonValue

from gpufleet.core.journal import sealed
from gpufleet.core.leases import LEASE_FOR, RENEW_EVERY, demand_given_back, granted
from gpufleet.edges.applied_table import AppliedTable
from gpufleet.edges.approval_table import ApprovalTable
from gpufleet.edges.clock import Clock, clock_of
from gpufleet.edges.database import Database, open_database
from gpufleet.edges.drill_table import DrillTable
from gpufleet.edges.exemption_table import ExemptionTable
from gpufleet.edges.host_table import HostTable
from gpufleet.edges.host_version_table import HostVersionTable
from gpufleet.edges.journal_table import Journal, writer_of
from gpufleet.edges.lease_table import LeaseTable
from gpufleet.edges.override_table import OverrideTable
from gpufleet.edges.patch_table import PatchTable
from gpufleet.edges.progress_table import ProgressTable
from gpufleet.edges.usage_table import UsageTable
from gpufleet.edges.workspace import EnvironmentDir, Workspace
from gpufleet.local.platform import embedded_sites
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import FleetError
from gpufleet.spec.fence import Fence
from gpufleet.spec.records import Claim, Fact


@dataclass(frozen=True)
class Ground:
    """The shared state of one environment."""

    workspace: Workspace
    fleet_file: Path
    fleet: Fleet
    state: EnvironmentDir
    database: Database
    clock: Clock

    @classmethod
    def open(cls, workspace: Workspace, fleet_file: Path) -> Self:
        """Read the fleet file, open the database, make its tables.

        Raises:
            BadInput: the fleet file, or the database's URL.
            Retryable: the database does not answer.
        """
        fleet = load_fleet(fleet_file)
        state = workspace.for_fleet(fleet).make()
        database = open_database(state)
        database.migrate()
        simulated = len(embedded_sites(fleet)) == len(fleet.sites)
        return cls(
            workspace, fleet_file, fleet, state, database, clock_of(state, simulated=simulated)
        )

    @cached_property
    def journal(self) -> Journal:
        """Who did what, when, why."""
        return Journal(self.database, writer_of(self.state), self.clock, sealed)

    @cached_property
    def leases(self) -> LeaseTable:
        """Who changes what."""
        return LeaseTable(self.database, self.clock, granted, LEASE_FOR, self._demand_free)

    def _demand_free(self, claim: Claim) -> None:
        demand_given_back(claim, self.drills.reports(only_open=True))

    @cached_property
    def approvals(self) -> ApprovalTable:
        """Who has signed what."""
        return ApprovalTable(self.database, self.clock)

    @cached_property
    def exemptions(self) -> ExemptionTable:
        """Who may change something in a freeze."""
        return ExemptionTable(self.database, self.clock)

    @cached_property
    def hosts(self) -> HostTable:
        """What is remembered of hosts."""
        return HostTable(self.database, self.clock)

    @cached_property
    def overrides(self) -> OverrideTable:
        """Who has asked to change something in a freeze, and who has signed it."""
        return OverrideTable(self.database, self.clock)

    @cached_property
    def progress(self) -> ProgressTable:
        """What running flows tell."""
        return ProgressTable(self.database, self.clock)

    @cached_property
    def applied(self) -> AppliedTable:
        """What was applied."""
        return AppliedTable(self.database, self.clock)

    @cached_property
    def host_versions(self) -> HostVersionTable:
        """What every host has installed."""
        return HostVersionTable(self.database)

    @cached_property
    def patches(self) -> PatchTable:
        """What was patched, and what goes on."""
        return PatchTable(self.database, self.clock)

    @cached_property
    def drills(self) -> DrillTable:
        """What was drilled, and what goes on."""
        return DrillTable(self.database)

    @cached_property
    def usage(self) -> UsageTable:
        """What was served."""
        return UsageTable(self.database)

    def note(self, event: str, *, actor: str, target: str = "", **body: JsonValue) -> None:
        """Write a fact that belongs to no flow into the journal."""
        self.journal.append(Fact(event=event, actor=actor, target=target, body=body))

    @contextmanager
    def holding(self, target: str, *, why: str) -> Iterator[Fence]:
        """Hold a lease for the time of a block, renewed in the background.

        Raises:
            Retryable: somebody else holds it.
        """
        holder = f"{why} by {whoami()}"
        claim = Claim(target=target, owner=f"{why}-{uuid.uuid4().hex[:12]}", holder=holder)
        fence = self.leases.acquire(claim)
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(RENEW_EVERY.total_seconds()):
                try:
                    self.leases.renew(fence)
                except FleetError:
                    # Whoever needs the lease finds out at its next check.
                    continue

        thread = threading.Thread(target=renew, daemon=True, name=f"lease-{target}")
        thread.start()
        try:
            yield fence
        finally:
            ended.set()
            thread.join()
            self.leases.release(fence)

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def whoami() -> str:
    """The system user and machine: who acts where no identity is asked for."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
