"""Replicas that are taken out of their pool because of how they answer, and tried again.

As Envoy's outlier detection does it (envoyproxy.io, "Outlier detection"): consecutive failures
eject, for a time that doubles, never more than a share of the pool. Beside failures a hang counts:
requests are under way and not one byte has come from any of them for too long.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

CONSECUTIVE_FAILURES: Final = 3
BASE_EJECTION_S: Final = 5.0
LONGEST_EJECTION_S: Final = 300.0
_MOST_DOUBLINGS: Final = 10
MOST_EJECTED: Final = 0.5
"""Share of a pool that may be out; one replica always may."""
FORGIVEN_AFTER_S: Final = 60.0
"""Good service that undoes one doubling."""
STREAM_WAITED_FOR_S: Final = 20.0
"""So long a stream is waited for to be the probe; then any request is."""


@dataclass(eq=False)
class Attempt:
    """One request at one replica."""

    uid: str
    started_s: float
    silence_limit_s: float
    """Longest time without a byte that is normal for it: short for a stream."""
    stall_limit_s: float
    """Longest time without a token at the engine that is normal while it is under way."""
    probe: bool
    alone: bool = False
    """Whether what others get says nothing of it: a hosted API is many machines behind one name.
    Only its first byte has a limit then."""
    answering: bool = False


@dataclass
class _Record:
    failures: int = 0
    ejections: int = 0
    ejected_until_s: float | None = None
    last_byte_s: float = 0.0
    good_since_s: float | None = None
    under_way: set[Attempt] = field(default_factory=set)

    @property
    def probing(self) -> bool:
        return any(attempt.probe for attempt in self.under_way)


class Outliers:
    """What one worker knows of the replicas that it has sent requests to. Times are monotonic.

    An ejected replica gets one request, a probe, when its time is over. An answer brings it back;
    a failure ejects it for twice as long. A probe is a stream where there is one: its first token
    is missed soon enough to be asked for elsewhere.
    """

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def started(  # noqa: PLR0913 - a limit for each kind of silence
        self,
        uid: str,
        now_s: float,
        silence_limit_s: float,
        stall_limit_s: float = math.inf,
        *,
        probe_limit_s: float = math.inf,
        alone: bool = False,
    ) -> Attempt:
        """A request is sent to a replica; limits are those of `Attempt`, tighter for a probe."""
        record = self._records.setdefault(uid, _Record())
        over = record.ejected_until_s is not None and now_s >= record.ejected_until_s
        probe = over and not record.probing
        limit_s = min(silence_limit_s, probe_limit_s) if probe else silence_limit_s
        attempt = Attempt(uid, now_s, limit_s, stall_limit_s, probe=probe, alone=alone)
        record.under_way.add(attempt)
        return attempt

    def progressed(self, attempt: Attempt, now_s: float) -> None:
        """A byte has come."""
        attempt.answering = True
        self._records[attempt.uid].last_byte_s = now_s

    def succeeded(self, attempt: Attempt, now_s: float) -> None:
        """It has ended well, or badly by the client's own doing."""
        record = self._end(attempt)
        record.last_byte_s = now_s
        record.failures = 0
        if attempt.probe:
            record.ejected_until_s = None
        if record.good_since_s is None:
            record.good_since_s = now_s
        elif now_s - record.good_since_s >= FORGIVEN_AFTER_S:
            record.ejections = max(0, record.ejections - 1)
            record.good_since_s = now_s

    def abandoned(self, attempt: Attempt) -> None:
        """It has ended and says nothing of its replica: the client went away."""
        self._end(attempt)

    def failed(self, attempt: Attempt, now_s: float, pool_uids: Collection[str]) -> bool:
        """It has ended badly; returns whether that has ejected its replica.

        Args:
            attempt: the request.
            now_s: monotonic time.
            pool_uids: all ready replicas of its pool, which the share is counted over.
        """
        record = self._end(attempt)
        record.failures += 1
        record.good_since_s = None
        if attempt.probe:
            self._eject(record, now_s)
            return True
        if record.failures < CONSECUTIVE_FAILURES or not self._may_go(attempt.uid, pool_uids):
            return False
        return self._eject_first(record, now_s)

    def hung(
        self, now_s: float, stalled_s: Mapping[str, float] | None = None
    ) -> dict[str, list[Attempt]]:
        """Requests that have waited too long while their replica was silent to all, by replica.

        Args:
            now_s: monotonic time.
            stalled_s: how long engines have had work and given no token, by replica. It tells of a
                hang before the silence of requests that are no streams does.
        """
        found: dict[str, list[Attempt]] = {}
        for uid, record in self._records.items():
            stall_s = (stalled_s or {}).get(uid, 0.0)
            for attempt in record.under_way:
                if attempt.alone and attempt.answering:
                    continue
                heard_s = 0.0 if attempt.alone else record.last_byte_s
                quiet_since_s = max(attempt.started_s, heard_s)
                stalled = min(stall_s, now_s - attempt.started_s) > attempt.stall_limit_s
                if stalled or now_s - quiet_since_s > attempt.silence_limit_s:
                    found.setdefault(uid, []).append(attempt)
        return found

    def eject_hung(self, uid: str, now_s: float, pool_uids: Collection[str]) -> bool:
        """Take a hung replica out at once; returns whether it is out.

        Its requests are still under way: each is to be ended, with `failed`.
        """
        record = self._records[uid]
        record.good_since_s = None
        if all(attempt.alone for attempt in record.under_way):
            # One that is slow is none that is out: its failures are counted.
            return record.ejected_until_s is not None
        if record.probing or not self._may_go(uid, pool_uids):
            # A probe that hangs ejects when it is ended.
            return record.ejected_until_s is not None
        return self._eject_first(record, now_s)

    def ejected(self, uids: Iterable[str], now_s: float, *, stream: bool = True) -> frozenset[str]:
        """Which of these replicas get no request now: ejected, or with a probe under way.

        Args:
            uids: of the replicas.
            now_s: monotonic time.
            stream: whether the request is one.
        """
        waited_s = 0.0 if stream else STREAM_WAITED_FOR_S
        return frozenset(
            uid
            for uid in uids
            if (record := self._records.get(uid)) is not None
            and record.ejected_until_s is not None
            and (now_s < record.ejected_until_s + waited_s or record.probing)
        )

    def keep(self, uids: Collection[str]) -> None:
        """Forget replicas that are gone and have nothing under way."""
        self._records = {
            uid: record for uid, record in self._records.items() if uid in uids or record.under_way
        }

    def _end(self, attempt: Attempt) -> _Record:
        record = self._records[attempt.uid]
        record.under_way.discard(attempt)
        return record

    def _may_go(self, uid: str, pool_uids: Collection[str]) -> bool:
        """Whether the share allows one more.

        Those whose time is over count until an answer has brought them back: their probes may all
        fail, which would take the whole pool out.
        """
        out = [
            other
            for other in pool_uids
            if other != uid
            and (record := self._records.get(other)) is not None
            and record.ejected_until_s is not None
        ]
        return len(out) + 1 <= max(1, int(MOST_EJECTED * len(pool_uids)))

    @classmethod
    def _eject_first(cls, record: _Record, now_s: float) -> bool:
        # Requests that were under way when it was ejected fail after it: they double nothing.
        if record.ejected_until_s is None:
            cls._eject(record, now_s)
        return True

    @staticmethod
    def _eject(record: _Record, now_s: float) -> None:
        record.ejections += 1
        record.failures = 0
        doubled_s = BASE_EJECTION_S * 2 ** min(record.ejections - 1, _MOST_DOUBLINGS)
        record.ejected_until_s = now_s + min(LONGEST_EJECTION_S, doubled_s)
