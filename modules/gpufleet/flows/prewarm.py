"""Replicas before declared peaks: whether they are warm in time."""

import threading
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, wait
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.core.prewarming import (
    Window,
    ready_replicas,
    started_replicas,
    windows,
)
from gpufleet.core.serving import ENGINE_PORT
from gpufleet.edges.kube import Cluster
from gpufleet.edges.replica_probe import Replica, ask_each
from gpufleet.edges.workspace import EnvironmentDir
from gpufleet.flows.declared import DeclaredFleet
from gpufleet.flows.environment import cluster_of
from gpufleet.flows.ground import Ground
from gpufleet.flows.prewarm_schedule import demand_known, selected
from gpufleet.flows.prewarm_weights import filled
from gpufleet.spec.errors import BadInput, FleetError, TargetMissed
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import EmbeddedCluster
from gpufleet.spec.prewarming import PrewarmVerification, WindowProof
from gpufleet.spec.records import Fact

TOKEN_WITHIN_S: Final = 10.0
"""A warm replica gives its first token within this; a queue before it is a replica too few."""
SITE_WITHIN_S: Final = 30.0
"""A site whose replicas have not all answered or failed within this proves nothing."""
LOOK_AHEAD: Final = timedelta(days=400)
"""A peak that comes once a year is seen."""
_VERIFIED: Final = "prewarm.verified"

SetMissing = Callable[[Window, int | None], None]
"""Tells how many replicas of a window are missing; none once it is over."""


def verify(  # noqa: PLR0913 - of what, when, where
    fleet: Fleet,
    state: EnvironmentDir,
    now: datetime,
    *,
    at: str = "",
    pool: str = "",
    site: str = "",
) -> PrewarmVerification:
    """Ask the replicas of every window that is due for one token each.

    Args:
        fleet: with its plan.
        state: of the environment.
        now: with a time zone.
        at: another time, ISO 8601: its windows are looked at, by the replicas of now.
        pool: this one alone.
        site: this one alone.

    Raises:
        BadInput: time, pool or site.
    """
    demand_known(fleet, pool, site)
    moment = _moment(at) if at else now
    found = selected(windows(fleet, moment, moment + LOOK_AHEAD), pool, site)
    coming = [window for window in found if window.verify_at > moment]
    proven = proofs(fleet, state, [each for each in found if each.is_due(moment)])
    weights = filled(fleet, state, [window for window, proof in proven if not proof.problem])
    return PrewarmVerification(
        fleet=fleet.fleet,
        environment=fleet.environment,
        at=moment.astimezone(UTC).isoformat(timespec="seconds"),
        proofs=[
            proof.model_copy(update={"weights": weights.get(window.key)})
            for window, proof in proven
        ],
        next=coming[0].row() if coming else None,
    )


def demand_warm(verification: PrewarmVerification) -> None:
    """Say so where a replica is missing.

    Raises:
        TargetMissed: names the windows.
    """
    if verification.missing:
        cold = ", ".join(
            f"{proof.window.pool} at {proof.window.site} ({proof.warm} of {proof.window.replicas}"
            f" warm for `{proof.window.peak}`, {proof.window.opens_at})"
            for proof in verification.proofs
            if proof.missing
        )
        raise TargetMissed(
            f"replicas are not warm: {cold}", mend="runbooks/alerts-pools.md; ./fleet status"
        )


def proofs(
    fleet: Fleet, state: EnvironmentDir, due: Sequence[Window], starting: Sequence[Window] = ()
) -> list[tuple[Window, WindowProof]]:
    """Each window with its proof; a site that does not answer in time proves nothing.

    Sites are asked side by side: one that hangs makes the proof of no other too late. Of those that
    are `starting` pods are counted only.
    """
    by_site: dict[str, list[Window]] = {}
    for each in (*due, *starting):
        by_site.setdefault(each.pool.site, []).append(each)
    looks: dict[str, Future[list[WindowProof]]] = {}
    for site, waiting in by_site.items():
        looks[site] = Future()
        # Not of a pool: whoever ends would wait for its threads, the hanging ones too.
        threading.Thread(
            target=_look,
            args=(fleet, state, site, waiting, starting, looks[site]),
            daemon=True,
            name=site,
        ).start()
    wait(looks.values(), timeout=SITE_WITHIN_S)
    found: list[tuple[Window, WindowProof]] = []
    for site, waiting in by_site.items():
        try:
            found += zip(waiting, looks[site].result(timeout=0), strict=True)
        except TimeoutError:
            late = f"site {site} has not answered within {SITE_WITHIN_S:.0f} s"
            found += [(each, _unproven(each, late)) for each in waiting]
        except FleetError as error:
            found += [(each, _unproven(each, error.what)) for each in waiting]
    return found


def _look(  # noqa: PLR0913, PLR0917 - of what, where, and the answer
    fleet: Fleet,
    state: EnvironmentDir,
    site: str,
    waiting: Sequence[Window],
    starting: Sequence[Window],
    found: Future[list[WindowProof]],
) -> None:
    """The proofs of one site's windows, in their order."""
    try:
        with _cluster(fleet, state, site) as cluster:
            proven = [
                _counted(cluster, each) if each in starting else _proof(fleet, cluster, each)
                for each in waiting
            ]
    except Exception as error:  # noqa: BLE001 - raised where it is waited for
        found.set_exception(error)
    else:
        found.set_result(proven)


def _unproven(window: Window, problem: str) -> WindowProof:
    return WindowProof(
        window=window.row(),
        ready=0,
        warm=0,
        missing=window.replicas,
        replicas=[],
        problem=problem,
    )


def _counted(cluster: Cluster, window: Window) -> WindowProof:
    """Whether the replicas that have to load by now are there at all."""
    pods = cluster.items("/api/v1/pods", labels=f"{names.POOL}={window.pool.name}")
    there = started_replicas(window.pool, pods)
    missing = max(0, window.replicas - there)
    return WindowProof(
        window=window.row(),
        ready=len(ready_replicas(window.pool, pods)),
        warm=0,
        missing=missing,
        replicas=[],
        problem=f"{there} of {window.replicas} replicas were started" if missing else "",
    )


def _proof(fleet: Fleet, cluster: Cluster, window: Window) -> WindowProof:
    pool = window.pool
    pods = cluster.items("/api/v1/pods", labels=f"{names.POOL}={pool.name}")
    ready = ready_replicas(pool, pods)
    is_near = isinstance(fleet.sites[pool.site].cluster, EmbeddedCluster)
    asked = ask_each(
        [
            Replica(
                pod=pod["metadata"]["name"],
                namespace=pod["metadata"]["namespace"],
                address=pod.get("status", {}).get("podIP", ""),
                port=ENGINE_PORT,
                model=pool.model_name,
            )
            for pod in ready
        ],
        TOKEN_WITHIN_S,
        None if is_near else cluster,
    )
    warm = sum(each.warm for each in asked)
    return WindowProof(
        window=window.row(),
        ready=len(ready),
        warm=warm,
        missing=max(0, window.replicas - warm),
        replicas=asked,
        problem="",
    )


@contextmanager
def _cluster(fleet: Fleet, state: EnvironmentDir, site: str) -> Iterator[Cluster]:
    cluster = cluster_of(fleet, state, site)
    try:
        yield cluster
    finally:
        cluster.close()


class PrewarmKeeper:
    """Verifies every window by itself from `verify_at` on, until its replicas were warm once.

    Before that, from `counted_at` on, it looks whether they were started at all.

    What is missing is told to Prometheus at each look and journalled once a window: while it is not
    open there is time to act.

    Args:
        ground: the environment.
        actor: who looks.
        set_missing: told after each look.
    """

    def __init__(self, ground: Ground, actor: str, set_missing: SetMissing) -> None:
        self._ground = ground
        self._actor = actor
        self._set_missing = set_missing
        self._declared = DeclaredFleet(ground.fleet_file, ground.fleet)
        self._proven: set[str] = set()
        self._looked_up: set[str] = set()
        """Windows of which the journal was asked whether an earlier worker has proven them."""
        self._told: dict[str, Window] = {}

    def keep(self) -> None:
        """Look at the windows that are due now.

        Raises:
            FleetError: what was seen cannot be journalled.
        """
        fleet, now = self._declared.now(), self._ground.clock()
        due = {each.key: each for each in windows(fleet, now, now + _horizon(fleet))}
        starting = [each for each in due.values() if each.is_starting(now)]
        due = {key: each for key, each in due.items() if each.is_due(now)}
        for key in self._told.keys() - due.keys() - {each.key for each in starting}:
            self._set_missing(self._told.pop(key), None)
        self._recall(due.keys())
        open_ = [each for key, each in due.items() if key not in self._proven]
        for window, proof in proofs(fleet, self._ground.state, open_, starting):
            self._told[window.key] = window
            self._set_missing(window, proof.missing)
            if proof.missing or window.key in due:
                self._note(window, proof)
            if window.key in due and not proof.missing:
                self._proven.add(window.key)

    def _recall(self, due: AbstractSet[str]) -> None:
        """Take what was proven from the journal, once a window: a worker may be a new one."""
        self._proven &= due
        self._looked_up &= due
        if new := due - self._looked_up:
            facts = {_fact(_VERIFIED, key): key for key in new}
            self._proven |= {facts[each] for each in self._ground.journal.known(facts)}
            self._looked_up |= new

    def _note(self, window: Window, proof: WindowProof) -> None:
        event = "prewarm.missing" if proof.missing else _VERIFIED
        self._ground.journal.append(
            Fact(
                id=_fact(event, window.key),
                event=event,
                actor=self._actor,
                target=f"{window.pool.site}/{window.pool.name}",
                body={
                    "peak": window.peak.name,
                    "opens_at": proof.window.opens_at,
                    "wanted": window.replicas,
                    "ready": proof.ready,
                    "warm": proof.warm,
                    "problem": proof.problem,
                },
            )
        )


def _fact(event: str, key: str) -> str:
    """The id of what is journalled once a window."""
    return f"{event}:{key}"


def _horizon(fleet: Fleet) -> timedelta:
    """How far ahead of its opening a window may be due."""
    leads_s = [peak.lead_s for pool in fleet.pools.values() for peak in pool.prewarm]
    return timedelta(seconds=max(leads_s, default=0.0) + 1)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(
            f"`{text:.40}` is not a time such as 2026-12-28T23:50:00+01:00", where="--at"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
