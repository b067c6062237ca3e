"""Declared peaks as dates: when replicas start, when they are to be warm, which of them count."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from croniter import croniter

from gpufleet.core import vocabulary as names
from gpufleet.core.capacity.prewarm import CannotSay, CronWindow, cron_windows
from gpufleet.core.observed import is_ready
from gpufleet.core.serving import LOCAL_RESTORE_BYTES_PER_S, PoolAtSite, pools_at
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.prewarming import PrewarmWindow
from gpufleet.spec.recurrences import starts
from gpufleet.spec.serving import Prewarm

VERIFY_LOADS: Final = 1.5
"""Load times before a window opens at which its replicas are first asked: an engine that has to be
started again, its weights being there, is then still in time."""
_STARTED_WITHIN_S: Final = 60
"""KEDA looks every 10 s, and Kubernetes' autoscaler every 15 s."""
_DOUBLES_IN_S: Final = 30
"""As the scale-out policy of `core/autoscaling`."""
_DAY: Final = timedelta(days=1)
_GROUP_INDEX: Final = "leaderworkerset.sigs.k8s.io/group-index"
Pod = Mapping[str, Any]


@dataclass(frozen=True)
class Window:
    """One occurrence of a peak at one placement; times in UTC."""

    pool: PoolAtSite
    peak: Prewarm
    opens_at: datetime
    closes_at: datetime
    starts_at: datetime | None
    """When KEDA starts the replicas; none where it does not: cron has no words for the peak,
    or never comes to its end."""
    end_is_skipped: bool = False
    """Whether the clocks leave out the local time at which it ends."""

    @property
    def replicas(self) -> int:
        """Replicas that have to be warm."""
        return self.peak.replicas[self.pool.group_name]

    @property
    def restored_at(self) -> datetime | None:
        """When the weights are expected to be there."""
        restore_s = self.pool.model.size_bytes / LOCAL_RESTORE_BYTES_PER_S
        return self.starts_at and self.starts_at + timedelta(seconds=restore_s)

    @property
    def warm_at(self) -> datetime | None:
        """When the replicas are expected to be warm."""
        return self.restored_at and self.restored_at + timedelta(
            seconds=self.pool.model.load_time_s
        )

    @property
    def verify_at(self) -> datetime:
        """From when on the replicas are asked: before the opening, in time to start one again."""
        return self.opens_at - timedelta(
            seconds=min(self.peak.lead_s, VERIFY_LOADS * self.pool.model.load_time_s)
        )

    @property
    def counted_at(self) -> datetime | None:
        """From when on a pod of each replica has to be there, be it that it loads."""
        doublings = math.ceil(math.log2(max(1.0, self.replicas / max(1, self.pool.replicas))))
        return self.starts_at and self.starts_at + timedelta(
            seconds=_STARTED_WITHIN_S + _DOUBLES_IN_S * doublings
        )

    @property
    def key(self) -> str:
        """What tells it from every other window."""
        return f"{self.pool.site}/{self.pool.name}/{self.peak.name}/{written(self.opens_at)}"

    def is_due(self, moment: datetime) -> bool:
        """Whether its replicas have to be warm, or are about to."""
        return self.verify_at <= moment < self.closes_at

    def is_starting(self, moment: datetime) -> bool:
        """Whether its replicas have to be there, and need not be warm yet."""
        return self.counted_at is not None and self.counted_at <= moment < self.verify_at

    def row(self) -> PrewarmWindow:
        """As a report has it."""
        lead_s = (self.opens_at - self.starts_at).total_seconds() if self.starts_at else 0.0
        return PrewarmWindow(
            pool=self.pool.name,
            site=self.pool.site,
            node_group=self.pool.group_name,
            peak=self.peak.name,
            time_zone=self.peak.time_zone,
            replicas=self.replicas,
            starts_at=_optional(self.starts_at),
            restored_at=_optional(self.restored_at),
            warm_at=_optional(self.warm_at),
            verify_at=written(self.verify_at),
            opens_at=written(self.opens_at),
            closes_at=written(self.closes_at),
            lead_s=self.peak.lead_s,
            short_s=max(0.0, self.peak.lead_s - lead_s) if self.starts_at else self.peak.lead_s,
        )


def windows(fleet: Fleet, begin: datetime, end: datetime) -> list[Window]:
    """Every window of a fleet that is open or opens in a time, in the order of their opening.

    Args:
        fleet: with its plan laid over it.
        begin: with a time zone.
        end: not included.
    """
    found = [
        window
        for site in fleet.sites
        for pool in pools_at(fleet, site)
        for peak in pool.prewarm
        for window in occurrences(pool, peak, begin, end)
    ]
    return sorted(found, key=lambda each: (each.opens_at, each.key))


def occurrences(pool: PoolAtSite, peak: Prewarm, begin: datetime, end: datetime) -> list[Window]:
    """The windows of one peak that are open or open in a time.

    A local time that a change of the clocks leaves out is an hour later on the clock; of one that
    comes twice, the first counts.
    """
    zone = ZoneInfo(peak.time_zone)
    lasts = timedelta(seconds=peak.duration_s)
    local = [begin.astimezone(zone).replace(tzinfo=None), end.astimezone(zone).replace(tzinfo=None)]
    try:
        crons = cron_windows(peak)
    except CannotSay:
        crons = ()
    found = []
    for opens in starts(peak.recurrence, local[0] - lasts - _DAY, local[1] + _DAY):
        opens_at = opens.replace(tzinfo=zone).astimezone(UTC)
        ends = (opens + lasts).replace(tzinfo=zone).astimezone(UTC)
        # KEDA ends it by the clock; where that lost an hour, the peak has not ended yet.
        closes_at = max(ends, opens_at + lasts)
        if begin < closes_at and opens_at < end:
            skipped = ends.astimezone(zone).replace(tzinfo=None) != opens + lasts
            # KEDA then sees the start of the next occurrence before any end, and waits for it.
            starts_at = None if skipped else _started(crons, opens, opens_at, zone)
            found.append(Window(pool, peak, opens_at, closes_at, starts_at, skipped))
    return found


def _started(
    crons: Sequence[CronWindow], opens: datetime, opens_at: datetime, zone: ZoneInfo
) -> datetime | None:
    """When KEDA's cron starts the replicas of a window that opens at a local time.

    A start at a local time that the clocks leave out never comes: KEDA then has the window open
    from its last end on, which is early enough.
    """
    if not crons:
        return None
    just_after = opens + timedelta(seconds=1)
    local: datetime = max(croniter(each.start, just_after).get_prev(datetime) for each in crons)
    started = local.replace(tzinfo=zone).astimezone(UTC)
    if started.astimezone(zone).replace(tzinfo=None) != local:
        return opens_at - (opens - local)
    return min(started, opens_at)


def ready_replicas(pool: PoolAtSite, pods: Iterable[Pod]) -> list[Pod]:
    """The pods that answer for each replica that is ready as a whole, of the declared revision."""
    ready = [
        pod
        for pod in pods
        if is_ready(pod)
        and (pod["metadata"].get("annotations") or {}).get(names.REVISION_DIGEST)
        == pool.model.digest
    ]
    if not pool.spans_nodes:
        return ready
    groups: defaultdict[str, list[Pod]] = defaultdict(list)
    for pod in ready:
        groups[pod["metadata"]["labels"].get(_GROUP_INDEX, "")].append(pod)
    return [
        pod
        for members in groups.values()
        if len(members) >= pool.nodes_per_replica
        for pod in members
        if pod["metadata"]["labels"].get(names.WORKER_INDEX) == "0"
    ]


def started_replicas(pool: PoolAtSite, pods: Iterable[Pod]) -> int:
    """How many replicas have a pod that was not deleted and has not ended, ready or not."""
    there = [
        pod
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}
    ]
    if not pool.spans_nodes:
        return len(there)
    return sum(pod["metadata"]["labels"].get(names.WORKER_INDEX) == "0" for pod in there)


def prewarmed_images(fleet: Fleet) -> list[str]:
    """Engine images that are pulled to nodes ahead of any start, without repeats."""
    return sorted(
        {
            pool.model.engine.image
            for site in fleet.sites
            for pool in pools_at(fleet, site)
            if pool.prewarm
        }
    )


def warnings(found: Sequence[Window], fleet: Fleet) -> list[str]:
    """What a person has to know of windows: those that nothing starts, and those cut short."""
    told = [
        f"pool {window.pool.name} at {window.pool.site} is not started for `{window.peak.name}`: "
        f"cron has no words for {window.peak.recurrence}"
        for window in found
        if window.starts_at is None and not window.end_is_skipped
    ]
    told += [
        f"pool {window.pool.name} at {window.pool.site} is not started for `{window.peak.name}` of "
        f"{written(window.opens_at)}: the clocks leave out the time at which it ends, and KEDA "
        "opens no window whose end does not come; let it end an hour later"
        for window in found
        if window.end_is_skipped
    ]
    told += [
        f"pool {row.pool} at {row.site} starts {row.short_s:.0f} s late for `{row.peak}` of "
        f"{row.opens_at}: the clocks change in between"
        for row in (window.row() for window in found if window.starts_at is not None)
        if row.short_s >= 1
    ]
    told += [
        f"pool {pool.name} at {site} has replicas to start, but no autoscaler: its placement has "
        "no `max_replicas` above `replicas`"
        for site in fleet.sites
        for pool in pools_at(fleet, site)
        if pool.prewarm and not pool.autoscaled
    ]
    return list(dict.fromkeys(told))


def written(moment: datetime) -> str:
    """As reports write a time: ISO 8601 in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _optional(moment: datetime | None) -> str | None:
    return None if moment is None else written(moment)
