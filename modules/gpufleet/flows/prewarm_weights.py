"""Weights on nodes before declared peaks: the worker pulls them by the Job of node restores.

What was begun stands in the cluster, as a mark on the Job; what has ended stands in the journal. So
a worker that is started again goes on where an earlier one was killed. Two of them need no lease:
they mark the same Job, send each pod to the same node, and journal the same fact.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.core.prewarm_weights import (
    RATE_UNKNOWN,
    Pull,
    is_to_begin,
    jobs_for,
    nodes_missing,
    pull_of,
    pulls,
)
from gpufleet.core.prewarming import Window
from gpufleet.core.snapshots.nodes import has_ended, outcome_of
from gpufleet.edges.kube import Cluster, Object
from gpufleet.edges.workspace import EnvironmentDir
from gpufleet.flows.declared import LiveGround
from gpufleet.flows.environment import cluster_of
from gpufleet.flows.ground import Ground
from gpufleet.flows.node_restore import JOBS, NodeOrder, begin, hosts_of, open_gates, plan
from gpufleet.flows.snapshots.catalogue import newest_good
from gpufleet.flows.snapshots.requests import measured_rate, store_of
from gpufleet.flows.stores import places_of
from gpufleet.spec.errors import FleetError
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.prewarming import NodesFilled
from gpufleet.spec.records import Fact
from gpufleet.spec.snapshots import SnapshotKind, SnapshotSummary

PULLED: Final = "prewarm.weights_pulled"
MISSING: Final = "prewarm.weights_missing"
"""Events of the journal."""
SetMissing = Callable[[Window, int | None], None]
"""Tells on how many nodes weights are missing for a window; none where nobody can say."""


@dataclass(frozen=True)
class Outlook:
    """What an environment knows of weights before they are pulled."""

    rate: float | None = None
    """Bytes/s that one node was measured to restore."""
    snapshots: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The newest by site and revision, empty where there is none; those that could be looked up."""
    faults: tuple[str, ...] = ()
    """Why others could not."""


def snapshot_of(ground: Ground, pull: Pull, read: dict[str, SnapshotSummary] | None = None) -> str:
    """The snapshot with the content that replicas want; empty where their site has none.

    Args:
        ground: the environment.
        pull: for which window.
        read: as `newest_good`.

    Raises:
        BadInput: the store is of a newer format, or its key cannot be had.
        Retryable: the store does not answer.
    """
    if pull.site not in places_of(ground):
        return ""
    weights = pull.window.pool.weights
    bucket, revision = weights.source
    store = store_of(ground, pull.site, bucket=bucket)
    found = newest_good(store, revision, SnapshotKind.ARTIFACT, read, digest=weights.digest)
    return found.id if found else ""


def outlook(ground: Ground, wanted: Iterable[Window]) -> Outlook:
    """What is known of the weights that are pulled for some windows.

    Raises:
        Retryable: the database does not answer.
    """
    found: dict[tuple[str, str], str] = {}
    faults = []
    read: dict[tuple[str, str], dict[str, SnapshotSummary]] = {}
    asked = [pull for each in wanted if (pull := pull_of(ground.fleet, each, None))]
    for pull in {(each.site, each.revision): each for each in asked}.values():
        site, revision = pull.site, pull.revision
        try:
            known = read.setdefault(pull.store, {})
            found[site, revision] = snapshot_of(ground, pull, known)
        except FleetError as error:
            faults.append(f"whether {site} has a snapshot of {revision} is not known: {error.what}")
    return Outlook(measured_rate(ground), found, tuple(faults))


def filled(fleet: Fleet, state: EnvironmentDir, wanted: Iterable[Window]) -> dict[str, NodesFilled]:
    """What Jobs say of the nodes of some windows, by the window's key; nothing where none does."""
    found = {}
    for window in wanted:
        pull = pull_of(fleet, window, None)
        if pull is None:
            continue
        # What cannot be looked at says nothing: replicas bring their own weights.
        with suppress(FleetError):
            cluster = cluster_of(fleet, state, pull.site)
            try:
                made = jobs_for(pull, _jobs(cluster, fleet))
            finally:
                cluster.close()
            if made:
                found[window.key] = _told(pull, made[-1])
    return found


class WeightsKeeper:
    """Pulls weights to the nodes of a pool before more of its replicas start.

    Args:
        ground: the environment, as its files declare it now.
        actor: who does it.
        set_missing: told after each look.
    """

    def __init__(self, ground: LiveGround, actor: str, set_missing: SetMissing) -> None:
        self._ground = ground
        self._actor = actor
        self._set_missing = set_missing
        self._told: dict[str, Window] = {}
        self._journalled: set[str] = set()
        self._read: dict[tuple[str, str], dict[str, SnapshotSummary]] = {}

    def keep(self) -> None:
        """Look once: make what is due, send pods to their nodes, tell what has ended.

        Raises:
            FleetError: something of one site could not be done; the rest was.
        """
        ground = self._ground.now()
        if not any(pool.prewarm for pool in ground.fleet.pools.values()) and not self._told:
            return
        now, rate = ground.clock(), measured_rate(ground)
        due: dict[str, list[Pull]] = {}
        for pull in pulls(ground.fleet, now, rate):
            due.setdefault(pull.site, []).append(pull)
        current = {pull.window.key for waiting in due.values() for pull in waiting}
        for key in self._told.keys() - current:
            self._set_missing(self._told.pop(key), None)
        if not due:
            return

        def look(site: str) -> list[FleetError]:
            return self._look(ground, site, due[site], now, rate)

        with ThreadPoolExecutor(len(due)) as sites:
            failures = [error for errors in sites.map(look, due) for error in errors]
        if failures:
            raise failures[0]

    def _look(
        self, ground: Ground, site: str, due: Sequence[Pull], now: datetime, rate: float | None
    ) -> list[FleetError]:
        """See to what is due at one site; what of it could not be done."""
        failures: list[FleetError] = []
        try:
            cluster = cluster_of(ground.fleet, ground.state, site)
        except FleetError as error:
            return [error]
        try:
            jobs = _jobs(cluster, ground.fleet)
            for pull in due:
                made = jobs_for(pull, jobs)
                # What runs does not wait for a store that does not answer.
                for step in (self._follow, partial(self._begin, rate=rate)):
                    try:
                        step(ground, cluster, pull, made, now)
                    except FleetError as error:
                        failures.append(error)
        except FleetError as error:
            failures.append(error)
        finally:
            cluster.close()
        return failures

    def _follow(
        self, ground: Ground, cluster: Cluster, pull: Pull, made: Sequence[Object], now: datetime
    ) -> None:
        """Send pods to their nodes, and tell what is missing and what has ended."""
        window = pull.window
        if made and not pull.is_over(now):
            self._told[window.key] = window
            missing = nodes_missing(pull, made[-1], hosts_of(made[-1]), now)
            self._set_missing(window, len(missing))
        elif self._told.pop(window.key, None):
            self._set_missing(window, None)
        for job in made:
            if has_ended(job):
                self._note(ground, pull, job)
            else:
                open_gates(cluster, job["metadata"]["name"], hosts_of(job))

    def _begin(  # noqa: PLR0913 - as `_follow`, and by which rate
        self,
        ground: Ground,
        cluster: Cluster,
        pull: Pull,
        made: Sequence[Object],
        now: datetime,
        *,
        rate: float | None,
    ) -> None:
        """Make the Job of a window, or mark one that runs, where neither was done."""
        if not pull.may_begin(now):
            return
        read = self._read.setdefault(pull.store, {})
        snapshot = snapshot_of(ground, pull, read)
        if not snapshot:
            return
        told = ground.journal.known({pull.fact(snapshot)})
        if is_to_begin(pull, snapshot, made, told, now):
            order = NodeOrder(
                snapshot,
                pull.node_group,
                node_bytes_per_s=rate or RATE_UNKNOWN,
                bucket=pull.store[1],
            )
            planned = plan(ground, order)
            ends_within_s = int((pull.window.closes_at - now).total_seconds())
            begin(ground, cluster, planned, {pull.mark: snapshot}, ends_within_s)

    def _note(self, ground: Ground, pull: Pull, job: Object) -> None:
        told = _told(pull, job)
        fact = pull.fact(told.snapshot)
        if fact in self._journalled:
            return
        row = pull.window.row()
        ground.journal.append(
            Fact(
                id=fact,
                event=MISSING if told.missing else PULLED,
                actor=self._actor,
                target=f"{pull.site}/{pull.window.pool.name}",
                body={
                    "peak": row.peak,
                    "opens_at": row.opens_at,
                    "node_group": pull.node_group,
                    "revision": pull.revision,
                    **told.model_dump(exclude={"waiting"}),
                },
            )
        )
        self._journalled.add(fact)


def _jobs(cluster: Cluster, fleet: Fleet) -> list[Object]:
    return cluster.items(JOBS, labels=f"{names.FLEET}={fleet.slug}")


def _told(pull: Pull, job: Object) -> NodesFilled:
    """What a Job says: of one that has ended, a node that is not done has failed."""
    hosts = hosts_of(job)
    done, failed, ended = outcome_of(job, hosts)
    return NodesFilled(
        job=job["metadata"]["name"],
        snapshot=job["metadata"]["annotations"][pull.mark],
        done=done,
        missing=[host for host in hosts if host not in done] if ended else failed,
        waiting=0 if ended else len(hosts) - len(done) - len(failed),
    )
