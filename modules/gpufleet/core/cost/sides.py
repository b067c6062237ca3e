"""What a use case costs in a month where it could be served: locally, hosted, or both."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Self

from gpufleet.core.cost.hardware import decimal
from gpufleet.core.cost.serving import work_of_request
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plans import PoolPlan
from gpufleet.spec.prices import HostedPrice
from gpufleet.spec.serving import UseCase
from gpufleet.spec.verdicts import Choice

_ONE: Final = Decimal(1)


@dataclass(frozen=True)
class Traffic:
    """What a use case brings in an average month, and in each one of a year."""

    requests: float
    burst_share: float
    """Share of them that exceeds a usual day's busiest hour."""
    mean_over_peak: float
    """Mean rate over the rate of the highest declared peak."""
    months: tuple[tuple[float, float], ...]
    """Requests and burst share of each calendar month, which caps are compared with."""


@dataclass(frozen=True)
class LocalSide:
    """A use case's part of its pool, as planned; the forecast's buffer is in every amount."""

    monthly: Decimal
    burst: Decimal
    """What of it the GPUs for bursts cost."""
    floor: Decimal
    """What the smallest pool costs that could serve it: one replica, and its failures' headroom."""
    work: float
    """Units of work of a month's requests."""
    holds: bool
    """Whether the plan keeps its promises."""

    @property
    def per_work(self) -> Decimal:
        """Cost of a unit of work."""
        return self.monthly / decimal(self.work) if self.work else Decimal(0)

    @classmethod
    def of(cls, fleet: Fleet, plan: PoolPlan, name: str, traffic: Mapping[str, Traffic]) -> Self:
        """A use case's part of a pool's plan, by its share of the work.

        Args:
            fleet: declares the use cases.
            plan: of the pool that it is routed to.
            name: of the use case.
            traffic: of every use case of the pool.
        """
        works = {
            each: traffic[each].requests * work_of_request(fleet.use_cases[each].tokens)
            for each in plan.use_cases
        }
        share = decimal(works[name] / sum(works.values()))
        kept = _kept_gpus(plan)
        monthly = plan.cost_monthly * share * (1 + decimal(fleet.governance.cost_buffer))
        smallest = min(kept, plan.tp * plan.pp + plan.headroom.failures)
        seen = next((each for each in plan.by_use_case if each.use_case == name), None)
        return cls(
            monthly=monthly,
            burst=monthly * min(plan.gpus_burst, kept) / kept,
            floor=monthly * smallest / kept,
            work=works[name],
            holds=seen is None
            or (
                seen.p95_s <= seen.p95_limit_s
                and seen.ttft_p95_s <= seen.ttft_p95_limit_s
                and seen.error_rate <= seen.error_rate_limit
            ),
        )


@dataclass(frozen=True)
class Sides:
    """Both sides of one use case, under factors on traffic and utilization.

    Local GPUs are kept for the planned traffic: less traffic saves none of them, more needs more;
    where a GPU serves less than planned, the same work needs more of them. What exceeds the steady
    GPUs of a hybrid goes to the hosted API.
    """

    local: LocalSide
    traffic: Traffic
    hosted_request: Decimal | None
    """Price of one hosted request in the fleet's currency; None where no model compares."""

    def monthly(
        self, choice: Choice, traffic: Decimal = _ONE, utilization: Decimal = _ONE
    ) -> tuple[Decimal, Decimal]:
        """What a choice costs in a month, and what of it is hosted; not yet rounded."""
        if choice is Choice.LOCAL:
            return self.local.monthly * max(_ONE, traffic) / utilization, Decimal(0)
        hosted = self._hosted(choice, traffic, self.traffic.requests, self.traffic.burst_share)
        if choice is Choice.HOSTED:
            return hosted, hosted
        return (self.local.monthly - self.local.burst) / utilization + hosted, hosted

    def hosted_by_month(self, choice: Choice, traffic: Decimal = _ONE) -> list[Decimal]:
        """What of a choice is hosted in each calendar month of a year; not yet rounded."""
        return [self._hosted(choice, traffic, *month) for month in self.traffic.months]

    def _hosted(
        self, choice: Choice, traffic: Decimal, requests: float, burst_share: float
    ) -> Decimal:
        if choice is Choice.LOCAL:
            return Decimal(0)
        whole = (self.hosted_request or Decimal(0)) * decimal(requests)
        if choice is Choice.HOSTED:
            return whole * traffic
        over = decimal(burst_share)
        return whole * (over * traffic + (1 - over) * max(Decimal(0), traffic - 1))

    def alone(self, requests: int) -> tuple[Decimal, Decimal]:
        """What so many requests of a month cost locally and hosted, if the use case stood alone."""
        local_request = self.local.monthly / decimal(self.traffic.requests)
        hosted = (self.hosted_request or Decimal(0)) * requests
        return max(self.local.floor, local_request * requests), hosted

    def break_even_requests(self) -> int | None:
        """Requests of a month at which both cost the same; None where one is always cheaper.

        Alone, the use case would need the smallest pool at least, and GPUs in proportion above it.
        """
        if not self.hosted_request or not self.traffic.requests:
            return None
        local_request = self.local.monthly / decimal(self.traffic.requests)
        if self.hosted_request <= local_request:
            return None
        return int(self.local.floor / self.hosted_request)


def hosted_request(use_case: UseCase, price: HostedPrice, rate: Decimal) -> Decimal:
    """Price of a use case's mean request in the fleet's currency."""
    return price.of_request(use_case.tokens.prompt_mean, use_case.tokens.output_mean) * rate


def _kept_gpus(plan: PoolPlan) -> int:
    """GPUs that the plan keeps for the pool: for every replica that may run."""
    placed = sum(each.gpus for each in plan.placements.values())
    return max(1, placed or plan.gpus_steady + plan.gpus_burst)
