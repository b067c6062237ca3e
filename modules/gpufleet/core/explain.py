"""Why every number of a pool is what it is, down to a line of the fleet file."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from gpufleet.core.autoscaling import (
    RUNNING_TARGET,
    SCALE_IN_WINDOW_S,
    full_replica,
    prewarm_triggers,
)
from gpufleet.core.quotas import SitePlan
from gpufleet.core.serving import (
    CPUS_PER_GPU,
    DRAIN_MARGIN_S,
    ENDPOINT_PROPAGATION_S,
    STARTUP_MARGIN,
    WEIGHTS_VOLUME_MARGIN,
    PoolAtSite,
    pools_at,
)
from gpufleet.core.sources import Sources
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plan_reports import ExplainedNumber
from gpufleet.spec.plans import ArithmeticStep, Plan, PoolPlan
from gpufleet.spec.serving import ServingClass

if TYPE_CHECKING:
    from gpufleet.spec.source import FieldPath

GIB: Final = 2**30


def planned_numbers(plan: Plan, pool: PoolPlan) -> list[ExplainedNumber]:
    """Every step of a pool's plan and of the totals, with the number that it leads to."""
    return [
        *_numbers(pool.explain, pool.model_dump(by_alias=True), ""),
        *_numbers(plan.explain, plan.totals.model_dump(), "total "),
    ]


def _numbers(
    steps: Sequence[ArithmeticStep], shown: dict[str, object], prefix: str
) -> Iterator[ExplainedNumber]:
    for step in steps:
        yield ExplainedNumber(
            number=prefix + step.number,
            value=_value(shown, step.number),
            text=step.text,
            source=step.source,
        )


def _value(shown: dict[str, object], number: str) -> str:
    at: object = shown
    for part in number.split("."):
        at = at.get(part, "") if isinstance(at, dict) else ""
    match at:
        case dict():
            return ", ".join(f"{name} {value}" for name, value in at.items())
        case list():
            return str(len(at))
        case _:
            return str(at)


def derived_numbers(fleet: Fleet, pool: str, sources: Sources) -> list[ExplainedNumber]:
    """What a pool's objects carry at each of its sites, as the fleet is now."""
    return [
        ExplainedNumber(number=f"{site}: {number}", value=value, text=text, source=source)
        for site in fleet.sites
        for placed in pools_at(fleet, site)
        if placed.name == pool
        for number, value, text, source in _at_site(fleet, placed, sources)
    ]


Row = tuple[str, str, str, str]


def _at_site(fleet: Fleet, pool: PoolAtSite, sources: Sources) -> Iterator[Row]:
    yield from _counts(fleet, pool, sources)
    if pool.autoscaled:
        yield from _scaling(fleet, pool, sources)
    yield from _times(pool, sources)
    yield from _resources(fleet, pool, sources)


def _counts(fleet: Fleet, pool: PoolAtSite, sources: Sources) -> Iterator[Row]:
    at: FieldPath = ("pools", pool.name, "placements", pool.group_name)
    yield "replicas", str(pool.replicas), "always run", sources.at((*at, "replicas"))
    most = "may run: autoscaling goes no further"
    yield "max_replicas", str(pool.max_replicas), most, sources.at((*at, "max_replicas"))
    group = fleet.node_groups[pool.group_name]
    yield (
        "room",
        str(pool.room),
        (
            f"replicas of {pool.nodes_per_replica} x {pool.gpus_per_node} GPUs fit on "
            f"{group.nodes} nodes of {group.gpus_per_node}"
        ),
        sources.at(("node_groups", pool.group_name, "nodes")),
    )
    yield (
        "max_surge / max_unavailable",
        f"{pool.surge.max_surge} / {pool.surge.max_unavailable}",
        (
            "a rollout starts a quarter of the replicas first where they fit beside all that may "
            "run; else it stops one at a time"
        ),
        sources.at(("node_groups", pool.group_name, "nodes"), (*at, "max_replicas")),
    )
    yield (
        "disruptions",
        str(pool.disruptions),
        f"replicas that may go at once and leave `min_available` of {pool.replicas}; at least one",
        sources.at(("pools", pool.name, "min_available")),
    )
    if pool.class_ is ServingClass.INTERACTIVE:
        plan = SitePlan.of(fleet, pool.site)
        yield (
            "interactive quota",
            f"{plan.interactive_gpus + (plan.claimed_gpus or 0)} GPUs",
            "of all interactive pools of the site: every ceiling, and a rollout's surge",
            sources.at((*at, "max_replicas")),
        )


def _scaling(fleet: Fleet, pool: PoolAtSite, sources: Sources) -> Iterator[Row]:
    limit: FieldPath = ("pools", pool.name, "concurrency_limit")
    full = full_replica(fleet, pool)
    yield (
        "threshold of running requests",
        f"{full.threshold:g}",
        (
            f"{RUNNING_TARGET:.0%} of the {full.in_flight} that a replica takes within its use "
            "cases' p95: from there on one more is wanted"
        ),
        sources.at(limit),
    )
    yield (
        "threshold of queue time",
        f"{pool.queue_time_target_s:g} s",
        "95th percentile of the time in queue at which one more replica is wanted",
        sources.at(("pools", pool.name, "queue_time_target_s")),
    )
    yield (
        "scale-in window",
        f"{SCALE_IN_WINDOW_S} s",
        "the next burst still finds warm replicas",
        "",
    )
    for trigger in prewarm_triggers(pool):
        window = trigger["metadata"]
        yield (
            trigger["name"],
            f"{window['desiredReplicas']} replicas",
            f"from `{window['start']}` to `{window['end']}` (cron, {window['timezone']})",
            sources.at(("pools", pool.name, "prewarm")),
        )


def _times(pool: PoolAtSite, sources: Sources) -> Iterator[Row]:
    load: FieldPath = ("models", pool.model_name, "load_time_s")
    yield (
        "startup probe",
        f"{pool.startup.budget_s} s",
        f"{STARTUP_MARGIN:g} times the measured load time of {pool.model.load_time_s:g} s",
        sources.at(load),
    )
    slos = _of_each(pool.use_cases, "slo", "p95_s")
    lengths = _of_each(pool.use_cases, "tokens", "output_max")
    yield (
        "drain_s",
        f"{pool.drain_s} s",
        "the longest answer that is allowed, at the slowest rate that the p95 still accepts",
        sources.at(*slos, *lengths),
    )
    yield (
        "grace_s",
        f"{pool.grace_s} s",
        (
            f"{ENDPOINT_PROPAGATION_S} s until proxies send no more + {pool.drain_s} s drain + "
            f"{DRAIN_MARGIN_S} s for logs"
        ),
        sources.at(*slos, *lengths),
    )
    yield (
        "not_ready_toleration_s",
        f"{pool.not_ready_toleration_s} s",
        "half of what the shortest RTO leaves after a restore and a cold start; at most 300 s",
        sources.at(*_of_each(pool.use_cases, "rto_s"), load),
    )
    yield (
        "rollout timeout",
        f"{pool.rollout_timeout_s} s",
        f"{pool.room} replicas one after the other, each with startup budget and grace",
        sources.at(load),
    )


def _of_each(use_cases: Sequence[str], *field: str) -> "list[FieldPath]":
    return [("use_cases", name, *field) for name in use_cases]


def _resources(fleet: Fleet, pool: PoolAtSite, sources: Sources) -> Iterator[Row]:
    at: FieldPath = ("pools", pool.name, "placements", pool.group_name, "gpus_per_node")
    weights: FieldPath = ("models", pool.model_name, "parameters")
    yield "GPUs of a pod", str(pool.gpus_per_node), "tensor parallel", sources.at(at)
    yield "CPUs of a pod", str(pool.cpus), f"{CPUS_PER_GPU} for each GPU", sources.at(at)
    yield (
        "memory of a pod",
        f"{pool.memory_bytes / GIB:.0f} GiB",
        "its part of the weights while they load, shared memory, and the engine",
        sources.at(weights),
    )
    yield (
        "weights volume",
        f"{pool.weights_volume_bytes / GIB:.0f} GiB",
        f"{WEIGHTS_VOLUME_MARGIN:g} times the weights",
        sources.at(weights),
    )
    yield (
        "arguments",
        " ".join(pool.arguments),
        "of the engine: the revision's own, and what follows from the pool",
        sources.at(("models", pool.model_name, "engine"), ("pools", pool.name)),
    )
    group = fleet.node_groups[pool.group_name]
    yield (
        "racks",
        str(pool.racks),
        "that its pods are spread over",
        sources.at(("node_groups", pool.group_name, "racks")),
    )
    if pool.class_ is ServingClass.BATCH:
        yield (
            "batch quota",
            f"{group.gpus} GPUs",
            "the whole node group: no interactive pool stands on it",
            sources.at(("node_groups", pool.group_name, "nodes")),
        )
