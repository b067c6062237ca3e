"""Costs as rows of FOCUS 1.2, the FinOps Open Cost and Usage Specification.

One row for what each use case was served on each node group, one for what stands idle there, and
one for its GPUs of no pool. No price list is published, so there are no unit prices: `ListCost` and
`ContractedCost` are the cost itself. `x_` columns are ours.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from gpufleet.core.cost.forecast import midnight
from gpufleet.core.cost.hardware import decimal, gpu_hour
from gpufleet.core.cost.money import CENT, cents, split
from gpufleet.core.cost.serving import kept_gpus, month_of
from gpufleet.spec.cost_reports import CostReport, PeriodCost, PoolCost, UseCaseCost
from gpufleet.spec.fleet import Fleet

PROVIDER: Final = "gpufleet"
COLUMNS: Final = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "CommitmentDiscountStatus",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceId",
    "InvoiceIssuerName",
    "ListCost",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "RegionId",
    "RegionName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SubAccountId",
    "SubAccountName",
    "Tags",
    "x_CostKind",
    "x_CostPer1kRequests",
    "x_GpuType",
    "x_SuccessfulTasks",
    "x_Utilization",
)
"""All mandatory columns, and those whose condition holds here: usage is measured, teams are sub
accounts, pools are resources with a type, sites are regions, tags are set. The validator's rule of
`ConsumedQuantity` asks for `CommitmentDiscountStatus`, which is null here; so is `InvoiceId`, since
nobody sends an invoice."""
_GPU_HOURS: Final = "GPU-Hours"
_REQUESTS: Final = "Requests"

Row = dict[str, str]
"""Text by column; an empty one is null."""


def focus_rows(fleet: Fleet, report: CostReport) -> Iterator[Row]:
    """A report's amounts as rows, which add up to it exactly; nothing of 0 is left out of a sum.

    Args:
        fleet: declares sites, regions and teams.
        report: the tag `kind` of every row tells whether it is a `forecast` or `actual`.
    """
    for period in report.periods:
        base = _base(fleet, report, period)
        for pool in period.pools:
            yield from _pool_rows(fleet, base, period, pool)
        yield from _rest(fleet, base, period)


def _rest(fleet: Fleet, base: Row, period: PeriodCost) -> Iterator[Row]:
    """What belongs to no pool's requests or idle hours, on each node group by what it costs."""
    kept = {group: n for pool in fleet.pools.values() for group, n in kept_gpus(pool).items()}
    free = {name: group.gpus - kept.get(name, 0) for name, group in fleet.node_groups.items()}
    for what, kind, amount, gpus in (
        ("GPUs that no pool keeps", "unassigned", period.unassigned, free),
        ("Hours that nothing is known about", "unobserved", period.unobserved, kept),
    ):
        if not amount:
            continue
        counts = {group: n for group, n in gpus.items() if n}
        for group, share in zip(
            counts, split(amount, _weights(fleet, counts, period)), strict=True
        ):
            hours = (period.end - period.begin).total_seconds() / 3600 * counts[group]
            took = cents(decimal(hours)) if kind == "unassigned" else Decimal(0)
            yield (
                base
                | _resource(fleet, "", group)
                | _amounts(share)
                | _idle(what, took)
                | {"x_CostKind": kind}
            )


def _weights(fleet: Fleet, gpus: Mapping[str, int], period: PeriodCost) -> list[Decimal]:
    """What the GPUs of each node group cost in a period, to split an amount by."""
    day = period.begin.date()
    costs = [gpu_hour(fleet, group, day=day).total(0) * count for group, count in gpus.items()]
    return costs if any(costs) else [Decimal(count) for count in gpus.values()]


def _base(fleet: Fleet, report: CostReport, period: PeriodCost) -> Row:
    first, after = month_of(period.begin.date())
    return dict.fromkeys(COLUMNS, "") | {
        "BillingAccountId": fleet.slug,
        "BillingAccountName": f"{fleet.fleet} {fleet.environment}",
        "BillingCurrency": report.currency,
        "BillingPeriodStart": _moment(midnight(first)),
        "BillingPeriodEnd": _moment(midnight(after)),
        "ChargePeriodStart": _moment(period.begin),
        "ChargePeriodEnd": _moment(period.end),
        "ChargeCategory": "Usage",
        "InvoiceIssuerName": PROVIDER,
        "PricingCategory": "Standard",
        "ProviderName": PROVIDER,
        "PublisherName": PROVIDER,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Model serving",
        "ServiceSubcategory": "Generative AI",
        "SkuId": "gpu-hour",
        "SkuMeter": _GPU_HOURS,
        "Tags": _tags(fleet=fleet.fleet, environment=fleet.environment, kind=report.kind),
    }


def _pool_rows(fleet: Fleet, base: Row, period: PeriodCost, pool: PoolCost) -> Iterator[Row]:
    """A pool's rows: each use case and the idle rest, on each node group by its GPUs.

    Amounts follow what the GPUs cost; hours, requests and tasks follow their number.
    """
    kept = {group: n for group, n in kept_gpus(fleet.pools[pool.pool]).items() if n}
    if not kept:
        return
    weights, counts = _weights(fleet, kept, period), list(kept.values())
    columns: list[list[Row]] = []
    for use_case in pool.use_cases:
        amounts = split(use_case.served, weights)
        hours = split(use_case.gpu_hours, counts)
        requests = split(use_case.requests * CENT, counts)
        tasks = split(use_case.successful * CENT, counts)
        named = _served(fleet, base, pool, use_case)
        columns.append(
            [
                named | _amounts(amount) | _quantities(took, asked / CENT, done / CENT)
                for amount, took, asked, done in zip(amounts, hours, requests, tasks, strict=True)
            ]
        )
    columns.append([base | row for row in _idle_rows(pool, weights, counts)])
    for index, group in enumerate(kept):
        for column in columns:
            yield column[index] | _resource(fleet, pool.pool, group)


def _idle_rows(pool: PoolCost, weights: list[Decimal], counts: list[int]) -> list[Row]:
    served = sum((row.gpu_hours for row in pool.use_cases), Decimal(0))
    amounts = split(pool.idle, weights)
    # What is served is rounded by use case; the rest is never less than nothing.
    hours = split(max(Decimal(0), pool.gpu_hours - served), counts)
    what = f"Idle GPUs of pool {pool.pool}"
    return [
        _amounts(amount) | _idle(what, took) | {"x_CostKind": "idle"}
        for amount, took in zip(amounts, hours, strict=True)
    ]


def _served(fleet: Fleet, base: Row, pool: PoolCost, row: UseCaseCost) -> Row:
    """What is the same for a use case on every node group."""
    declared = row.use_case in fleet.use_cases
    return base | {
        "ChargeDescription": f"Requests of {row.use_case} served by pool {pool.pool}",
        "ChargeFrequency": "Usage-Based",
        "SubAccountId": row.team if declared else "",
        "SubAccountName": f"team {row.team}" if declared else "",
        "Tags": _tags(
            **json.loads(base["Tags"]),
            pool=pool.pool,
            use_case=row.use_case,
            **({"cost_center": fleet.teams[row.team].cost_center} if declared else {}),
        ),
        "x_CostKind": "served",
        "x_CostPer1kRequests": "" if row.cost_per_1k is None else _number(row.cost_per_1k),
        "x_Utilization": f"{pool.utilization:.6f}",
    }


def _quantities(gpu_hours: Decimal, requests: Decimal, tasks: Decimal) -> Row:
    return {
        "ConsumedQuantity": _number(requests),
        "ConsumedUnit": _REQUESTS,
        "PricingQuantity": _number(gpu_hours),
        "PricingUnit": _GPU_HOURS,
        "x_SuccessfulTasks": _number(tasks),
    }


def _idle(what: str, gpu_hours: Decimal) -> Row:
    return {
        "ChargeDescription": what,
        "ChargeFrequency": "Recurring",
        "ConsumedQuantity": _number(gpu_hours),
        "ConsumedUnit": _GPU_HOURS,
        "PricingQuantity": _number(gpu_hours),
        "PricingUnit": _GPU_HOURS,
    }


def _amounts(amount: Decimal) -> Row:
    names = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")
    return dict.fromkeys(names, _number(amount))


def _resource(fleet: Fleet, pool: str, group: str) -> Row:
    site = fleet.node_groups[group].site
    return {
        "RegionId": fleet.sites[site].region,
        "RegionName": fleet.sites[site].region.upper(),
        "ResourceId": "/".join(filter(None, (fleet.slug, site, group, pool))),
        "ResourceName": pool or group,
        "ResourceType": "Serving pool" if pool else "Node group",
        "x_GpuType": fleet.node_groups[group].gpu_type,
    }


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _number(amount: Decimal) -> str:
    """Plain digits: FOCUS knows no plus sign, no thousands, and E notation is better avoided."""
    return f"{amount:f}"


def _tags(**tags: str) -> str:
    return json.dumps(dict(sorted(tags.items())), ensure_ascii=False)
