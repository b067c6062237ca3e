"""How fast a pool's replicas are, and what their tokens cost, as far as the fleet file tells."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import numpy as np

from gpufleet.core.capacity.arrivals import Stream
from gpufleet.core.capacity.bounds import full_rates
from gpufleet.core.capacity.memory import DoesNotFit
from gpufleet.core.capacity.replica import ReplicaSpeed
from gpufleet.core.capacity.requests import Floats
from gpufleet.core.capacity.shapes import UnknownModel
from gpufleet.core.capacity.speed import speed_of
from gpufleet.core.cost.hardware import decimal, gpu_hour
from gpufleet.core.cost.money import unit_price
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.prices import MILLION
from gpufleet.spec.serving import Placement, Pool, UseCase

_HOUR_S: Final = 3600


@dataclass(frozen=True)
class PoolSpeed:
    """A pool's replicas, asked by the use cases that reach it."""

    time_in_service_s: float
    """Time that a mean request takes on a full replica once it runs (Little's law: requests in
    flight over requests/s), so that concurrency limit / time is the replica's full rate."""
    promised_at: int
    """Requests in flight at a replica up to which every use case's p95 holds, at least 1."""
    promised_s: float
    """Time that a mean request takes on the slowest replica that has so many in flight."""
    cost_per_million_tokens: Decimal | None
    """Of prompts and answers together, at `costs.default_utilization`; None where the model's speed
    is not known."""
    speeds: tuple[ReplicaSpeed, ...]
    """Of a replica on each node group, empty where it is not known."""

    def first_token_s(self, use_case: UseCase) -> float | None:
        """Time to the first token of a long prompt (its p95) that waits in no queue, s."""
        prompt = use_case.tokens.prompt_p95
        return max(
            (
                speed.first_token_s
                + prompt * (speed.prefill_token_s + speed.attention_s * prompt / 2)
                for speed in self.speeds
            ),
            default=None,
        )


def users_of(fleet: Fleet, pool: Pool) -> list[UseCase]:
    """The use cases that are routed to a pool; of one without any, those that fall back to it."""
    return [fleet.use_cases[name] for name in pool.use_cases] or [
        use_case
        for use_case in fleet.use_cases.values()
        if use_case.fallback == pool.model and use_case.class_ is pool.class_
    ]


def pool_speed(fleet: Fleet, pool: Pool) -> PoolSpeed | None:
    """The speed of a pool's replicas by the best evidence (`core/capacity/speed.py`).

    Of the slowest node group. Where nothing tells the speed, the time in service is what the use
    cases' p95 leaves for their mean answer; None for a pool that no use case reaches.
    """
    users = users_of(fleet, pool)
    if not users:
        return None
    try:
        speeds = tuple(
            _speed(fleet, pool, users, group, placement)
            for group, placement in pool.placements.items()
        )
    except (DoesNotFit, UnknownModel):
        longest_s = max(_promised_s(each) for each in users)
        return PoolSpeed(longest_s, pool.concurrency_limit, longest_s, None, ())
    streams = [
        Stream(index, each.traffic.rate_rps, each.traffic.index_of_dispersion, each.tokens)
        for index, each in enumerate(users)
    ]
    by_load = [full_rates(speed, streams) for speed in speeds]
    rates = [float(each.max()) for each in by_load]
    promised_at = _promised_at(pool, users, by_load)
    return PoolSpeed(
        pool.concurrency_limit / min(rates),
        promised_at,
        max(promised_at / float(each[promised_at - 1]) for each in by_load),
        _token_cost(fleet, pool, users, rates),
        speeds,
    )


def _promised_at(pool: Pool, users: list[UseCase], by_load: list[Floats]) -> int:
    """The most requests in flight at a replica at which a long answer still ends within its p95.

    By Little's law a mean request takes `n / rate(n)`; a use case's answer at the 95th percentile
    of length takes that times its length over the pool's mean length. A pool that could not serve
    its declared traffic so few at a time gets its concurrency limit: late is better than never.

    Args:
        pool: the pool.
        users: the use cases that reach it.
        by_load: requests/s of a replica by requests in flight, from 1 on, for each placement.
    """
    mean_tokens = _mean(users, [each.tokens.output_mean for each in users])
    stretch = max(each.tokens.output_p95 / mean_tokens / each.slo.p95_s for each in users)
    most = min(_last_within(rates, 1 / stretch) for rates in by_load)
    placements = pool.placements.values()
    served_rps = sum(
        placement.ceiling * float(rates[most - 1])
        for placement, rates in zip(placements, by_load, strict=True)
    )
    wanted_rps = sum(
        each.traffic.rate_rps * max((peak.multiplier for peak in each.traffic.peaks), default=1)
        for each in users
    )
    return most if served_rps >= wanted_rps else pool.concurrency_limit


def _last_within(rates_rps: Floats, limit_s: float) -> int:
    """The most requests in flight whose mean time in service is within a limit; at least 1."""
    in_flight = np.arange(1, len(rates_rps) + 1)
    held = in_flight[in_flight / rates_rps <= limit_s]
    return int(held[-1]) if len(held) else 1


def _speed(
    fleet: Fleet, pool: Pool, users: list[UseCase], group: str, placement: Placement
) -> ReplicaSpeed:
    return speed_of(
        fleet,
        pool.model,
        fleet.node_groups[group].gpu_type,
        gpus_per_node=placement.gpus_per_node,
        nodes_per_replica=placement.nodes_per_replica,
        concurrency_limit=pool.concurrency_limit,
        memory_utilization=pool.memory_utilization,
        mean_prompt_tokens=_mean(users, [each.tokens.prompt_mean for each in users]),
        mean_output_tokens=_mean(users, [each.tokens.output_mean for each in users]),
    )


def _mean(users: list[UseCase], values: list[float]) -> float:
    """By requests."""
    rates = [each.traffic.rate_rps for each in users]
    return sum(rate * value for rate, value in zip(rates, values, strict=True)) / sum(rates)


def _promised_s(use_case: UseCase) -> float:
    """Time of a mean answer at the slowest rate that the p95 still accepts, s."""
    slo, tokens = use_case.slo, use_case.tokens
    return slo.ttft_p95_s + (slo.p95_s - slo.ttft_p95_s) * tokens.output_mean / tokens.output_p95


def _token_cost(
    fleet: Fleet, pool: Pool, users: list[UseCase], rates_rps: list[float]
) -> Decimal | None:
    """Hourly cost of the replicas that may run over the tokens that they serve in an hour."""
    share = fleet.costs.default_utilization
    tokens = _mean(users, [each.tokens.prompt_mean + each.tokens.output_mean for each in users])
    hourly, served = Decimal(0), 0.0
    for (group, placement), rate in zip(pool.placements.items(), rates_rps, strict=True):
        gpus = placement.ceiling * placement.gpus_per_replica
        hourly += gpus * gpu_hour(fleet, group).total(share)
        served += placement.ceiling * rate * share * tokens * _HOUR_S
    return unit_price(hourly / decimal(served) * MILLION) if served else None
