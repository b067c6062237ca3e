"""Prices of hosted APIs: a dated table, built in or the company's own."""

import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Annotated, Final

from pydantic import Field, StringConstraints, ValidationError

from gpufleet.spec import forms
from gpufleet.spec.errors import BadInput
from gpufleet.spec.quantities import MAX_MONEY, Spec, Text, TokenCount
from gpufleet.spec.rows import read_rows

MILLION: Final = 1_000_000
_HEAD: Final = re.compile(r"#\s*(priced|currency):\s*(\S+)\s*")
Price = Annotated[Decimal, Field(ge=0, le=MAX_MONEY, allow_inf_nan=False)]
"""Of a million tokens."""


class ModelSize(StrEnum):
    """Which of a company's own models a hosted one may stand in for."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class HostedPrice(Spec):
    """What a million tokens cost, in the table's currency."""

    provider: Text
    model: Text
    size: ModelSize
    weights: str = ""
    """Public name of the open model that is served; empty for a closed one."""
    input_per_1m_tokens: Price
    output_per_1m_tokens: Price
    cached_input_per_1m_tokens: Price | None = None
    """Of prompt tokens that the provider has cached; None where it gives no discount."""
    context_tokens: TokenCount

    @property
    def name(self) -> str:
        """As a person calls it."""
        return f"{self.provider} {self.model}"

    def of_request(self, prompt_tokens: float, output_tokens: float) -> Decimal:
        """The price of one request, in the table's currency."""
        prompt = Decimal(str(prompt_tokens)) * self.input_per_1m_tokens
        return (prompt + Decimal(str(output_tokens)) * self.output_per_1m_tokens) / MILLION


class PriceTable(Spec):
    """Hosted prices of one day."""

    source: str
    """The file."""
    priced: date
    """Day on which the prices held."""
    currency: Annotated[str, StringConstraints(pattern=forms.CURRENCY)] = "USD"
    prices: list[HostedPrice]

    def of(self, provider: str, model: str) -> HostedPrice | None:
        """The price of one model; None where the table has none."""
        for price in self.prices:
            if (price.provider, price.model) == (provider, model):
                return price
        return None


@cache
def built_in_prices() -> PriceTable:
    """The prices that ship with gpufleet."""
    text = resources.files("gpufleet.spec").joinpath("hosted_prices.csv").read_text("utf-8")
    return read_prices(text, "gpufleet/spec/hosted_prices.csv")


def read_prices(text: str, source: str) -> PriceTable:
    """A price table from CSV: a head of `# priced: YYYY-MM-DD`, then one line for each model.

    Args:
        text: of the file.
        source: its name in errors.

    Raises:
        BadInput: with the line and what is wrong with it.
    """
    head = {match[1]: match[2] for match in map(_HEAD.fullmatch, text.splitlines()) if match}
    if "priced" not in head:
        mend = "begin it with the day of its prices, such as `# priced: 2026-11-12`"
        raise BadInput("does not say of which day its prices are", where=f"{source}:1", mend=mend)
    try:
        table = PriceTable.model_validate(
            {"source": source, **head, "prices": list(_prices(text, source))}
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        kind = "a day such as 2026-11-12" if field == "priced" else "a currency such as USD"
        where = f"{source}:1: {field}"
        raise BadInput(f"`{first['input']!s:.40}` is not {kind}", where=where) from None
    if not table.prices:
        raise BadInput("has no prices", where=source)
    return table


def _prices(text: str, source: str) -> Iterator[HostedPrice]:
    seen: dict[tuple[str, str], str] = {}
    for where, price in read_rows(text, source, HostedPrice):
        if (first := seen.setdefault((price.provider, price.model), where)) != where:
            raise BadInput(f"{price.name} stands in {first} already", where=where)
        yield price
