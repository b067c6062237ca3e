"""How two plans, or a plan and what is declared, differ number by number."""

from collections.abc import Iterator

from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plan_file import PlannedPool
from gpufleet.spec.plan_reports import NumberChange, PoolDifference, WhatIf
from gpufleet.spec.plans import Plan, PoolPlan
from gpufleet.spec.quantities import Spec


def number_changes(before: Fleet, after: Fleet) -> list[NumberChange]:
    """Every number of the pools that a plan sets otherwise, in the fleet file's order."""
    changes = []
    for name, pool in after.pools.items():
        old, new = _numbers(before.pools[name]), _numbers(pool)
        changes += [
            NumberChange(
                pool=name, field=field, before=old.get(field, ""), after=new.get(field, "")
            )
            for field in dict.fromkeys((*old, *new))
            if old.get(field, "") != new.get(field, "")
        ]
    return changes


def _numbers(pool: Spec) -> dict[str, str]:
    """What a plan sets of a pool, one number a field."""
    return {
        path: text
        for field in PlannedPool.model_fields
        for path, text in _leaves(field, getattr(pool, field))
    }


def _leaves(path: str, value: object) -> Iterator[tuple[str, str]]:
    match value:
        case None:
            return
        case Spec():
            for name in type(value).model_fields:
                yield from _leaves(f"{path}.{name}", getattr(value, name))
        case dict():
            for name, inside in value.items():
                yield from _leaves(f"{path}.{name}", inside)
        case list():
            for index, inside in enumerate(value):
                yield from _leaves(f"{path}[{index}]", inside)
        case float():
            yield path, f"{value:g}"
        case _:
            yield path, str(value)


def pool_differences(before: Plan, after: Plan, assumed: list[str], unserved: list[str]) -> WhatIf:
    """The plan under assumptions beside the one without."""
    then = {pool.pool: pool for pool in after.pools}
    pools = [_difference(pool, then[pool.pool]) for pool in before.pools if pool.pool in then]
    return WhatIf(
        assumed=assumed,
        pools=pools,
        unserved=unserved,
        gpus_before=before.gpus,
        gpus_after=after.gpus,
        cost_monthly_before=before.kept_monthly,
        cost_monthly_after=after.kept_monthly,
        currency=before.currency,
        warnings=after.warnings,
    )


def _difference(before: PoolPlan, after: PoolPlan) -> PoolDifference:
    return PoolDifference(
        pool=before.pool,
        gpus_before=before.gpus,
        gpus_after=after.gpus,
        replicas_max_before=before.replicas_max,
        replicas_max_after=after.replicas_max,
        gpu_type_before=before.gpu_type,
        gpu_type_after=after.gpu_type,
        p95_s_before=before.predicted.p95_s,
        p95_s_after=after.predicted.p95_s,
        cost_monthly_before=before.cost_monthly,
        cost_monthly_after=after.cost_monthly,
    )
