"""Budgets that bind: what goes over one is refused, with what would fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from gpufleet.core.cost.hardware import decimal
from gpufleet.core.cost.money import cents
from gpufleet.spec.errors import PolicyRefused
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.governance import Budget

_SHOWN: Final = 3


@dataclass(frozen=True)
class Spending:
    """What an environment would cost, in the fleet's currency."""

    monthly: Decimal
    """All that is owned and rented, without a buffer."""
    capital: Decimal = Decimal(0)
    """Purchases within a year."""
    hosted_monthly: Decimal = Decimal(0)
    """Hosted APIs alone; `monthly` holds it too."""


@dataclass(frozen=True)
class Option:
    """Something smaller, as a person would say it: `chat for 80 % of its peak`."""

    what: str
    spending: Spending


def overruns(fleet: Fleet, spending: Spending) -> list[str]:
    """A sentence for each cap that spending goes over; a fleet without a budget has no cap.

    `governance.cost_buffer` is added to what recurs, as to every forecast.
    """
    if fleet.budget is None:
        return []
    return list(_overruns(fleet, fleet.budget, spending))


def demand_within_budget(
    fleet: Fleet, spending: Spending, options: Sequence[Option] = (), *, where: str = "budget"
) -> None:
    """Refuse what goes over a budget, and say what fits.

    Args:
        fleet: declares the budget.
        spending: what is planned.
        options: smaller ones, best first.
        where: in the message; the budget's line of the fleet file where it is known.

    Raises:
        PolicyRefused: a cap does not hold.
    """
    over = overruns(fleet, spending)
    if not over:
        return
    fitting = [option.what for option in options if not overruns(fleet, option.spending)]
    mend = f"what fits: {'; or '.join(fitting[:_SHOWN])}"
    if not fitting:
        owner = fleet.budget.owner if fleet.budget else ""
        mend = f"plan less, or ask `{owner}` for more{'; nothing smaller fits' if options else ''}"
    raise PolicyRefused("; ".join(over), where=where, mend=mend)


def _overruns(fleet: Fleet, budget: Budget, spending: Spending) -> Iterator[str]:
    buffered = 1 + decimal(fleet.governance.cost_buffer)
    share = f"{fleet.governance.cost_buffer:.0%} buffer included"
    for amount, cap, what in (
        (spending.monthly * buffered, budget.monthly, f"costs {{}} a month ({share})"),
        (spending.capital, budget.capital_yearly, "needs hardware for {} within a year"),
        (
            spending.hosted_monthly * buffered,
            budget.hosted_monthly,
            f"costs {{}} a month at hosted APIs ({share})",
        ),
    ):
        if cents(amount) > cap:
            shown = what.format(f"{cents(amount):,} {fleet.currency}")
            yield f"{shown}, and the budget is {cap:,}"
