"""The plan file `fleets/NAME/ENVIRONMENT.plan.yaml`: what a capacity plan sets of each pool.

Generated and reviewable. It stands beside the fleet file and is laid over its pools, so that
whoever loads the fleet sees the same numbers.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import Field

from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plans import Plan, PoolPlan
from gpufleet.spec.problem import Problem
from gpufleet.spec.quantities import Count, Digest, Name, Seconds, Spec, Whole
from gpufleet.spec.serving import Placement, Pool, Prewarm, UseCaseLimits
from gpufleet.spec.source import Document

PLAN_SUFFIX: Final = ".plan.yaml"
_UNREAD: Final = frozenset(
    {
        "include",
        "images",
        "identities",
        "teams",
        "freeze_calendars",
        "patching",
        "retention",
        "snapshots",
        "snapshot_schedule",
        "snapshot_keys",
        "drills",
        "escalation",
        "risks",
    }
)
"""Sections that no number of a plan follows from."""


class PlannedPool(Spec):
    """What a plan sets of one pool; each field replaces the pool's own."""

    concurrency_limit: Count
    """Requests in flight at one replica."""
    queue_limit: Whole
    """Requests that wait at one replica; more are refused at once."""
    queue_time_target_s: Seconds
    """Time in queue at which the autoscaler adds replicas."""
    placements: Annotated[dict[Name, Placement], Field(min_length=1)]
    """Replicas by node group, instead of all that the fleet file declares."""
    prewarm: list[Prewarm] = Field(default_factory=list)
    """Replicas that have to run before a declared peak begins."""
    limits: dict[Name, UseCaseLimits] = Field(default_factory=dict)
    """What the gateway accepts, by use case."""


class PlanFile(Spec):
    """A plan file."""

    fleet: Name
    """Name of the fleet."""
    environment: Name
    """Name of the environment."""
    fleet_digest: Digest
    """Of the fleet file that it was made for, by `planned_from`."""
    pools: dict[Name, PlannedPool]
    """By name; a pool that is not here stays as the fleet file declares it."""


def plan_path(fleet_file: Path) -> Path:
    """Where the plan of a fleet file stands: `production.plan.yaml` beside `production.yaml`."""
    return fleet_file.with_name(fleet_file.stem + PLAN_SUFFIX)


def planned_from(fleet: Fleet) -> str:
    """Digest of what a plan is made from.

    Without sections that it does not read, and without the numbers of replicas of pools that it
    plans: those it sets whatever they were.

    Args:
        fleet: as it is declared, without a plan laid over it.
    """
    content = fleet.model_dump(mode="json", by_alias=True, exclude=set(_UNREAD))
    for pool in content["pools"].values():
        for placement in pool["placements"].values() if pool["use_cases"] else ():
            del placement["replicas"], placement["max_replicas"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def laid_over(fleet: Fleet, plan: PlanFile) -> Fleet:
    """The fleet with its plan's numbers; pools that the plan does not name stay as they are."""
    pools = {
        name: _with(pool, plan.pools[name]) if name in plan.pools else pool
        for name, pool in fleet.pools.items()
    }
    return fleet.model_copy(update={"pools": pools})


def _with(pool: Pool, planned: PlannedPool) -> Pool:
    return pool.model_copy(
        update={name: getattr(planned, name) for name in type(planned).model_fields}
    )


def laid_positions(declared: Document, plan: Document) -> Document:
    """Where each field of a fleet stands after its plan is laid over; data stay the fleet's."""
    positions = {
        path: position
        for path, position in declared.positions.items()
        if not (_is_planned(path) and path[:3] in plan.positions)
    }
    planned = {path: where for path, where in plan.positions.items() if _is_planned(path)}
    return Document(declared.data, {**positions, **planned})


def _is_planned(path: tuple[str | int, ...]) -> bool:
    """Whether a path is a field that plans set, or inside of one."""
    return len(path) > 2 and path[0] == "pools" and path[2] in PlannedPool.model_fields  # noqa: PLR2004 - pools, name, field


def strange_pools(fleet: Fleet, plan: PlanFile) -> Iterator[Problem]:
    """What a plan file says of another fleet, or of pools that the fleet file does not declare."""
    for field in ("fleet", "environment"):
        mine, given = getattr(fleet, field), getattr(plan, field)
        if mine != given:
            yield Problem((field,), f"is `{given}`, and the fleet file beside it says `{mine}`")
    for name in plan.pools:
        if name not in fleet.pools:
            mend = "plan again: ./fleet plan.apply --apply"
            yield Problem(("pools", name), f"the fleet file has no pool `{name}`", mend=mend)


def plan_file_of(plan: Plan) -> PlanFile:
    """What a plan sets."""
    return PlanFile(
        fleet=plan.fleet,
        environment=plan.environment,
        fleet_digest=plan.fleet_digest,
        # A pool without use cases of its own was not planned.
        pools={pool.pool: _planned(pool) for pool in plan.pools if pool.use_cases},
    )


def _planned(pool: PoolPlan) -> PlannedPool:
    return PlannedPool(
        concurrency_limit=pool.concurrency_limit,
        queue_limit=pool.queue_limit,
        queue_time_target_s=pool.queue_time_target_s,
        placements={
            group: Placement(**placement.model_dump())
            for group, placement in pool.placements.items()
        },
        prewarm=pool.prewarm,
        limits=pool.limits,
    )


def rendered(plan: Plan, fleet_file: str) -> str:
    """The text of the plan file: in the order of the fleet file, with the reason at each pool.

    The same plan gives the same text.

    Args:
        plan: of the whole environment.
        fleet_file: the fleet file's name.
    """
    made = plan_file_of(plan)
    lines = [
        f"# Capacity plan of {plan.fleet} {plan.environment}, laid over the pools of {fleet_file}.",
        "# Made by `./fleet plan.apply`. Do not edit it: change the fleet file, and plan again.",
        "# Why each number is what it is: ./fleet explain POOL",
        f"fleet: {_text(made.fleet)}",
        f"environment: {_text(made.environment)}",
        f"fleet_digest: {made.fleet_digest}",
        "",
        "pools:" if made.pools else "pools: {}",
    ]
    for pool in plan.pools:
        if pool.pool in made.pools:
            lines += _pool_lines(pool, made.pools[pool.pool])
    return "\n".join(lines) + "\n"


def _pool_lines(plan: PoolPlan, pool: PlannedPool) -> Iterator[str]:
    yield f"  {_text(plan.pool)}:"
    yield f"    # {plan.model} on {plan.gpu_type}; its speed is known from: {plan.evidence}"
    yield f"    # GPUs: {plan.gpus_steady} steady, {plan.gpus_burst} more in bursts"
    for seen in plan.by_use_case:
        yield (
            f"    # {seen.use_case} at its peak: p95 {seen.p95_s:.3g} s of {seen.p95_limit_s:g} s,"
            f" first token {seen.ttft_p95_s:.3g} s of {seen.ttft_p95_limit_s:g} s"
        )
    yield f"    concurrency_limit: {pool.concurrency_limit}"
    yield f"    queue_limit: {pool.queue_limit}"
    yield f"    queue_time_target_s: {_number(pool.queue_time_target_s)}"
    yield "    placements:"
    for name, placement in pool.placements.items():
        yield f"      {_text(name)}: {_flow(placement.model_dump(exclude_none=True))}"
    if pool.prewarm:
        yield "    prewarm:"
        for prewarm in pool.prewarm:
            yield f"      - {_flow(prewarm.model_dump())}"
    if pool.limits:
        yield "    limits:"
        for name, limits in pool.limits.items():
            yield f"      {_text(name)}: {_flow(limits.model_dump())}"


def _flow(value: dict[str, object]) -> str:
    return "{" + ", ".join(f"{_text(key)}: {_scalar(item)}" for key, item in value.items()) + "}"


def _scalar(value: object) -> str:
    if isinstance(value, dict):
        return _flow(value)
    if isinstance(value, int | float):
        return _number(value)
    return _quoted(str(value))


def _quoted(text: str) -> str:
    quoted: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf)
    return quoted.rstrip("\n")


def _number(value: float) -> str:
    """Twelve digits: enough for every number of a plan, and the same on every machine."""
    return f"{value:.12g}"


def _text(name: str) -> str:
    """A name as a YAML key: names are plain text, but a number or a word of YAML is quoted."""
    return name if name[0].isalpha() and name not in {"null", "true", "false"} else _quoted(name)
