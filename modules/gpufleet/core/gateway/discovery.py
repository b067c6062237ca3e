"""Who serves now: which pods are replicas, and how busy each is by its own metrics. Pure."""

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from gpufleet.core import engine_metrics as vllm
from gpufleet.core import vocabulary as names
from gpufleet.core.serving import ENGINE_PORT
from gpufleet.spec.gateway import Replica

RATES_OVER_S: Final = 10.0
"""Rates are over the last readings of so much time: one second of a busy replica has few ends."""
ANSWERED_LATELY_S: Final = 5.0
"""A replica whose metrics could not be read for so long does not count as answering."""
_QUEUED_S: Final = f"{vllm.QUEUE_TIME}_sum"
_BEGUN: Final = f"{vllm.QUEUE_TIME}_count"
_WANTED: Final = frozenset(
    {vllm.RUNNING, vllm.WAITING, vllm.KV_USAGE, vllm.FINISHED, _QUEUED_S, _BEGUN}
    | {vllm.PROMPT_TOKENS, vllm.GENERATION_TOKENS}
)
_SAMPLE: Final = re.compile(
    # A label's value may hold any character but a bare quote; what follows the labels may not.
    r'^({})(?:\{{(?:[^"}}]|"(?:[^"\\]|\\.)*")*\}})? ([^ \n]+)'.format(
        "|".join(
            re.escape(name)
            for name in (*_WANTED, *(old for old, new in vllm.RENAMED.items() if new in _WANTED))
        )
    ),
    re.MULTILINE,
)


@dataclass(frozen=True)
class Found:
    """A pod that serves requests for a pool."""

    pool: str
    name: str
    uid: str
    address: str
    ready: bool
    """Whether Kubernetes says so and it is not going away."""

    @property
    def url(self) -> str:
        """Base address of its engine."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{ENGINE_PORT}"


def found_in(pod: dict[str, Any]) -> Found | None:
    """The replica that a pod is; None for one that does not answer requests.

    Of a replica over several nodes the leader alone has the engine's port. One without an address,
    or whose containers have ended, serves nothing.
    """
    about, status = pod["metadata"], pod.get("status", {})
    pool = about.get("labels", {}).get(names.POOL)
    address = status.get("podIP")
    ports = {
        port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports") or []
    }
    if not pool or not address or status.get("phase") != "Running" or ENGINE_PORT not in ports:
        return None
    ready = any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in status.get("conditions") or []
    )
    going = bool(about.get("deletionTimestamp"))
    return Found(pool, about["name"], about["uid"], address, ready=ready and not going)


def told_before(replica: Replica, pool: str) -> Found:
    """The pod behind a replica that the workers were told of."""
    address = urlsplit(replica.url).hostname or ""
    return Found(pool, replica.name, replica.uid, address, ready=replica.ready)


@dataclass(frozen=True)
class Reading:
    """What an engine's metrics said at one moment."""

    at_s: float
    """On a clock that never jumps, s."""
    running: float
    waiting: float
    kv_usage: float
    finished: float
    """Requests that it has finished since its start."""
    begun: float
    """Requests that have left its queue since its start."""
    queued_s: float
    """Their time in it, together."""
    tokens: float
    """Tokens that it has read and given since its start."""


def reading_of(text: str, at_s: float) -> Reading | None:
    """The few numbers that the gateway needs of an engine's metrics, by whichever names it has.

    Series of one name are added up, as engines label them by model and by reason; of the share of
    the KV cache the largest counts. None where the text is not an engine's.
    """
    values: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        known = vllm.canonical(name)
        try:
            number = float(value)
        except ValueError:
            return None
        before = values.get(known, 0.0)
        values[known] = max(before, number) if known == vllm.KV_USAGE else before + number
    if vllm.RUNNING not in values:
        return None
    return Reading(
        at_s=at_s,
        running=values[vllm.RUNNING],
        waiting=values.get(vllm.WAITING, 0.0),
        kv_usage=values.get(vllm.KV_USAGE, 0.0),
        finished=values.get(vllm.FINISHED, 0.0),
        begun=values.get(_BEGUN, 0.0),
        queued_s=values.get(_QUEUED_S, 0.0),
        tokens=values.get(vllm.PROMPT_TOKENS, 0.0) + values.get(vllm.GENERATION_TOKENS, 0.0),
    )


@dataclass
class Watched:
    """The latest readings of one replica."""

    readings: deque[Reading] = field(default_factory=deque)
    seen_at: float = 0.0
    """Wall clock of the last one, seconds since 1970."""
    moved_at_s: float = 0.0
    """When it was last seen to have moved or to be idle, by the clock of the readings."""

    def add(self, reading: Reading, wall_s: float) -> None:
        """Keep a reading, and let go of those that are older than `RATES_OVER_S`.

        Counters that fell were begun anew: the engine has restarted, and earlier ones tell nothing.
        """
        if self.readings and _fell(self.readings[-1], reading):
            self.readings.clear()
        if not self.readings or reading.running == 0 or _moved(self.readings[-1], reading):
            self.moved_at_s = reading.at_s
        self.readings.append(reading)
        self.seen_at = wall_s
        while len(self.readings) > 2 and reading.at_s - self.readings[1].at_s >= RATES_OVER_S:  # noqa: PLR2004 - a rate needs two
            self.readings.popleft()

    def finished_rps(self) -> float:
        """Requests that it finishes in a second; 0 before there are two readings."""
        if len(self.readings) < 2:  # noqa: PLR2004 - a rate needs two
            return 0.0
        first, last = self.readings[0], self.readings[-1]
        passed_s = last.at_s - first.at_s
        return (last.finished - first.finished) / passed_s if passed_s > 0 else 0.0

    def queue_time_s(self) -> float:
        """Mean time in queue of requests that left it between the readings; 0 where none did."""
        if not self.readings:
            return 0.0
        first, last = self.readings[0], self.readings[-1]
        begun = last.begun - first.begun
        return (last.queued_s - first.queued_s) / begun if begun > 0 else 0.0

    def stalled_s(self) -> float:
        """How long it has had work and given no token, s."""
        return self.readings[-1].at_s - self.moved_at_s if self.readings else 0.0

    def is_answering(self, now_s: float) -> bool:
        """Whether its metrics could be read lately, by the clock of the readings."""
        return bool(self.readings) and now_s - self.readings[-1].at_s <= ANSWERED_LATELY_S


def _fell(before: Reading, after: Reading) -> bool:
    return after.finished < before.finished or after.begun < before.begun


def _moved(before: Reading, after: Reading) -> bool:
    return (after.tokens, after.finished) != (before.tokens, before.finished)


def replica_of(found: Found, site: str, watched: Watched | None, now_s: float) -> Replica:
    """A replica as the gateway's workers are told of it.

    Args:
        found: its pod.
        site: where it stands.
        watched: its readings; None where there never was one.
        now_s: by the clock of the readings.
    """
    known = watched or Watched()
    last = known.readings[-1] if known.readings else None
    return Replica(
        name=found.name,
        uid=found.uid,
        site=site,
        url=found.url,
        ready=found.ready,
        answering=known.is_answering(now_s),
        running=last.running if last else 0,
        waiting=last.waiting if last else 0,
        kv_usage=last.kv_usage if last else 0,
        finished_rps=round(known.finished_rps(), 4),
        queue_time_s=round(known.queue_time_s(), 4),
        stalled_s=round(known.stalled_s(), 2),
        seen_at=known.seen_at,
    )
