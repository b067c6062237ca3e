"""What a drill for real does to production: what is hit, what yields, in which order it comes back.

Everything is taken in a way that can be given back as it was: workloads are made smaller, and told
their earlier number again; a node is cordoned under a mark, and uncordoned by whoever finds it.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Protocol

from gpufleet.core import vocabulary as names
from gpufleet.core.drills.stage import placements_of
from gpufleet.core.serving import (
    DRAIN_MARGIN_S,
    ENDPOINT_PROPAGATION_S,
    PoolAtSite,
    longest_generation_s,
)
from gpufleet.spec.drill_cadence import ScenarioName
from gpufleet.spec.drills import DrillPlan, Placed, Reason, Scaled
from gpufleet.spec.errors import BadInput, PolicyRefused
from gpufleet.spec.fleet import Fleet

Object = Mapping[str, Any]
PAUSED: Final = "autoscaling.keda.sh/paused-replicas"
"""KEDA's annotation: it keeps the workload at that number, and looks at nothing else."""
TAKEN_BY: Final = f"{names.GROUP}/drilled-by"
"""Annotation of what a drill has made smaller, with its mark."""
GOES_FIRST: Final = "controller.kubernetes.io/pod-deletion-cost"
"""Kubernetes' annotation of a pod: the cheapest ones go first when a workload gets smaller."""
SIGNED_WITHIN: Final = timedelta(hours=1)
"""From when it was asked for until it begins: whoever has asked for it is still there."""
_MARK: Final = "drill/"
_NOTICED_S: Final = 120.0
_LEAST_PATIENCE_S: Final = 60.0
_OFFERED: Final = frozenset({ScenarioName.SITE_LOST.value, ScenarioName.GPU_LOST.value})
_NOT_OFFERED: Final[Mapping[str, str]] = MappingProxyType(
    {
        ScenarioName.CACHE_CORRUPTED.value: "it would damage weights that replicas serve with",
        ScenarioName.STORE_LOST.value: "audit records of users would have no store to go to",
        ScenarioName.BAD_SNAPSHOT.value: "it would damage a snapshot that production may need",
    }
)


def mark_of(flow: str) -> str:
    """The owner mark of a drill on what it has taken."""
    return f"{_MARK}{flow}"


def demand_offered(scenario: str) -> None:
    """Refuse a scenario whose loss could not be given back.

    Raises:
        BadInput: says why.
    """
    if scenario in _OFFERED:
        return
    why = _NOT_OFFERED.get(scenario, "what it takes away could not be given back as it was")
    raise BadInput(
        f"{scenario} is not drilled for real: {why}",
        where="--for-real",
        mend=f"drill it in isolation; for real there are: {', '.join(sorted(_OFFERED))}",
    )


def demand_held(plan: DrillPlan) -> None:
    """Refuse a drill that takes a use case down which nobody has accepted to be down.

    Raises:
        PolicyRefused: names each, and why it cannot come back.
    """
    real = plan.for_real
    left = {name: why for name, why in plan.unheld.items() if real and name not in real.accepted}
    if left:
        told = "; ".join(f"{name}: {why}" for name, why in left.items())
        raise PolicyRefused(
            f"would not come back: {told}",
            where=f"{plan.scenario} {plan.target}",
            mend=f"mend it; or accept that they are down: --accept-loss {','.join(left)}",
        )


def needless(approved: DrillPlan, now: DrillPlan) -> str:
    """What a plan hits beyond the one that was approved; empty where nothing.

    Replica counts move with load, and are no reason; other pools, and more of batch, are.
    """

    def taken(plan: DrillPlan) -> dict[tuple[str, str, Reason], int]:
        rows = plan.for_real.scaled if plan.for_real else []
        return {(each.pool, each.site, each.reason): each.before - each.left for each in rows}

    before, after = taken(approved), taken(now)
    more = [
        f"{reason.value}: pool {pool} at {site}"
        for (pool, site, reason), count in after.items()
        if (pool, site, reason) not in before
        or (reason is Reason.YIELDS and count > before[pool, site, reason])
    ]
    more += [name for name in now.use_cases if name not in approved.use_cases]
    return ", ".join(more)


def moved(approved: DrillPlan, now: DrillPlan) -> str:
    """What would come up elsewhere, or in another number, than was approved; empty where nothing.

    What was approved is what comes up: where it does not fit any more it would push others out.
    """

    def coming(plan: DrillPlan) -> Counter[tuple[str, str, str]]:
        found: Counter[tuple[str, str, str]] = Counter()
        for each in plan.placed:
            found[each.pool, each.site, each.node_group] += each.replicas
        return found

    before, after = coming(approved), coming(now)
    return ", ".join(
        f"{after[place]} replicas of pool {place[0]} at {place[1]} on {place[2]}, not "
        f"{before[place]}"
        for place in sorted(before.keys() | after.keys())
        if before[place] != after[place]
    )


def demand_accepted_known(accepted: Sequence[str], hit: Sequence[str]) -> None:
    """Refuse a loss that is accepted for what is not hit.

    Raises:
        BadInput: names it.
    """
    if strange := [name for name in accepted if name not in hit]:
        raise BadInput(
            f"`{strange[0][:60]}` is not hit by it",
            where="--accept-loss",
            mend=f"there are: {', '.join(hit)}",
        )


def at_most_s(objective_s: float, expected_s: float) -> float:
    """Longest time from the failure until production is told to come back, s.

    Args:
        objective_s: the longest of the use cases that are hit.
        expected_s: how long it is expected to take.
    """
    return _NOTICED_S + max(objective_s, expected_s) + _LEAST_PATIENCE_S


def longest_grace_s(fleet: Fleet) -> float:
    """How long a replica of any pool may take to end what users have asked, s."""
    longest = max((longest_generation_s(fleet, pool) for pool in fleet.pools.values()), default=0)
    return float(ENDPOINT_PROPAGATION_S + longest + DRAIN_MARGIN_S)


def production_fleet(fleet: Fleet, placed: Iterable[Placed]) -> Fleet:
    """The fleet of what comes up for production: the same names, at other places alone."""
    pools = {
        name: fleet.pools[name].model_copy(update={"placements": on, "prewarm": []})
        for name, on in placements_of(placed).items()
    }
    return fleet.model_copy(update={"pools": pools})


def with_places(fleet: Fleet, more: Fleet) -> Fleet:
    """A fleet whose pools also stand where those of another one do."""
    pools = {
        name: pool.model_copy(
            update={
                "placements": {
                    **(more.pools[name].placements if name in more.pools else {}),
                    **pool.placements,
                }
            }
        )
        for name, pool in fleet.pools.items()
    }
    return fleet.model_copy(update={"pools": pools})


def scaled_of(
    pool: PoolAtSite,
    workload: Object,
    scaler: Object | None,
    reason: Reason,
    *,
    pods: Sequence[str] = (),
) -> Scaled:
    """What is made smaller, as it stands: to nothing if it is lost, by some pods if it yields.

    Args:
        pool: on one node group.
        workload: its Deployment or LeaderWorkerSet.
        scaler: its ScaledObject; None where it has none.
        reason: why.
        pods: those that go, where it yields.
    """
    before = int(workload["spec"].get("replicas", 1))
    annotations = (scaler or {}).get("metadata", {}).get("annotations") or {}
    return Scaled(
        pool=pool.name,
        site=pool.site,
        node_group=pool.group_name,
        reason=reason,
        kind=str(workload["kind"]),
        namespace=pool.namespace,
        before=before,
        ready=int(workload.get("status", {}).get("readyReplicas", 0)),
        left=0 if reason is Reason.LOST else max(0, before - len(pods)),
        autoscaled=scaler is not None,
        paused=annotations.get(PAUSED),
        pods=list(pods),
    )


@dataclass(frozen=True)
class BatchPod:
    """A replica of a batch pool that may yield."""

    name: str
    node: str
    gpus: int


def yielding(
    placed: Iterable[Placed], free: Mapping[str, int], pods: Iterable[BatchPod]
) -> list[str]:
    """Pods of batch pools that have to go for what comes up on their nodes: as few as will do.

    Node by node, where the fewest have to go; none where GPUs are free already.

    Args:
        placed: what comes up on the node groups of one batch pool at one site.
        free: GPUs of each of their nodes that no such pod holds.
        pods: the replicas there.
    """
    left = dict(free)
    standing = sorted(pods, key=lambda pod: (-pod.gpus, pod.name))
    gone: list[str] = []
    for each in sorted(placed, key=lambda one: -one.gpus_per_node):
        for _ in range(each.replicas):
            taken: set[str] = set()
            for _ in range(each.nodes_per_replica):
                found = _cheapest(each.gpus_per_node, left, standing, taken)
                if found is None:
                    break
                node, going = found
                taken.add(node)
                left[node] += sum(pod.gpus for pod in going) - each.gpus_per_node
                standing = [pod for pod in standing if pod not in going]
                gone += [pod.name for pod in going]
    return gone


def _cheapest(
    gpus: int, left: Mapping[str, int], standing: Sequence[BatchPod], taken: set[str]
) -> tuple[str, list[BatchPod]] | None:
    """The node where the fewest and smallest pods have to go, and those; the fullest of several."""
    options = []
    for node, free in left.items():
        if node in taken:
            continue
        here = [pod for pod in standing if pod.node == node]
        sums = itertools.accumulate((pod.gpus for pod in here), initial=free)
        needed = next((count for count, total in enumerate(sums) if total >= gpus), None)
        if needed is not None:
            going = here[:needed]
            options.append((needed, sum(pod.gpus for pod in going), free, node, going))
    if not options:
        return None
    *_, node, going = min(options, key=lambda each: each[:4])
    return node, going


class Return(StrEnum):
    """A step of giving production back."""

    LOST = "lost"
    """What was lost is told to come back."""
    READY = "ready"
    """It is waited for until it serves again."""
    REPLACEMENT = "replacement"
    """What came up instead goes."""
    BATCH = "batch"
    """Batch has its GPUs again."""


class Standing(Protocol):
    """How far production is as it was; nothing is looked at before it decides something."""

    @property
    def lost_told(self) -> bool:
        """Whether all that was lost is told to come back."""

    @property
    def lost_ready(self) -> bool:
        """Whether it serves again."""

    @property
    def replacement_gone(self) -> bool:
        """Whether nothing is left of what came up instead."""

    @property
    def batch_told(self) -> bool:
        """Whether batch is told to have its GPUs again."""


def next_return(standing: Standing) -> Return | None:
    """What has to be done next, so that at no moment nothing serves; None where all is as before.

    What came up instead goes only when what was lost serves again, and batch gets its GPUs back
    only when it is gone: they would be in its way, or it in theirs.
    """
    if not standing.lost_told:
        return Return.LOST
    if not standing.replacement_gone:
        return Return.REPLACEMENT if standing.lost_ready else Return.READY
    if not standing.batch_told:
        return Return.BATCH
    return None if standing.lost_ready else Return.READY


def told_back(taken: Scaled, workload: Object, flow: str) -> int | None:
    """The number that a workload is told when it is given back; None where it is not ours to tell.

    Somebody who has given it another number meanwhile has decided.
    """
    annotations = workload["metadata"].get("annotations") or {}
    if annotations.get(TAKEN_BY) != mark_of(flow):
        return None
    now = int(workload["spec"].get("replicas", 1))
    return taken.before if now == taken.left else now
