"""Weights on nodes before a declared peak: of which revision, on which node group, from when on."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.prewarming import Window, windows, written
from gpufleet.core.serving import LOCAL_RESTORE_BYTES_PER_S
from gpufleet.core.snapshots.fan_out import Links, predicted_s
from gpufleet.core.snapshots.nodes import has_ended, outcome_of
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import EmbeddedCluster
from gpufleet.spec.prewarming import WeightsPull

RATE_UNKNOWN: Final = LOCAL_RESTORE_BYTES_PER_S
"""Bytes/s into one node where no restore of the environment was ever measured."""
MARGIN: Final = 1.5
"""Others read from the store too, and a node on which it fails tries again."""
LEAST: Final = timedelta(minutes=10)
"""The worker may be started again in between, and a Job's pods wait for the scheduler."""
MOST: Final = timedelta(days=1)
"""A peak comes once a day at most often, and a Job that has ended is kept for a day."""
SETTLES: Final = timedelta(minutes=10)
"""After a window is over: by then Kubernetes has ended its Job, and that is told."""
_CLOCKS: Final = timedelta(hours=2)
"""By which a start may be earlier than `lead_s` says: the clocks change, and cron has minutes."""
_MARK: Final = f"{names.GROUP}/prewarm-"
_MARK_DIGITS: Final = 16
Object = dict[str, Any]


@dataclass(frozen=True)
class Pull:
    """The weights that the nodes of one group are to hold before the replicas of a window start."""

    window: Window
    begins_at: datetime
    """From when on they are pulled."""
    wanted_at: datetime
    """When the replicas start; what is not there by then, each restores itself."""
    nodes: int
    """Of the group, as declared."""

    @property
    def site(self) -> str:
        """Whose store they come from."""
        return self.window.pool.site

    @property
    def store(self) -> tuple[str, str]:
        """Site and bucket of the snapshots."""
        return self.site, self.window.pool.weights.source.bucket

    @property
    def node_group(self) -> str:
        """Whose nodes they go to."""
        return self.window.pool.group_name

    @property
    def revision(self) -> str:
        """As the fleet file names it."""
        return self.window.pool.model_name

    @property
    def mark(self) -> str:
        """Annotation by which a Job tells that it is for this window; its value is the snapshot."""
        return f"{_MARK}{hashlib.sha256(self.window.key.encode()).hexdigest()[:_MARK_DIGITS]}"

    @property
    def is_cut(self) -> bool:
        """Whether it would have to begin earlier than it does."""
        return self.wanted_at - self.begins_at >= MOST

    def may_begin(self, moment: datetime) -> bool:
        """Whether a Job may be made: later the replicas fetch themselves, and the store is busy."""
        return self.begins_at <= moment < self.wanted_at

    def is_seen_to(self, moment: datetime) -> bool:
        """Whether a Job that was made is looked after: by a slower rate it had begun earlier."""
        return self.wanted_at - MOST <= moment < self.window.closes_at + SETTLES

    def is_over(self, moment: datetime) -> bool:
        """Whether nobody needs the weights any more."""
        return moment >= self.window.closes_at

    def row(self, snapshot: str | None) -> WeightsPull:
        """As a report has it, with the snapshot as far as it is known."""
        return WeightsPull(
            begins_at=written(self.begins_at),
            revision=self.revision,
            nodes=self.nodes,
            snapshot=snapshot,
        )

    def fact(self, snapshot: str) -> str:
        """The id of what is journalled at the end, once for a window and a snapshot."""
        return f"prewarm.weights:{self.mark.removeprefix(_MARK)}:{snapshot}"


def time_needed(size_bytes: int, nodes: int, rate: float | None) -> timedelta:
    """How long before they are wanted weights are pulled.

    Args:
        size_bytes: of the weights.
        nodes: that get them.
        rate: bytes/s that one node was measured to restore; None where nobody knows.
    """
    _, all_s = predicted_s(size_bytes, nodes, Links(rate or RATE_UNKNOWN))
    return max(LEAST, timedelta(seconds=min(MARGIN * all_s, MOST.total_seconds())))


def pull_of(fleet: Fleet, window: Window, rate: float | None) -> Pull | None:
    """What is pulled for a window; None where no more replicas start for it.

    Args:
        fleet: with its plan.
        window: of it.
        rate: as `time_needed`.
    """
    pool = window.pool
    if window.starts_at is None or not pool.autoscaled or window.replicas <= pool.replicas:
        return None
    nodes = fleet.node_groups[pool.group_name].nodes
    needed = time_needed(pool.model.size_bytes, nodes, rate)
    return Pull(window, window.starts_at - needed, window.starts_at, nodes)


def pulls(fleet: Fleet, moment: datetime, rate: float | None) -> list[Pull]:
    """What may have to be seen to at a time, in the order in which windows open.

    Args:
        fleet: with its plan.
        moment: with a time zone.
        rate: as `time_needed`.
    """
    leads_s = [peak.lead_s for pool in fleet.pools.values() for peak in pool.prewarm]
    if not leads_s:
        return []
    ahead = MOST + timedelta(seconds=max(leads_s)) + _CLOCKS
    found = (
        pull_of(fleet, each, rate) for each in windows(fleet, moment - SETTLES, moment + ahead)
    )
    return [each for each in found if each is not None and each.is_seen_to(moment)]


def jobs_for(pull: Pull, jobs: Iterable[Object]) -> list[Object]:
    """The Jobs that were made or taken for a window, the newest last."""
    return sorted(
        (job for job in jobs if pull.mark in (job["metadata"].get("annotations") or {})),
        key=lambda job: str(job["metadata"].get("creationTimestamp", "")),
    )


def is_to_begin(
    pull: Pull, snapshot: str, made: Sequence[Object], told: Collection[str], moment: datetime
) -> bool:
    """Whether a Job has to be made for a window.

    Args:
        pull: of the window.
        snapshot: that its replicas will want.
        made: its Jobs so far. One that runs writes to the same folder of a node, so that another
            snapshot waits for its end.
        told: ids of facts that are in the journal.
        moment: now.
    """
    return (
        pull.may_begin(moment)
        and all(has_ended(job) for job in made)
        and snapshot not in {job["metadata"]["annotations"][pull.mark] for job in made}
        and pull.fact(snapshot) not in told
    )


def nodes_missing(pull: Pull, job: Object, hosts: Sequence[str], moment: datetime) -> list[str]:
    """Nodes that do not have the weights, and will not have them in time.

    Args:
        pull: of the window.
        job: as the API server has it.
        hosts: of each of its indexes.
        moment: now.
    """
    done, failed, ended = outcome_of(job, hosts)
    if ended or moment >= pull.wanted_at:
        return [host for host in hosts if host not in done]
    return failed


def weight_warnings(
    fleet: Fleet, found: Iterable[Pull], snapshots: Mapping[tuple[str, str], str]
) -> list[str]:
    """What a person has to know of weights that are pulled ahead.

    Args:
        fleet: with its plan.
        found: what is pulled for the windows that are told of.
        snapshots: of which it is known whether they are there: the newest by site and revision,
            empty where there is none.
    """
    told = []
    for pull in found:
        is_real = not isinstance(fleet.sites[pull.site].cluster, EmbeddedCluster)
        snapshot = snapshots.get((pull.site, pull.revision))
        if snapshot == "" and is_real:
            told.append(
                f"no snapshot of {pull.revision} with its digest is at {pull.site}: nothing is "
                f"pulled to the nodes of {pull.node_group} ahead of a peak; ./fleet snapshot.take "
                "takes one"
            )
        elif pull.is_cut and (snapshot or is_real):
            told.append(
                f"{pull.revision} may not be on all {pull.nodes} nodes of {pull.node_group} in "
                f"time: it is pulled {MOST.total_seconds() / 3600:.0f} h ahead at most, and by the "
                "rate of earlier restores that is too short"
            )
    return list(dict.fromkeys(told))
