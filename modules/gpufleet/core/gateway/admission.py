"""Who is let in when not everybody can be: limits, fair shares of teams, interactive first."""

import math
from collections.abc import Mapping
from typing import Final

from gpufleet.spec.gateway import PoolRoute, Route
from gpufleet.spec.serving import ServingClass

CONTENDED_FROM: Final = 0.9
"""Share of a pool's places from which on teams are held to their fair shares."""
BATCH_LEAVES: Final = 0.2
"""Share of a pool's places that batch work leaves free while interactive work runs there too."""


def share_of_pod(limit: int | None, pods: int) -> int | None:
    """What one pod of the gateway may let in of a limit over all of them; at least 1."""
    return None if limit is None else max(1, limit // pods)


def fair_share(places: int, others: Mapping[str, int], team: str) -> int:
    """Places that a team may always have of a pool that is full.

    Max-min fairness (Bertsekas and Gallager, Data Networks, 6.5.2): who wants less than an equal
    part gets what it wants, and what it leaves is shared out among the rest.

    Args:
        places: of the pool.
        others: what each team has in flight there.
        team: whose share it is; it is taken to want without limit.
    """
    wanted = sorted(count for name, count in others.items() if name != team and count > 0)
    left = places
    for index, count in enumerate(wanted):
        part = left / (len(wanted) - index + 1)
        if count >= part:
            return max(1, math.floor(part))
        left -= count
    return max(1, left)


def refusal(
    route: Route,
    pool: PoolRoute,
    replicas: int,
    in_flight: Mapping[str, int],
    interactive: int = 0,
) -> str | None:
    """Why a pool takes no more of a team or a class now; None where it does.

    A team always has its fair share. While another team that may come has nothing in flight, the
    last places and the queue are kept for it: it would wait behind all others. Batch use cases
    never enter an interactive pool, and leave `BATCH_LEAVES` of a batch pool free while interactive
    requests overflow into it.

    Args:
        route: of the request's use case.
        pool: that would take it.
        replicas: that serve in the pool now.
        in_flight: requests in the pool by team, with 0 for a team that may come and is not there.
        interactive: how many of them are of interactive use cases.
    """
    places = replicas * pool.concurrency_limit
    total = sum(in_flight.values())
    mine = in_flight.get(route.team, 0)
    if any(count == 0 for team, count in in_flight.items() if team != route.team):
        # What is above `promised_at` counts as waiting.
        prompt = replicas * min(pool.concurrency_limit, pool.promised_at)
        open_to_all = max(1, min(prompt - 1, math.floor(CONTENDED_FROM * prompt)))
        if total >= open_to_all and mine >= fair_share(open_to_all, in_flight, route.team):
            return "the last places are kept for other teams"
    if route.class_ is ServingClass.BATCH:
        if pool.class_ is ServingClass.INTERACTIVE:
            return "batch work does not enter an interactive pool"
        if interactive and total >= math.floor((1 - BATCH_LEAVES) * places):
            return "batch work leaves places to interactive work"
    contended = total >= CONTENDED_FROM * places
    if contended and total > mine and mine >= fair_share(places, in_flight, route.team):
        return "the team has its fair share of the pool"
    return None
