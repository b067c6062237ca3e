"""The whole environment beside its budget: GPUs and money, used and idle."""

from collections.abc import Iterator
from decimal import Decimal

from gpufleet.core.cost.budget import Option as Smaller
from gpufleet.core.cost.budget import Spending
from gpufleet.core.cost.hardware import HOURS_PER_MONTH, gpu_hour, owned_gpus
from gpufleet.core.cost.money import cents
from gpufleet.core.sources import Sources
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plans import ArithmeticStep, PoolPlan, Totals


def totals_of(fleet: Fleet, pools: list[PoolPlan]) -> Totals:
    """GPUs and money of all pools, of what is idle, and what the budget leaves."""
    budget = fleet.budget
    kept = sum((pool.cost_monthly for pool in pools), Decimal(0))
    idle = _idle_monthly(fleet, pools)
    total = cents(kept + idle)
    left = None
    if budget is not None:
        left = budget.monthly - cents(total * (1 + Decimal(str(fleet.governance.cost_buffer))))
    return Totals(
        gpus_steady=sum(pool.gpus_steady for pool in pools),
        gpus_burst=sum(pool.gpus_burst for pool in pools),
        gpus_headroom=sum(map(_headroom_of, pools)),
        gpus_owned=owned_gpus(fleet),
        cost_monthly=total,
        cost_idle_monthly=idle,
        budget_monthly=budget.monthly if budget else None,
        budget_left_monthly=left,
    )


def _headroom_of(pool: PoolPlan) -> int:
    kept = pool.headroom
    return kept.failures + kept.maintenance + kept.surge + kept.site_loss


def explained(
    fleet: Fleet, pools: list[PoolPlan], totals: Totals, sources: Sources
) -> Iterator[ArithmeticStep]:
    """How each total came about."""
    for field in ("gpus_steady", "gpus_burst"):
        parts = " + ".join(f"{getattr(pool, field)} of {pool.pool}" for pool in pools)
        yield ArithmeticStep(number=field, text=f"{parts} = {getattr(totals, field)}")
    kept_back = " + ".join(f"{_headroom_of(pool)} of {pool.pool}" for pool in pools)
    yield ArithmeticStep(
        number="gpus_headroom",
        text=f"for failures, maintenance, rollouts and the loss of a site: {kept_back} = "
        f"{totals.gpus_headroom}",
    )
    groups = [("node_groups", name, "nodes") for name in fleet.node_groups]
    yield ArithmeticStep(
        number="gpus_owned",
        text=f"nodes x GPUs of {len(groups)} node groups = {totals.gpus_owned}",
        source=sources.at(*groups),
    )
    kept = totals.cost_monthly - totals.cost_idle_monthly
    yield ArithmeticStep(
        number="cost_monthly",
        text=f"{kept:,} of the GPUs that pools may run + {totals.cost_idle_monthly:,} of idle ones "
        f"= {totals.cost_monthly:,} {fleet.currency}",
        source=sources.at(*(("node_groups", name, "price_per_node") for name in fleet.node_groups)),
    )
    if totals.budget_left_monthly is not None:
        yield ArithmeticStep(
            number="budget_left_monthly",
            text=f"{totals.budget_monthly:,} - {totals.cost_monthly:,} x "
            f"{1 + fleet.governance.cost_buffer:g} = {totals.budget_left_monthly:,}",
            source=sources.at(("budget", "monthly"), ("governance", "cost_buffer")),
        )


def _idle_monthly(fleet: Fleet, pools: list[PoolPlan]) -> Decimal:
    """What GPUs cost that no replica of a plan may run on."""
    running = {
        group: placement.gpus for pool in pools for group, placement in pool.placements.items()
    }
    idle = sum(
        (
            (group.gpus - running.get(name, 0)) * gpu_hour(fleet, name).total(0)
            for name, group in fleet.node_groups.items()
        ),
        Decimal(0),
    )
    return cents(idle * HOURS_PER_MONTH)


def smaller_spending(fleet: Fleet, pools: list[PoolPlan], totals: Totals) -> list[Smaller]:
    """What a budget that is too small could pay for, the most first."""
    running = sum(pool.gpus for pool in pools)
    owned = totals.gpus_owned
    without_idle = totals.cost_monthly - totals.cost_idle_monthly
    smaller = [
        Smaller(
            f"the {running} GPUs that pools run, without {owned - running} idle ones",
            Spending(without_idle),
        )
    ]
    by_cost = sorted(pools, key=lambda pool: pool.cost_monthly)
    for count in range(len(by_cost) - 1, 0, -1):
        cost = sum((pool.cost_monthly for pool in by_cost[:count]), Decimal(0))
        names = ", ".join(pool.pool for pool in pools if pool in by_cost[:count])
        smaller.append(Smaller(f"the pools {names} alone", Spending(cost)))
    if fleet.budget is not None:
        buffered = totals.cost_monthly * (1 + Decimal(str(fleet.governance.cost_buffer)))
        paid = int(owned * min(Decimal(1), fleet.budget.monthly / buffered))
        cost = totals.cost_monthly * paid / owned
        smaller.append(Smaller(f"{paid} of the {owned} GPUs that are owned", Spending(cost)))
    return smaller
