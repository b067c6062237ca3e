"""Plans as tests need them, without planning."""

from decimal import Decimal
from typing import Any

from gpufleet.spec import Fleet
from gpufleet.spec.plan_file import planned_from
from gpufleet.spec.plans import (
    Headroom,
    Plan,
    PlannedPlacement,
    PoolPlan,
    Predicted,
    Totals,
    UseCasePrediction,
)


def plan_of(fleet: Fleet, **changes: dict[str, Any]) -> Plan:
    """A plan that leaves every pool as it is, but for what is changed by its name."""
    return Plan(
        fleet=fleet.fleet,
        environment=fleet.environment,
        currency=fleet.currency,
        fleet_digest=planned_from(fleet),
        pools=[pool_plan(fleet, name, **changes.get(name, {})) for name in fleet.pools],
        totals=Totals(
            gpus_steady=1,
            gpus_burst=0,
            gpus_headroom=0,
            gpus_owned=1,
            cost_monthly=Decimal(0),
            cost_idle_monthly=Decimal(0),
            budget_monthly=None,
            budget_left_monthly=None,
        ),
        explain=[],
        warnings=[],
        seconds=0.1,
    )


def pool_plan(fleet: Fleet, name: str, **changes: Any) -> PoolPlan:  # noqa: ANN401 - any field
    """One pool's plan: as it is declared, but for what is changed."""
    pool = fleet.pools[name]
    group_name, first = next(iter(pool.placements.items()))
    fields: dict[str, Any] = {
        "pool": name,
        "class": pool.class_,
        "use_cases": pool.use_cases,
        "model": pool.model,
        "gpu_type": fleet.node_groups[group_name].gpu_type,
        "tp": first.gpus_per_node,
        "pp": first.nodes_per_replica,
        "evidence": "roofline",
        "evidence_source": "a table",
        "gpus_steady": 1,
        "gpus_burst": 0,
        "replicas_min": first.replicas,
        "replicas_max": first.ceiling,
        "concurrency_limit": pool.concurrency_limit,
        "queue_limit": 16,
        "queue_time_target_s": pool.queue_time_target_s,
        "placements": {
            group: PlannedPlacement(
                replicas=placement.replicas,
                max_replicas=placement.ceiling,
                nodes_per_replica=placement.nodes_per_replica,
                gpus_per_node=placement.gpus_per_node,
            )
            for group, placement in pool.placements.items()
        },
        "prewarm": [],
        "limits": {},
        "predicted": Predicted(p95_s=1, ttft_p95_s=0.1, error_rate=0, utilization=0.5),
        "by_use_case": [
            UseCasePrediction(
                use_case=use_case,
                p95_s=1,
                p95_limit_s=fleet.use_cases[use_case].slo.p95_s,
                ttft_p95_s=0.1,
                ttft_p95_limit_s=fleet.use_cases[use_case].slo.ttft_p95_s,
                error_rate=0,
                error_rate_limit=fleet.use_cases[use_case].slo.error_rate,
            )
            for use_case in pool.use_cases
        ],
        "headroom": Headroom(failures=0, maintenance=0, surge=0),
        "site_loss": "kept",
        "smooth_gpus": 1,
        "cost_monthly": Decimal(0),
        "cost_per_1k": None,
        "cost_per_1k_usd": None,
        "latency_by_gpus": [],
        "explain": [],
    }
    return PoolPlan(**{**fields, **changes})
