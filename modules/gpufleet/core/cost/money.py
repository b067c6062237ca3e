"""Amounts in whole cents that add up exactly, however they are split."""

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Final

CENT: Final = Decimal("0.01")
_UNIT_PRICE: Final = Decimal("0.000001")
_TASK_PRICE: Final = Decimal("0.000000001")
_THOUSAND: Final = 1000


def cents(amount: Decimal) -> Decimal:
    """An amount rounded to whole cents, halves to the even one."""
    return amount.quantize(CENT, ROUND_HALF_EVEN)


def unit_price(amount: Decimal) -> Decimal:
    """A price for one of many: cents are too coarse."""
    return amount.quantize(_UNIT_PRICE, ROUND_HALF_EVEN)


def task_price(amount: Decimal) -> Decimal:
    """A price for one task: a thousandth of what a thousand cost, to as many digits that count."""
    return amount.quantize(_TASK_PRICE, ROUND_HALF_EVEN)


def per_thousand(amount: Decimal, count: float) -> Decimal | None:
    """The price for a thousand; None where there was none."""
    if count <= 0:
        return None
    return unit_price(amount * _THOUSAND / Decimal(str(count)))


def split(total: Decimal, weights: Sequence[float | Decimal | Fraction]) -> list[Decimal]:
    """Shares of whole cents by weight that add up to `total` exactly.

    The largest remainders get the cents that rounding down leaves (Hamilton's method), the first of
    equal ones; so no share is off by a cent or more, and what weighs nothing gets nothing.

    Args:
        total: in whole cents; may be negative.
        weights: none negative; all may be zero where `total` is.
    """
    exact = [Fraction(weight) for weight in weights]
    whole = sum(exact) or Fraction(1)
    count = int(total / CENT)
    ideal = [weight / whole * abs(count) for weight in exact]
    shares = [int(share) for share in ideal]
    left = abs(count) - sum(shares)
    by_remainder = sorted(range(len(ideal)), key=lambda index: shares[index] - ideal[index])
    for index in by_remainder[:left]:
        shares[index] += 1
    sign = -1 if count < 0 else 1
    return [sign * share * CENT for share in shares]
