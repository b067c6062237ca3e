"""What would make a use case cheaper, and what each would be worth in a month."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from gpufleet.core.cost.hardware import decimal
from gpufleet.core.cost.money import cents
from gpufleet.core.cost.serving import PROMPT_TOKEN_WORK, work_of_request
from gpufleet.core.cost.sides import Sides
from gpufleet.spec.costs import LeverShares
from gpufleet.spec.prices import MILLION, HostedPrice
from gpufleet.spec.serving import ServingClass, UseCase
from gpufleet.spec.verdicts import Choice, Lever


@dataclass(frozen=True)
class Smaller:
    """A smaller revision that the fleet serves in the same class."""

    model: str
    per_work: Decimal
    """Cost of a unit of its work."""


def levers(  # noqa: PLR0913 - what is served, where, at what price, and what is assumed
    use_case: UseCase,
    verdict: Choice,
    sides: Sides,
    shares: LeverShares,
    *,
    smaller: Smaller | None,
    price: HostedPrice | None,
    rate: Decimal,
) -> list[Lever]:
    """Every lever that is worth something, the best first.

    Args:
        use_case: as it is declared.
        verdict: where it is served.
        sides: what it costs there.
        shares: what is assumed of each lever.
        smaller: a smaller model of the fleet; None where there is none.
        price: of the hosted model; None where none compares.
        rate: what the price's currency is worth in the fleet's.
    """
    found = [
        *_smaller_model(use_case, sides, shares, smaller, verdict),
        *_caches(use_case, sides, shares, price, rate, verdict),
        *_deferred(use_case, sides, shares, verdict),
    ]
    worth = [lever for lever in found if lever.monthly_worth > 0]
    return sorted(worth, key=lambda lever: lever.monthly_worth, reverse=True)


def _smaller_model(
    use_case: UseCase,
    sides: Sides,
    shares: LeverShares,
    smaller: Smaller | None,
    verdict: Choice,
) -> Iterator[Lever]:
    if smaller is None or verdict is Choice.HOSTED:
        return
    saved = (sides.local.per_work - smaller.per_work) * decimal(sides.local.work)
    yield Lever(
        lever=f"answer low-risk requests with {smaller.model}",
        monthly_worth=cents(saved * decimal(shares.low_risk)),
        assumption=f"{shares.low_risk:.0%} of the requests are low-risk (costs.levers.low_risk), "
        "and the GPUs that this frees serve something else",
    )
    if use_case.fallback is None:
        return
    over = decimal(sides.local.work * sides.traffic.burst_share)
    yield Lever(
        lever=f"let the fallback {smaller.model} answer in bursts",
        monthly_worth=cents(sides.local.burst - over * smaller.per_work),
        assumption=f"{sides.traffic.burst_share:.1%} of the requests exceed a usual day's busiest "
        "hour, and the GPUs for bursts serve something else",
    )


def _caches(  # noqa: PLR0913, PLR0917 - as `levers`
    use_case: UseCase,
    sides: Sides,
    shares: LeverShares,
    price: HostedPrice | None,
    rate: Decimal,
    verdict: Choice,
) -> Iterator[Lever]:
    requests, prompt = decimal(sides.traffic.requests), decimal(use_case.tokens.prompt_mean)
    repeated = requests * prompt * decimal(shares.cached_prompt)
    if verdict is Choice.HOSTED and price is not None:
        cached = price.cached_input_per_1m_tokens
        off = Decimal(0) if cached is None else (price.input_per_1m_tokens - cached) * rate
        prompts = repeated * off / MILLION
        answers, _ = sides.monthly(Choice.HOSTED)
    else:
        prompts = repeated * decimal(PROMPT_TOKEN_WORK) * sides.local.per_work
        answers = sides.local.per_work * decimal(work_of_request(use_case.tokens)) * requests
    yield Lever(
        lever="cache the beginnings of prompts",
        monthly_worth=cents(prompts),
        assumption=f"{shares.cached_prompt:.0%} of the prompt tokens repeat "
        "(costs.levers.cached_prompt), and cost nothing locally, the cached price when hosted",
    )
    yield Lever(
        lever="cache whole answers",
        monthly_worth=cents(answers * decimal(shares.cached_answer)),
        assumption=f"{shares.cached_answer:.0%} of the requests repeat an earlier one "
        "(costs.levers.cached_answer)",
    )


def _deferred(
    use_case: UseCase, sides: Sides, shares: LeverShares, verdict: Choice
) -> Iterator[Lever]:
    if use_case.class_ is not ServingClass.BATCH or verdict is Choice.HOSTED:
        return
    over = 1 - decimal(sides.traffic.mean_over_peak)
    yield Lever(
        lever="batch asynchronous work into quiet hours",
        monthly_worth=cents(sides.local.monthly * over * decimal(shares.deferrable)),
        assumption=f"{shares.deferrable:.0%} of the requests may wait until after a peak "
        f"(costs.levers.deferrable), so GPUs for the mean rate are enough: "
        f"{sides.traffic.mean_over_peak:.0%} of those for the highest declared peak",
    )
