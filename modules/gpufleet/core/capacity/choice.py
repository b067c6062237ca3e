"""The best way to stand for every pool of a fleet, exactly: an integer program that HiGHS solves.

Each pool takes one pattern: an option (GPU type, GPUs of a replica, concurrency limit) on a set of
node groups. A node group belongs to one pool, so no pool shares a node with another class of work.

In this order: nothing lacks; no site's loss and no failed GPU breaks a promise; least cost; fewest
GPUs; nearest to what is declared. Each is solved to its end, and then held while the next is. Pools
that want nothing that another wants take their best pattern, without a program.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

import numpy as np

from gpufleet.core.capacity.patterns import Demand, Ground, Option, Pattern, Stand, patterns
from gpufleet.core.capacity.requests import Floats
from gpufleet.spec.errors import Failed

__all__ = ["Cannot", "Demand", "Ground", "Option", "Pattern", "Stand", "choose"]

_TOLERANCE: Final = 1e-7
_TIME_LIMIT_S: Final = 60.0
_OPTIMAL: Final = 0
"""Status of `milp` for a proven minimum."""


class Cannot(Exception):
    """No choice holds everything: in the one that lacks the fewest GPUs, this is missing.

    Args:
        lacking: replicas that lack, by pool.
        fitting: what fits, by pool.
    """

    def __init__(self, lacking: Mapping[str, int], fitting: Mapping[str, Pattern]) -> None:
        super().__init__(f"replicas lack: {dict(lacking)}")
        self.lacking = lacking
        self.fitting = fitting


def choose(
    demands: Mapping[str, Demand],
    grounds: Mapping[str, Ground],
    keep_free: Mapping[str, int] | None = None,
) -> dict[str, Pattern]:
    """The best choice for every pool.

    Args:
        demands: by pool, each with at least one option.
        grounds: by node group.
        keep_free: nodes of each site, on groups that no pool is declared on, that none may take.

    Raises:
        Cannot: the node groups do not hold every pool's peak.
        Failed: the solver ended without a proven best choice.
    """
    free = keep_free or {}
    shared = _shared(demands, grounds, free)
    ways = {name: _ways(demand, grounds, shared) for name, demand in demands.items()}
    chosen: dict[str, Pattern] = {}
    for part in _parts(demands, grounds, free):
        if len(part) == 1 and not _is_limited(demands[part[0]], grounds, free):
            chosen[part[0]] = ways[part[0]][0]
        else:
            mine = {name: ways[name] for name in part}
            chosen |= _together(mine, shared, demands, grounds, free)
    lacking = {name: pattern.lacking for name, pattern in chosen.items() if pattern.lacking}
    if lacking:
        raise Cannot(lacking, chosen)
    return {name: chosen[name] for name in demands}


def _ways(demand: Demand, grounds: Mapping[str, Ground], shared: AbstractSet[str]) -> list[Pattern]:
    """A pool's patterns, the best first, without options that cost more than what it always has."""
    own = replace(demand, grounds=tuple(g for g in demand.grounds if g not in shared))
    best = min(patterns(own, grounds), key=_levels)
    most_cost = math.inf if best.levels[0] or best.levels[1] else best.hourly_cost
    return sorted(patterns(demand, grounds, most_cost=most_cost), key=_levels)


def _levels(pattern: Pattern) -> tuple[float, ...]:
    return pattern.levels


def _is_limited(demand: Demand, grounds: Mapping[str, Ground], free: Mapping[str, int]) -> bool:
    return any(
        name not in demand.current and free.get(grounds[name].site) for name in demand.grounds
    )


def _parts(
    demands: Mapping[str, Demand], grounds: Mapping[str, Ground], free: Mapping[str, int]
) -> Iterator[list[str]]:
    """Pools that share a node group, or a site's free nodes, are chosen together; others are not.

    Many small programs are solved faster than a large one.
    """
    wanted: dict[str, list[str]] = {}
    for name, demand in demands.items():
        for ground in demand.grounds:
            wanted.setdefault(ground, []).append(name)
            site = grounds[ground].site
            if ground not in demand.current and free.get(site):
                wanted.setdefault(f"free nodes of {site}", []).append(name)
    root = {name: name for name in demands}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for names in wanted.values():
        for name in names:
            root[find(name)] = find(names[0])
    parts: dict[str, list[str]] = {}
    for name in demands:
        parts.setdefault(find(name), []).append(name)
    yield from parts.values()


def _together(
    ways: Mapping[str, Sequence[Pattern]],
    shared: AbstractSet[str],
    demands: Mapping[str, Demand],
    grounds: Mapping[str, Ground],
    free: Mapping[str, int],
) -> dict[str, Pattern]:
    """Patterns of pools that want the same node groups: a set packing with one for each pool."""
    columns = [
        (name, pattern) for name, found in ways.items() for pattern in _competing(found, shared)
    ]
    rows: list[tuple[dict[int, float], float, float]] = [
        ({i: 1.0 for i, (owner, _) in enumerate(columns) if owner == name}, 1, 1) for name in ways
    ]
    by_ground: dict[str, dict[int, float]] = {}
    for index, (_, pattern) in enumerate(columns):
        for ground in pattern.stands:
            by_ground.setdefault(ground, {})[index] = 1.0
    rows += [(row, -np.inf, 1) for row in by_ground.values() if len(row) > 1]
    rows += list(_kept_free(by_ground, demands, grounds, free))
    held = None
    for level in range(len(columns[0][1].levels)):
        values = np.array([pattern.levels[level] for _, pattern in columns], float)
        if values.any():
            held = _minimum(values, rows)
            best = float(values @ held)
            row = {index: value for index, value in enumerate(values) if value}
            rows.append((row, -np.inf, best + _TOLERANCE * max(1.0, abs(best))))
    if held is None:
        held = np.ones(len(columns))
    taken: dict[str, Pattern] = {}
    for (name, pattern), take in zip(columns, held, strict=True):
        if take:
            taken.setdefault(name, pattern)
    return taken


def _shared(
    demands: Mapping[str, Demand], grounds: Mapping[str, Ground], free: Mapping[str, int]
) -> set[str]:
    """Node groups that one pool may not simply have: another wants them, or they are kept free."""
    wanted = Counter(name for demand in demands.values() for name in demand.grounds)
    claimed = {name for demand in demands.values() for name in demand.current}
    return {
        name
        for name, count in wanted.items()
        if count > 1 or (name not in claimed and free.get(grounds[name].site))
    }


def _competing(found: Sequence[Pattern], shared: AbstractSet[str]) -> Iterator[Pattern]:
    """Patterns, the best first, until one that nobody else can be in the way of.

    The pool can always have that one, so no choice is better for a pattern that is worth less.
    """
    kept: list[frozenset[str]] = []
    for pattern in found:
        stands = frozenset(pattern.stands)
        # One that takes no more, and is worth no less, is there already.
        if any(better <= stands for better in kept):
            continue
        kept.append(stands)
        yield pattern
        if shared.isdisjoint(stands):
            return


def _kept_free(
    by_ground: Mapping[str, dict[int, float]],
    demands: Mapping[str, Demand],
    grounds: Mapping[str, Ground],
    free: Mapping[str, int],
) -> Iterator[tuple[dict[int, float], float, float]]:
    claimed = {ground for demand in demands.values() for ground in demand.current}
    for site, nodes in free.items():
        row: dict[int, float] = {}
        open_nodes = 0
        for name, ground in grounds.items():
            if ground.site == site and name not in claimed:
                open_nodes += ground.nodes
                for index in by_ground.get(name, {}):
                    row[index] = row.get(index, 0.0) + ground.nodes
        if row:
            yield row, -np.inf, max(0, open_nodes - nodes)


def _minimum(
    values: Floats,
    rows: Sequence[tuple[dict[int, float], float, float]],
) -> Floats:
    """Which columns are taken at the minimum of their values.

    Raises:
        Failed: the solver ended without a proven minimum.
    """
    # Most plans need no program, and do not pay for scipy.
    from scipy.optimize import Bounds, LinearConstraint, milp  # noqa: PLC0415
    from scipy.sparse import csr_array  # noqa: PLC0415

    data: list[float] = []
    indices: list[int] = []
    starts = [0]
    for row, _, _ in rows:
        indices += row.keys()
        data += row.values()
        starts.append(len(indices))
    matrix = csr_array((data, indices, starts), shape=(len(rows), len(values)))
    result = milp(
        values,
        integrality=np.ones(len(values)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, [low for _, low, _ in rows], [r[2] for r in rows]),
        options={"mip_rel_gap": 0.0, "time_limit": _TIME_LIMIT_S},
    )
    if result.status != _OPTIMAL:
        # What a time limit leaves is an answer, but not the best one, nor the same everywhere.
        raise Failed(
            f"no best choice of node groups was found: {result.message}",
            where="the choice over the fleet",
            mend="let fewer pools share node groups, or plan on a machine that is less busy",
        )
    taken: Floats = np.round(result.x)
    return taken
