"""What the gateway is told: where each use case's requests go, and within which limits."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from gpufleet.core.cluster_gateway import runs_at
from gpufleet.core.cost.hardware import decimal
from gpufleet.core.cost.serving import work_of_request
from gpufleet.core.gateway.pool_speed import PoolSpeed, pool_speed
from gpufleet.core.serving import longest_generation_s
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.gateway import HostedRoute, PoolRoute, Route, Routes
from gpufleet.spec.hardware import EmbeddedCluster
from gpufleet.spec.prices import PriceTable, built_in_prices
from gpufleet.spec.serving import DataClass, Pool, UseCase, UseCaseLimits

MAY_LEAVE: Final = frozenset({DataClass.PUBLIC, DataClass.INTERNAL})
"""Data classes that a hosted API may answer for, where the use case declares one."""
_BURST_SHARE: Final = 2.0
"""As in a plan: a use case may have twice its share of the pool in flight."""
_SHORTEST_QUEUE_TIME_S: Final = 0.05
_QUEUE_SHARE: Final = 0.5
"""Share of the promised time to first token that may be waited where no speed is known."""


def routes_of(fleet: Fleet, prices: PriceTable | None = None) -> Routes:
    """What the gateway of an environment is told.

    Limits are the plan's. Where no plan was made they follow from the fleet file as a plan's do:
    in flight, twice the use case's share of the pool's work (each at its highest declared peak)
    times what all replicas take and queue; in a queue, what the promised time to the first token
    leaves after a long prompt's prefill.

    Args:
        fleet: as loaded, with its plan laid over.
        prices: of hosted models; left out, the built-in ones.
    """
    table = prices or built_in_prices()
    speeds = {name: pool_speed(fleet, pool) for name, pool in fleet.pools.items()}
    return Routes(
        fleet=fleet.fleet,
        environment=fleet.environment,
        currency=fleet.currency,
        hosted_monthly_cap=fleet.budget.hosted_monthly if fleet.budget else None,
        gateway=fleet.gateway,
        use_cases={
            use_case: _route(fleet, use_case, pool_name, speeds, table)
            for pool_name, pool in fleet.pools.items()
            for use_case in pool.use_cases
        },
        pools={
            name: _pool_route(fleet, pool, speed)
            for name, pool in fleet.pools.items()
            if (speed := speeds[name]) is not None
        },
        regions={name: site.region for name, site in fleet.sites.items()},
        pods=_pods(fleet),
    )


def _pods(fleet: Fleet) -> int:
    """Pods of the gateway over all sites; it is one beside an embedded platform."""
    embedded = any(isinstance(site.cluster, EmbeddedCluster) for site in fleet.sites.values())
    at_sites = sum(runs_at(fleet, site) for site in fleet.sites)
    return max(1, fleet.gateway.replicas * at_sites + embedded)


def routes_text(fleet: Fleet, prices: PriceTable | None = None) -> str:
    """`routes_of` as text: the same fleet gives the same."""
    content = routes_of(fleet, prices).model_dump(mode="json", by_alias=True)
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def fallback_pool(fleet: Fleet, use_case: UseCase) -> str | None:
    """The pool that answers for a use case when its own is overloaded.

    It serves the fallback revision for the same class, and stands where the data may be processed;
    of several, the one with the most replicas there.
    """
    if use_case.fallback is None:
        return None
    fitting = {
        name: _replicas_in(fleet, pool, use_case.residency)
        for name, pool in fleet.pools.items()
        if pool.model == use_case.fallback and pool.class_ is use_case.class_
    }
    best = max(fitting, key=lambda name: fitting[name], default=None)
    return best if best and fitting[best] else None


def _replicas_in(fleet: Fleet, pool: Pool, regions: list[str]) -> int:
    """Replicas of a pool that may run in some regions."""
    return sum(
        placement.ceiling
        for group, placement in pool.placements.items()
        if fleet.sites[fleet.node_groups[group].site].region in regions
    )


def _route(
    fleet: Fleet,
    name: str,
    pool_name: str,
    speeds: Mapping[str, PoolSpeed | None],
    table: PriceTable,
) -> Route:
    use_case, pool = fleet.use_cases[name], fleet.pools[pool_name]
    limits = pool.limits.get(name) or _limits(fleet, name, pool, speeds[pool_name])
    retention = fleet.retention.get(use_case.data_class)
    fallback = fallback_pool(fleet, use_case)
    reached = [pool, *([fleet.pools[fallback]] if fallback else [])]
    return Route(
        team=use_case.team,
        **{"class": use_case.class_},
        data_class=use_case.data_class,
        residency=use_case.residency,
        pool=pool_name,
        fallback=fallback,
        hosted=_hosted(fleet, use_case, table),
        summary_tokens=use_case.summary_tokens,
        queue_time_limit_s=limits.queue_time_limit_s,
        concurrency_limit=limits.concurrency_limit,
        output_max_tokens=use_case.tokens.output_max,
        # A request may wait, and then has the time that a drain of either pool gives it.
        timeout_s=limits.queue_time_limit_s
        + max(longest_generation_s(fleet, each) for each in reached),
        ttft_p95_s=use_case.slo.ttft_p95_s,
        p95_s=use_case.slo.p95_s,
        cache_ttl_s=use_case.cache_s,
        # Without declared retention: recorded or refused, and never with its content.
        audit_required=retention is None or retention.audit_required,
        content_kept=retention is not None and retention.content_s is not None,
    )


def _limits(fleet: Fleet, name: str, pool: Pool, speed: PoolSpeed | None) -> UseCaseLimits:
    """Limits of a use case whose pool has no plan."""
    use_case = fleet.use_cases[name]
    most = sum(placement.ceiling for placement in pool.placements.values())
    queued = pool.concurrency_limit if pool.queue_limit is None else pool.queue_limit
    work = {each: _peak_work(fleet.use_cases[each]) for each in pool.use_cases}
    share = min(1.0, _BURST_SHARE * work[name] / sum(work.values()))
    in_flight = most * (pool.concurrency_limit + queued) * share
    first_s = speed.first_token_s(use_case) if speed else None
    ttft_s = use_case.slo.ttft_p95_s
    left = ttft_s * _QUEUE_SHARE if first_s is None else ttft_s - first_s
    return UseCaseLimits(
        concurrency_limit=max(1, round(in_flight)),
        queue_time_limit_s=float(f"{max(_SHORTEST_QUEUE_TIME_S, left):.3g}"),
    )


def _peak_work(use_case: UseCase) -> float:
    """Units of work that arrive in a second of a use case's highest declared peak."""
    traffic = use_case.traffic
    highest = max((peak.multiplier for peak in traffic.peaks), default=1.0)
    return highest * traffic.rate_rps * work_of_request(use_case.tokens)


def _hosted(fleet: Fleet, use_case: UseCase, table: PriceTable) -> HostedRoute | None:
    """The hosted API of a use case; None where its data may not leave.

    None too where its price is not known in the fleet's currency: no cap could bind then.
    """
    declared = use_case.hosted
    if declared is None or use_case.data_class not in MAY_LEAVE:
        return None
    price = table.of(declared.provider, declared.model)
    rate = _rate(fleet, table.currency)
    if price is None or rate is None:
        return None
    return HostedRoute(
        provider=declared.provider,
        model=declared.model,
        url=declared.url,
        monthly_cap=declared.monthly_cap,
        input_per_million=price.input_per_1m_tokens * rate,
        output_per_million=price.output_per_1m_tokens * rate,
    )


def _rate(fleet: Fleet, currency: str) -> Decimal | None:
    if currency == fleet.currency:
        return Decimal(1)
    declared = fleet.exchange_rates.get(currency)
    return decimal(declared.rate) if declared else None


def _pool_route(fleet: Fleet, pool: Pool, speed: PoolSpeed) -> PoolRoute:
    return PoolRoute(
        model=pool.model,
        digest=fleet.models[pool.model].digest,
        **{"class": pool.class_},
        concurrency_limit=pool.concurrency_limit,
        promised_at=speed.promised_at,
        queue_limit=pool.queue_limit,
        cost_per_million_tokens=speed.cost_per_million_tokens,
        time_in_service_s=float(f"{speed.time_in_service_s:.3g}"),
    )
