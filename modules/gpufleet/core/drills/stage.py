"""Where a drill plays: the fleet of its stand-ins, and what the gateway is told of them.

Everything of a drill has a name of its own, so that no request of a user, no record and no alert is
ever taken for one of production. The gateway serves these names like every other.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.core.gateway.routes import routes_of
from gpufleet.spec.drills import DRILL_PREFIX, Placed
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.gateway import Routes
from gpufleet.spec.serving import Placement

NAMESPACE: Final = "gpufleet-drill"
"""Everything of a drill at a site is in it, and goes with it."""
PRIORITY_CLASS: Final = "gpufleet-drill"
PRIORITY: Final = -1000
"""Below everything: a replica of production that wants the GPUs of a drill gets them."""
DRILL: Final = names.DRILL
SCENARIO: Final = f"{names.GROUP}/drill-scenario"
"""Annotation of the namespace: what is drilled."""
FOR_REAL: Final = f"{names.GROUP}/drill-for-real"
"""Annotation of the namespace where production is hit."""
_LONGEST: Final = 40
_KEPT: Final = 25


def drill_name(name: str) -> str:
    """The name of a use case's or pool's stand-in; a DNS label of at most 40 characters."""
    made = f"{DRILL_PREFIX}{name}"
    if len(made) <= _LONGEST:
        return made
    return f"{DRILL_PREFIX}{name[:_KEPT]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def stage_fleet(fleet: Fleet, placed: Iterable[Placed]) -> Fleet:
    """The fleet of a drill's stand-ins: the same revisions, limits and residency, other names.

    No answer comes from a cache, a smaller model or a hosted API: each is from the pool itself.
    """
    placements = placements_of(placed)
    pools = {
        drill_name(name): fleet.pools[name].model_copy(
            update={
                "placements": on,
                "use_cases": [drill_name(each) for each in fleet.pools[name].use_cases],
                "prewarm": [],
                "limits": {},
            }
        )
        for name, on in placements.items()
    }
    alone = {"hosted": None, "fallback": None, "cache_s": None, "summary_tokens": None}
    use_cases = {
        drill_name(name): fleet.use_cases[name].model_copy(update=alone)
        for pool in placements
        for name in fleet.pools[pool].use_cases
    }
    return fleet.model_copy(update={"pools": pools, "use_cases": use_cases})


def placements_of(placed: Iterable[Placed]) -> dict[str, dict[str, Placement]]:
    """What comes up as placements by pool; those on one node group are counted together."""
    placements: dict[str, dict[str, Placement]] = {}
    for each in placed:
        on = placements.setdefault(each.pool, {})
        before = on[each.node_group].replicas if each.node_group in on else 0
        on[each.node_group] = Placement(
            replicas=before + each.replicas,
            nodes_per_replica=each.nodes_per_replica,
            gpus_per_node=each.gpus_per_node,
        )
    return placements


def with_drills(routes: Routes, drills: Iterable[Routes]) -> Routes:
    """What the gateway is told, with the stand-ins of drills; they never replace anything."""
    use_cases, pools = dict(routes.use_cases), dict(routes.pools)
    for drill in drills:
        if (drill.fleet, drill.environment) != (routes.fleet, routes.environment):
            continue
        for name, route in drill.use_cases.items():
            if _is_of_drill(name, route.pool) and route.hosted is None and route.fallback is None:
                use_cases.setdefault(name, route)
        for name, pool in drill.pools.items():
            if _is_of_drill(name):
                pools.setdefault(name, pool)
    return routes.model_copy(update={"use_cases": use_cases, "pools": pools})


def stage_routes(stage: Fleet) -> Routes:
    """What the gateway is told of a drill's stand-ins."""
    return routes_of(stage)


def _is_of_drill(*found: str) -> bool:
    return all(name.startswith(DRILL_PREFIX) for name in found)
