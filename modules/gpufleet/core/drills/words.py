"""What a drill for real does to production, in sentences for whoever plans and whoever signs it."""

from collections.abc import Iterator

from gpufleet.core.drills.production import SIGNED_WITHIN
from gpufleet.spec.drills import Cordoned, DrillPlan, ForReal, Reason


def words(plan: DrillPlan) -> list[str]:
    """The sentences; none of a plan in isolation."""
    return list(_words(plan, plan.for_real)) if plan.for_real else []


def _words(plan: DrillPlan, real: ForReal) -> Iterator[str]:
    yield f"FOR REAL: production is hit at {', '.join(real.sites)}"
    for each in real.scaled:
        if each.reason is Reason.LOST:
            yield (
                f"lost at {each.site}: all {each.before} replicas of pool {each.pool} on "
                f"{each.node_group}; none begins there meanwhile"
            )
    if real.cordoned:
        yield from _lost_gpu(real.cordoned)
    yield f"use cases that are hit: {', '.join(plan.use_cases)}"
    yielders = [each for each in real.scaled if each.reason is Reason.YIELDS]
    for each in yielders:
        yield (
            f"yields at {each.site}: {each.before - each.left} of {each.before} replicas of batch "
            f"pool {each.pool} on {each.node_group}, after the failure and not before"
        )
    if not yielders:
        yield "batch yields nothing"
    for name in real.accepted:
        yield f"accepted to be down: {name}"
    yield (
        f"for at most {real.at_most_s / 60:.0f} min from the failure; then production is told to "
        "come back as it was"
    )
    yield from _way_back(real)
    signed_within_min = SIGNED_WITHIN.total_seconds() / 60
    yield (
        f"it needs the signatures of others: {real.approvals_needed}, and begins with the last; "
        f"they count for {signed_within_min:.0f} min from when it is asked for"
    )


def _lost_gpu(cordoned: Cordoned) -> Iterator[str]:
    yield (
        f"lost at {cordoned.site}: one replica of pool {cordoned.pool}, pod {cordoned.pod}; its "
        f"node {cordoned.node} takes nothing new meanwhile"
    )


def _way_back(real: ForReal) -> Iterator[str]:
    if real.cordoned:
        yield "given back: the node is uncordoned, if it was this drill that has cordoned it"
        return
    batch = any(each.reason is Reason.YIELDS for each in real.scaled)
    yield (
        "given back: what was lost comes up first; when it is ready, what came up instead goes"
        f"{'; then batch has its GPUs again' if batch else ''}"
    )
