"""Checks of what a plan sets of a pool: pre-warming and limits, which a person may write too."""

from collections.abc import Iterator
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gpufleet.spec.fleet import Fleet
from gpufleet.spec.problem import Problem
from gpufleet.spec.references import recurrence, reference


def planned_problems(fleet: Fleet) -> Iterator[Problem]:
    """Names that are not the pool's own, replicas above its ceiling, unknown time zones."""
    for name, pool in fleet.pools.items():
        at = ("pools", name)
        for use_case in pool.limits:
            kind = "use case of the pool named"
            yield from reference((*at, "limits", use_case), kind, use_case, pool.use_cases)
        for index, prewarm in enumerate(pool.prewarm):
            path = (*at, "prewarm", index)
            try:
                ZoneInfo(prewarm.time_zone)
            except (ZoneInfoNotFoundError, ValueError):
                what = f"there is no time zone `{prewarm.time_zone}`"
                yield Problem((*path, "time_zone"), what)
            yield from recurrence((*path, "recurrence"), prewarm.recurrence)
            for group, replicas in prewarm.replicas.items():
                here = (*path, "replicas", group)
                yield from reference(here, "placement of the pool on", group, pool.placements)
                placement = pool.placements.get(group)
                if placement and replicas > placement.ceiling:
                    what = f"is above `max_replicas` ({replicas} > {placement.ceiling})"
                    yield Problem(here, what)
