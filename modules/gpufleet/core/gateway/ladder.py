"""Where a request goes when its pool is overloaded: the degradation ladder, with hysteresis.

The order: own pool, the smaller model's pool, the hosted API, summary mode, a refusal that says
when to try again. Every request ends in one of them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gpufleet.spec.gateway import Route
from gpufleet.spec.serving import DataClass

LEAVE_BELOW: Final = 0.5
"""Share of the limit that the predicted time in queue has to fall below to end an overflow."""
LEAVE_AFTER_S: Final = 5.0
"""How long it has to stay there."""
SUMMARY_STRETCH: Final = 2.0
"""In summary mode a queue may be this many times the limit: its requests are shorter."""
LONGEST_RETRY_AFTER_S: Final = 60
MAY_LEAVE: Final = frozenset({DataClass.PUBLIC, DataClass.INTERNAL})
"""Data classes that a hosted API may ever see."""


class Way(StrEnum):
    """The rungs, as audit records and metrics name them."""

    PRIMARY = "primary"
    FALLBACK = "fallback"
    HOSTED = "hosted"
    SUMMARY = "summary"
    NONE = "none"


@dataclass(frozen=True)
class Decision:
    """Where one request goes, and why."""

    way: Way
    pool: str | None
    """None for a hosted API and for a refusal."""
    reason: str
    retry_after_s: int | None = None
    """Of a refusal."""


@dataclass(frozen=True)
class Overflow:
    """Whether a use case overflows, and since when its pool has been calm again."""

    on: bool = False
    calm_since_s: float | None = None

    def seen(self, wait_s: float, limit_s: float, now_s: float) -> "Overflow":
        """What follows from a new prediction.

        On above the limit; off when it was below `LEAVE_BELOW` of the limit for `LEAVE_AFTER_S`.

        Args:
            wait_s: predicted time in queue, s; infinite where nobody serves.
            limit_s: the use case's limit.
            now_s: monotonic time.
        """
        if wait_s > limit_s:
            return Overflow(on=True)
        if not self.on:
            return self
        if wait_s > LEAVE_BELOW * limit_s:
            return Overflow(on=True)
        since_s = self.calm_since_s if self.calm_since_s is not None else now_s
        if now_s - since_s >= LEAVE_AFTER_S:
            return Overflow()
        return Overflow(on=True, calm_since_s=since_s)


@dataclass(frozen=True)
class Situation:
    """What a decision is made from. Pools that residency forbids are not in `wait_s`."""

    wait_s: Mapping[str, float]
    """Predicted time in queue by pool, over replicas in the use case's residency; infinite where
    nobody serves or has room."""
    refused: Mapping[str, str]
    """Pools that take no more of this request's team or class now, with the reason."""
    hosted_room: bool
    """Whether the spend caps have room for this request, and its key is known."""
    overflow: Overflow


def decide(route: Route, situation: Situation) -> Decision:
    """The first rung of the ladder that takes a request.

    While a use case overflows its own pool is kept at `LEAVE_BELOW` of the limit: busy, and with
    a margin, so that it neither idles nor flaps.
    """
    limit_s = route.queue_time_limit_s
    own = route.pool
    own_s = _wait_s(situation, own)
    overflow = situation.overflow.on or own_s > limit_s
    if own_s <= (LEAVE_BELOW * limit_s if overflow else limit_s):
        return Decision(Way.PRIMARY, own, "within limits")
    why = situation.refused.get(own) or _why(situation.wait_s.get(own, math.inf))
    if route.fallback is not None and _wait_s(situation, route.fallback) <= limit_s:
        return Decision(Way.FALLBACK, route.fallback, why)
    if own_s > limit_s and may_leave(route) and situation.hosted_room:
        return Decision(Way.HOSTED, None, why)
    if route.summary_tokens is not None:
        # Own pool before the other one where both take it.
        pools = [own] if route.fallback is None else [own, route.fallback]
        waits = [(_wait_s(situation, pool), index) for index, pool in enumerate(pools)]
        shortest_s, index = min(waits)
        if shortest_s <= SUMMARY_STRETCH * limit_s:
            return Decision(Way.SUMMARY, pools[index], why)
    if own_s <= limit_s:
        return Decision(Way.PRIMARY, own, "within limits")
    return Decision(Way.NONE, None, why, _retry_after_s(route, situation))


def may_leave(route: Route) -> bool:
    """Whether a hosted API may see the use case's data, whatever was declared."""
    return route.hosted is not None and route.data_class in MAY_LEAVE


def _wait_s(situation: Situation, pool: str) -> float:
    return math.inf if pool in situation.refused else situation.wait_s.get(pool, math.inf)


def _why(wait_s: float) -> str:
    return "no replica has room" if math.isinf(wait_s) else "predicted time in queue"


def _retry_after_s(route: Route, situation: Situation) -> int:
    """Until the shortest queue is within the limit again, s; whole and at least 1."""
    pools = [route.pool] if route.fallback is None else [route.pool, route.fallback]
    waits = [situation.wait_s.get(pool, math.inf) for pool in pools]
    over_s = min(waits) - LEAVE_BELOW * route.queue_time_limit_s
    if math.isinf(over_s):
        return math.ceil(min(LONGEST_RETRY_AFTER_S, max(5.0, route.queue_time_limit_s)))
    return max(1, min(LONGEST_RETRY_AFTER_S, math.ceil(over_s)))
