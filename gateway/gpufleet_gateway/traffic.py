"""Which replica or API gets a request: the decisions of `gpufleet.core.gateway`, on what is now."""

import asyncio
import math
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from gpufleet.core.gateway.admission import refusal, share_of_pod
from gpufleet.core.gateway.balance import allowed, choose, serving
from gpufleet.core.gateway.ladder import (
    Decision,
    Overflow,
    Situation,
    Way,
    decide,
    may_leave,
)
from gpufleet.core.gateway.outliers import Attempt, Outliers
from gpufleet.core.gateway.queueing import Load, loads_of, pool_wait_s
from gpufleet.core.gateway.request_body import Asked, prompt_tokens_estimate, tokens_allowed
from gpufleet.edges.in_flight import Board
from gpufleet.edges.spend_ledger import Caps, Reservation, SpendLedger, SpendUnknown
from gpufleet.spec.gateway import HostedRoute, PoolRoute, Replica, Route, Routes
from gpufleet.spec.serving import ServingClass
from gpufleet_gateway.configuration import hosted_deployment, hosted_key, pool_deployment
from gpufleet_gateway.folder import Folder

_SHORTEST_SILENCE_S: Final = 3.0
_SILENCE_FACTOR: Final = 2.0
"""A replica that is silent for this many times the promised 95th percentile hangs."""
_SHORTEST_PROBE_S: Final = 0.5
HOSTED_SHARE: Final = 0.5
"""Share of a request's time that a silent hosted API gets: the next rung needs some too."""
_MILLION: Final = 1_000_000


@dataclass
class Target:
    """Where one attempt goes."""

    decision: Decision
    deployment: Mapping[str, Any]
    model: str
    digest: str
    replica: Replica | None = None
    attempt: Attempt | None = None
    reservation: str | None = None
    cost_unanswered: Decimal = Decimal(0)
    """Of a hosted request that gave not one byte, at most."""
    counted: list[str] = field(default_factory=list)

    @property
    def is_summary(self) -> bool:
        """Whether its answer is to be a short one."""
        return self.decision.way is Way.SUMMARY


class Traffic:
    """What one worker knows of the requests under way, its own and those of the others.

    Args:
        folder: with the routes and the replicas.
        board: counters of all workers.
        ledger: what hosted APIs have cost.
    """

    def __init__(self, folder: Folder, board: Board, ledger: SpendLedger) -> None:
        self.folder = folder
        self.board = board
        self.ledger = ledger
        self.outliers = Outliers()
        self._overflow: dict[str, Overflow] = {}
        self._teams: tuple[Routes | None, dict[str, list[str]]] = (None, {})

    async def place(
        self, request_id: str, use_case: str, asked: Asked, tried: Collection[str]
    ) -> Target | Decision:
        """Choose where a request goes next, and count it there.

        Args:
            request_id: names its reservation of money.
            use_case: of the request.
            asked: the request.
            tried: uids of replicas, and names of ways, that have failed this request.

        Returns the decision to refuse it where nothing takes it.
        """
        routes = self.folder.routes()
        route = routes.use_cases[use_case]
        while True:
            loads = {
                pool: self.loads(routes, route, pool, tried, stream=asked.stream)
                for pool in (route.pool, route.fallback)
                if pool is not None and pool in routes.pools
            }
            situation = self._situation(routes, use_case, loads, tried)
            decision = decide(route, situation)
            if decision.way is Way.NONE:
                return decision
            if decision.pool is None:
                target = await self._hosted(request_id, use_case, asked, decision)
                if target is not None:
                    return target
                tried = {*tried, Way.HOSTED}
                continue
            target = self._pool_target(routes, use_case, asked, decision, loads[decision.pool])
            if target is not None:
                return target
            tried = {*tried, *(load.replica.uid for load in loads[decision.pool])}

    def loads(
        self,
        routes: Routes,
        route: Route,
        pool: str,
        tried: Collection[str] = (),
        *,
        stream: bool = True,
    ) -> list[Load]:
        """The replicas of a pool that may serve a route's data now, with their load."""
        known = self.folder.replicas().pools.get(pool, [])
        able = self._able(routes, route, known, tried, stream=stream)
        if not able and not stream:
            able = self._able(routes, route, known, tried, stream=True)
        names = {each.uid: f"replica:{each.uid}" for each in able}
        counts = self.board.totals(list(names.values()))
        in_flight = {uid: counts[name] for uid, name in names.items()}
        return loads_of(able, routes.pools[pool], in_flight, time.time())

    def _able(
        self,
        routes: Routes,
        route: Route,
        known: list[Replica],
        tried: Collection[str],
        *,
        stream: bool,
    ) -> list[Replica]:
        uids = [each.uid for each in known]
        ejected = self.outliers.ejected(uids, time.monotonic(), stream=stream)
        found = serving(allowed(known, routes.regions, route.residency), ejected)
        return [each for each in found if each.uid not in tried]

    def stalled_s(self) -> dict[str, float]:
        """How long engines have had work and given no token, by replica's uid."""
        known = self.folder.replicas().pools.values()
        return {each.uid: each.stalled_s for pool in known for each in pool if each.stalled_s}

    def ready_uids(self, pool: str | None) -> list[str]:
        """Ready replicas of a pool, ejected or not."""
        known = self.folder.replicas().pools.get(pool or "", [])
        return [each.uid for each in known if each.ready]

    def overflows(self, use_case: str) -> bool:
        """Whether a use case overflows now."""
        return self._overflow.get(use_case, Overflow()).on

    async def release(self, target: Target, cost: Decimal | None) -> None:
        """An attempt has ended: it counts no more, and its money is settled.

        Where nobody knows what it has cost, what was reserved counts as spent when it expires.
        """
        if target.counted:
            self.board.give(target.counted)
            target.counted = []
        if target.reservation is not None and cost is not None:
            reservation, target.reservation = target.reservation, None
            try:
                await asyncio.to_thread(self.ledger.settle, reservation, cost)
            except SpendUnknown:
                # It stays reserved, and is counted as spent when it expires.
                return

    def _situation(
        self,
        routes: Routes,
        use_case: str,
        loads: Mapping[str, list[Load]],
        tried: Collection[str],
    ) -> Situation:
        route = routes.use_cases[use_case]
        waits = {pool: pool_wait_s(each) for pool, each in loads.items()}
        before = self._overflow.get(use_case, Overflow())
        overflow = before.seen(
            waits.get(route.pool, math.inf), route.queue_time_limit_s, time.monotonic()
        )
        if tried:
            # Who is left after a failure says nothing of the pool.
            overflow = before
        self._overflow[use_case] = overflow
        refused = {
            pool: reason
            for pool, each in loads.items()
            if (reason := self._refusal(routes, route, pool, len(each))) is not None
        }
        return Situation(
            wait_s=waits,
            refused=refused,
            hosted_room=(
                Way.HOSTED not in tried
                and may_leave(route)
                and hosted_key(use_case) is not None
                and not self.outliers.ejected([hosted_uid(use_case)], time.monotonic())
            ),
            overflow=overflow,
        )

    def _refusal(self, routes: Routes, route: Route, pool: str, replicas: int) -> str | None:
        if self._teams[0] is not routes:
            self._teams = (routes, _teams_of(routes))
        teams = self._teams[1].get(pool, [])
        names = {team: _team_name(pool, team) for team in teams}
        interactive = f"interactive:{pool}"
        counts = self.board.totals([*names.values(), interactive])
        in_flight = {team: counts[name] for team, name in names.items()}
        return refusal(route, routes.pools[pool], replicas, in_flight, counts[interactive])

    def _pool_target(
        self, routes: Routes, use_case: str, asked: Asked, decision: Decision, loads: list[Load]
    ) -> Target | None:
        route, pool = routes.use_cases[use_case], decision.pool
        if pool is None:
            return None
        planned: PoolRoute = routes.pools[pool]
        replica = choose(loads, planned.concurrency_limit, pick=random.choice)
        if replica is None:
            return None
        counted = [f"replica:{replica.uid}", _team_name(pool, route.team)]
        if route.class_ is ServingClass.INTERACTIVE:
            counted.append(f"interactive:{pool}")
        self.board.take(dict.fromkeys(counted))
        return Target(
            decision=decision,
            deployment=pool_deployment(use_case, route, planned, replica.url, chat=asked.chat),
            model=planned.model,
            digest=planned.digest,
            replica=replica,
            attempt=self.outliers.started(
                replica.uid,
                time.monotonic(),
                _silence_limit_s(route, stream=asked.stream),
                # An engine that works gives its first token within this time at the latest.
                _silence_limit_s(route, stream=True),
                probe_limit_s=max(_SHORTEST_PROBE_S, route.ttft_p95_s)
                if asked.stream
                else math.inf,
            ),
            counted=counted,
        )

    async def _hosted(
        self, request_id: str, use_case: str, asked: Asked, decision: Decision
    ) -> Target | None:
        """Reserve what a hosted answer may cost; None where the caps have no room for it."""
        routes = self.folder.routes()
        route = routes.use_cases[use_case]
        hosted = route.hosted
        if hosted is None or not may_leave(route) or not (asked.chat and asked.only_text):
            return None
        pods = routes.pods
        prompt_tokens = prompt_tokens_estimate(asked)
        prompt_cost = hosted_cost(hosted, prompt_tokens, 0)
        most = hosted_cost(
            hosted,
            prompt_tokens,
            tokens_allowed(asked, route, summary=False) * asked.answers,
        )
        total = routes.hosted_monthly_cap
        caps = Caps(
            use_case=Decimal(hosted.monthly_cap) / pods,
            all_hosted=None if total is None else Decimal(total) / pods,
        )
        try:
            reserved = await asyncio.to_thread(
                self.ledger.reserve,
                Reservation(request_id, use_case, most, 2 * route.timeout_s),
                caps,
                time.time(),
            )
        except SpendUnknown:
            return None
        if not reserved:
            return None
        return Target(
            decision=decision,
            deployment=hosted_deployment(use_case, route, hosted),
            model=f"{hosted.provider}/{hosted.model}",
            digest="",
            attempt=self.outliers.started(
                hosted_uid(use_case),
                time.monotonic(),
                min(_silence_limit_s(route, stream=asked.stream), HOSTED_SHARE * route.timeout_s),
                alone=True,
            ),
            reservation=request_id,
            # A stream that has given nothing has made nothing but read the prompt. An answer that
            # is no stream may have been made to its end: nobody knows.
            cost_unanswered=prompt_cost if asked.stream else most,
        )


def hosted_cost(hosted: HostedRoute, prompt_tokens: int, output_tokens: int) -> Decimal:
    """What a hosted API charges, in the fleet's currency."""
    return (
        hosted.input_per_million * prompt_tokens + hosted.output_per_million * output_tokens
    ) / _MILLION


def hosted_uid(use_case: str) -> str:
    """What a use case's hosted API is known by among the replicas."""
    return f"hosted:{use_case}"


def limits_of(
    routes: Routes, use_case: str, key_id: str, key_limit: int | None
) -> dict[str, int | None]:
    """What a request is counted under for as long as it is here, with this pod's limits."""
    limit = routes.use_cases[use_case].concurrency_limit
    return {
        f"use_case:{use_case}": share_of_pod(limit, routes.pods),
        f"key:{key_id}": share_of_pod(key_limit, routes.pods),
    }


def _silence_limit_s(route: Route, *, stream: bool) -> float:
    promised_s = route.ttft_p95_s if stream else route.p95_s
    return max(_SHORTEST_SILENCE_S, _SILENCE_FACTOR * promised_s)


def _team_name(pool: str, team: str) -> str:
    return f"team:{pool}:{team}"


def _teams_of(routes: Routes) -> dict[str, list[str]]:
    teams: dict[str, set[str]] = {}
    for route in routes.use_cases.values():
        for pool in (route.pool, route.fallback):
            if pool is not None:
                teams.setdefault(pool, set()).add(route.team)
    return {pool: sorted(names) for pool, names in teams.items()}
