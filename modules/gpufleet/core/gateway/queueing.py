"""How long a request would wait at a replica, and at the best replica of a pool."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gpufleet.spec.gateway import PoolRoute, Replica

POLL_IS_FRESH_S: Final = 5.0
"""Older numbers of an engine say nothing of its queue now; the gateway's own counts do."""
_BUSY: Final = 0.8
"""Share of its places from which on a replica's rate is that of a busy one."""


@dataclass(frozen=True)
class Load:
    """One replica, as the gateway sees it now."""

    replica: Replica
    in_flight: int
    """Requests that this gateway's workers have there."""
    wait_s: float
    """Predicted time in queue of one more request, s."""
    full: bool
    """Whether its queue has no room for one more."""


def load_of(replica: Replica, pool: PoolRoute, in_flight: int, now_s: float) -> Load:
    """A replica's predicted time in queue and whether its queue is full.

    A request that finds `q` others in a queue that is served at `m` requests/s waits about
    `(q + 1) / m` (the mean of a first-come-first-served queue with many servers; Kleinrock,
    Queueing Systems I, 3.5). Where the replica was seen busy, `m` is the rate at which it finished
    requests; where it was not, Little's law gives it: places over the planned time in service.

    What is there is the larger of the gateway's own count, which is exact and of this moment, and
    what the engine last said, which has the requests of others too. An engine that lets requests
    wait though places are free has no room in its KV cache: its places are what it runs.

    Args:
        replica: as it was polled.
        pool: what is planned of it.
        in_flight: requests that the gateway's workers have there now.
        now_s: seconds since 1970.
    """
    fresh = replica.answering and 0 <= now_s - replica.seen_at <= POLL_IS_FRESH_S
    places = float(pool.concurrency_limit)
    present = float(in_flight)
    rate_rps = places / max(pool.time_in_service_s, 1e-3)
    if fresh:
        present = max(present, replica.running + replica.waiting)
        if replica.waiting >= 1 and replica.running >= 1:
            places = min(places, replica.running)
        if replica.running >= _BUSY * places and replica.finished_rps > 0:
            rate_rps = replica.finished_rps
    queued = present - min(places, pool.promised_at)
    wait_s = 0.0 if queued < 0 else (queued + 1) / rate_rps
    if fresh and replica.waiting >= 1:
        wait_s = max(wait_s, replica.queue_time_s)
    full = pool.queue_limit is not None and present - places >= pool.queue_limit
    return Load(replica=replica, in_flight=in_flight, wait_s=wait_s, full=full)


def loads_of(
    replicas: Iterable[Replica], pool: PoolRoute, in_flight: Mapping[str, int], now_s: float
) -> list[Load]:
    """`load_of` for every replica; `in_flight` is by uid."""
    return [load_of(each, pool, in_flight.get(each.uid, 0), now_s) for each in replicas]


def pool_wait_s(loads: Iterable[Load]) -> float:
    """Predicted time in queue of one more request, s: at the best replica that has room.

    Infinite where there is none.
    """
    return min((load.wait_s for load in loads if not load.full), default=math.inf)
