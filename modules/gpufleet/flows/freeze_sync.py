"""Keeps each cluster's state of freezes true, so that plain kubectl is refused in one too."""

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.core.admission_objects import API
from gpufleet.core.freeze import Decision, decide, subject_of
from gpufleet.core.freeze_admission import UNKNOWN
from gpufleet.core.freeze_state import (
    KNOWN_FOR,
    NO_POOL,
    SEEN,
    FreezeState,
    config_map,
    key_of,
    pools_named,
    state_of,
)
from gpufleet.core.overrides import Judge, Target, in_force, lifted, open_until
from gpufleet.edges.calendars import read_calendars
from gpufleet.edges.clock import system_clock
from gpufleet.edges.kube import TOKEN_FOR, Cluster
from gpufleet.edges.kube_paths import collection_path, object_path
from gpufleet.flows.declared import DeclaredFleet
from gpufleet.flows.environment import cluster_of
from gpufleet.flows.ground import Ground
from gpufleet.spec import Fleet
from gpufleet.spec.errors import FleetError, Retryable
from gpufleet.spec.overrides import Override
from gpufleet.spec.reports import FreezeRow
from gpufleet.spec.windows import Calendar

_RENEW_EVERY: Final = KNOWN_FOR / 6
_TOKEN_FOR_S: Final = TOKEN_FOR.total_seconds() * 0.7


def sync(ground: Ground, sites: Iterable[str] | None = None) -> list[FreezeRow]:
    """Tell the clusters of sites (of all, where none is named) now whether a freeze holds.

    A row for each that was told; a site whose platform was never provisioned has nobody to tell.

    Raises:
        FleetError: a cluster cannot be told; the others are.
    """
    keeper = FreezeKeeper(ground)
    keeper.keep(sites)
    return keeper.rows


class FreezeKeeper:
    """Tells every cluster whether it is frozen: at once when that changes, else now and then.

    Args:
        ground: the environment.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._fleet = ground.fleet
        self._declared = DeclaredFleet(ground.fleet_file, ground.fleet)
        self._writers: dict[str, tuple[Cluster, float]] = {}
        self._told: dict[str, tuple[FreezeState, datetime]] = {}
        self.known_until: dict[str, datetime] = {}
        """Until when each cluster knows whether it is frozen, by the system's clock."""
        self.rows: list[FreezeRow] = []

    def keep(self, sites: Iterable[str] | None = None) -> None:
        """Look at the calendars, and tell the clusters what is news to them.

        Raises:
            FleetError: a cluster cannot be told; the others are.
        """
        failures: list[FleetError] = []
        self.rows = []
        fleet = self._fleet = self._declared.now()
        for gone in self.known_until.keys() - fleet.sites:
            del self.known_until[gone]
        overrides = self._overrides(fleet)
        for site in fleet.sites if sites is None else sites:
            if fleet.awaits_cluster(site):
                continue
            try:
                self._keep_site(site, overrides)
            except FleetError as error:
                self._writers.pop(site, None)
                failures.append(error)
        if failures:
            raise failures[0]

    def _overrides(self, fleet: Fleet) -> list[Override]:
        now = self._ground.clock()
        try:
            evidence = self._ground.overrides.current(fleet.identities, now)
        except Retryable:
            # The calendars are known even so: without its overrides a freeze is whole.
            return []
        # Whose change it meets, a cluster does not know: a flow's own override it is not told.
        return [found for found in in_force(evidence, fleet, now) if not found.flow]

    def _keep_site(self, site: str, overrides: Sequence[Override]) -> None:
        now = self._ground.clock()
        state = self._state(site, overrides, now)
        told, at = self._told.get(site, (None, now))
        is_news = told is None or told.answers != state.answers
        is_short = state.known_until - now < KNOWN_FOR
        if not is_news and not is_short and timedelta() <= now - at < _RENEW_EVERY:
            return
        if writer := self._writer(site):
            self.known_until[site] = write_state(writer, state, now, system_clock())
            self._told[site] = (state, now)
            row = FreezeRow(site=site, frozen=state.frozen, message=state.message)
            self.rows.append(row)

    def _state(self, site: str, overrides: Sequence[Override], now: datetime) -> FreezeState:
        """What a site's cluster has to be told."""
        fleet = self._fleet
        calendars = read_calendars(fleet, self._ground.fleet_file, site, now)
        here = [override for override in overrides if site in override.sites]
        decided = {}
        for change, pool in product(SEEN, ("", *pools_named(calendars, here))):
            target = Target(site, change, (pool or NO_POOL,))
            judge = _judge(fleet, calendars, target)
            until = now + KNOWN_FOR
            soon = lifted(judge, here, target, now, KNOWN_FOR)
            decided[key_of(change, pool)] = (
                lifted(judge, here, target, now),
                open_until(soon, here, now, until),
            )
        return state_of(site, decided, now)

    def _writer(self, site: str) -> Cluster | None:
        """The cluster, entered as the state's writer; None before its platform was made whole."""
        writer, since = self._writers.get(site, (None, 0.0))
        if writer and time.monotonic() - since < _TOKEN_FOR_S:
            return writer
        cluster = cluster_of(self._fleet, self._ground.state, site)
        bindings = collection_path(API, "ValidatingAdmissionPolicyBinding", None)
        try:
            if cluster.get(f"{bindings}/{UNKNOWN}") is None:
                return None
            writer = cluster.as_service_account(names.SYSTEM_NAMESPACE, names.FREEZE_SYNC)
        finally:
            cluster.close()
        self._writers[site] = (writer, time.monotonic())
        return writer


def _judge(fleet: Fleet, calendars: Sequence[Calendar], target: Target) -> Judge:
    """What a site's calendars alone say of a change."""
    subject = subject_of(fleet, target.site, target.change, target.pools)
    required = fleet.governance.calendar_required

    def judge(at: datetime, takes: timedelta) -> Decision:
        return decide(calendars, at, required=required, needs=takes, subject=subject)

    return judge


def write_state(
    cluster: Cluster, state: FreezeState, now: datetime, system_now: datetime
) -> datetime:
    """Write a state into a cluster: what it says, then until when that is known, which is returned.

    Args:
        cluster: entered as `FREEZE_SYNC`.
        state: by the environment's clock.
        now: the time by that clock.
        system_now: the time by the system's, which the cluster has as well.
    """
    wanted = config_map(state, system_now)
    # Not as the stacks' field manager: its labels would go.
    cluster.apply(object_path(wanted), wanted, manager=names.FREEZE_SYNC)
    known_until = (system_now + (state.known_until - now)).astimezone(UTC)
    annotation = {names.FREEZE_KNOWN_UNTIL: known_until.isoformat().replace("+00:00", "Z")}
    for namespace in names.GOVERNED_NAMESPACES:
        cluster.merge_existing(
            f"/api/v1/namespaces/{namespace}", {"metadata": {"annotations": annotation}}
        )
    return known_until
