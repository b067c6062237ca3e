"""Which hosted model could serve a use case, and what a request of it costs in our currency."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Final

from gpufleet.core.cost.hardware import decimal
from gpufleet.spec.errors import BadInput, PolicyRefused
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.prices import HostedPrice, ModelSize, PriceTable
from gpufleet.spec.serving import DataClass, ModelRevision, UseCase

SMALL_PARAMETERS: Final = 12e9
MEDIUM_PARAMETERS: Final = 150e9
"""Parameters up to which a model of our own counts as small or medium."""


def demand_fresh(fleet: Fleet, table: PriceTable, day: date) -> None:
    """Refuse to decide by prices that are older than the fleet file allows.

    Raises:
        PolicyRefused: the table, or the exchange rate that it needs, is stale.
        BadInput: there is no exchange rate, or a day lies in the future.
    """
    _demand_day(fleet, table.priced, day, f"{table.source}: priced", "the hosted prices are")
    exchange_rate(fleet, table.currency, day)


def exchange_rate(fleet: Fleet, currency: str, day: date) -> Decimal:
    """What one unit of a currency is worth in the fleet's.

    Raises:
        BadInput: the fleet file declares no rate.
        PolicyRefused: the rate is stale.
    """
    if currency == fleet.currency:
        return Decimal(1)
    where = f"exchange_rates.{currency}"
    if (declared := fleet.exchange_rates.get(currency)) is None:
        raise BadInput(
            f"hosted prices are in {currency}, the fleet's currency is {fleet.currency}, and no "
            "rate is declared",
            where=where,
            mend=f"declare it: exchange_rates: {{{currency}: {{rate: ..., day: {day}}}}}",
        )
    _demand_day(fleet, declared.day, day, where, "the exchange rate is")
    return decimal(declared.rate)


def comparable(use_case: UseCase, model: ModelRevision, table: PriceTable) -> HostedPrice | None:
    """The hosted model that a use case is compared with; None where the table has none.

    The declared one. Else the cheapest that serves the same weights; else the cheapest of the same
    size. The context has to hold a long request.

    Raises:
        BadInput: the declared one is not in the table.
    """
    if use_case.hosted is not None:
        declared = table.of(use_case.hosted.provider, use_case.hosted.model)
        if declared is None:
            raise BadInput(
                f"there is no price of {use_case.hosted.provider} {use_case.hosted.model}",
                where=table.source,
                mend="add a line for it, or declare a hosted model that the table has",
            )
        return declared
    tokens = use_case.tokens
    needed = tokens.prompt_p95 + tokens.output_max
    fitting = [price for price in table.prices if price.context_tokens >= needed]
    same = [price for price in fitting if price.weights == model.model]
    alike = same or [price for price in fitting if price.size is size_of(model)]
    return min(
        alike,
        key=lambda price: price.of_request(tokens.prompt_mean, tokens.output_mean),
        default=None,
    )


def size_of(model: ModelRevision) -> ModelSize:
    """The size class of a model of our own."""
    if model.parameters <= SMALL_PARAMETERS:
        return ModelSize.SMALL
    return ModelSize.MEDIUM if model.parameters <= MEDIUM_PARAMETERS else ModelSize.LARGE


def forbidden(use_case: UseCase) -> str:
    """Why a use case's data may not leave; empty where it may."""
    if use_case.data_class is DataClass.RESTRICTED:
        return "restricted data never leaves"
    if use_case.data_class is DataClass.CONFIDENTIAL and use_case.hosted is None:
        return "confidential data leaves only where `hosted` is declared"
    return ""


def _demand_day(fleet: Fleet, made: date, day: date, where: str, what: str) -> None:
    age = day - made
    if age < timedelta():
        raise BadInput(f"{what} of {made}, which is after today ({day})", where=where)
    if age > timedelta(seconds=fleet.costs.prices_stale_after_s):
        days = fleet.costs.prices_stale_after_s / 86_400
        raise PolicyRefused(
            f"{what} of {made}, {age.days} days old, and decide nothing after {days:g} days",
            where=where,
            mend="name newer ones (`costs.hosted_prices`, `exchange_rates`), or declare a longer "
            "`costs.prices_stale_after_s`",
        )
