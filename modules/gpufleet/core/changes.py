"""What a change of the fleet file does to pools, and how long it may take."""

import math
from collections.abc import Sequence
from typing import Final

from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.spec.changes import PoolChange
from gpufleet.spec.fleet import Fleet

FIRST_ESTIMATE_S: Final = 900.0
"""For an environment without a history: a rollout of each pool, one after the other."""
_ENOUGH: Final = 3
_QUANTILE: Final = 0.95


def pool_changes(before: Fleet | None, after: Fleet) -> list[PoolChange]:
    """Every pool that differs, with replicas, GPUs and revision on both sides."""
    old = _pools(before) if before else {}
    new = _pools(after)
    changes = []
    for key in sorted(old.keys() | new.keys()):
        was, will = old.get(key), new.get(key)
        change = PoolChange(
            site=key[0],
            pool=key[1],
            replicas_before=was.replicas if was else 0,
            replicas_after=will.replicas if will else 0,
            gpus_before=was.replicas * was.gpus_per_replica if was else 0,
            gpus_after=will.replicas * will.gpus_per_replica if will else 0,
            revision_before=was.model_name if was else "",
            revision_after=will.model_name if will else "",
        )
        if was != will:
            changes.append(change)
    return changes


def expected_s(durations_s: Sequence[float]) -> float:
    """How long the next change takes: the 95th percentile of earlier ones, seconds.

    By the nearest-rank method, so that it is a time that was really seen.
    """
    if len(durations_s) < _ENOUGH:
        return FIRST_ESTIMATE_S
    ranked = sorted(durations_s)
    return ranked[math.ceil(_QUANTILE * len(ranked)) - 1]


def _pools(fleet: Fleet) -> dict[tuple[str, str], PoolAtSite]:
    return {(site, pool.name): pool for site in fleet.sites for pool in pools_at(fleet, site)}
