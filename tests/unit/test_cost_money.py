"""Amounts that add up, whatever they are split by."""

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.cost.money import CENT, split, task_price
from gpufleet.core.cost.variance import shapley

WEIGHTS = st.lists(st.floats(0, 1e12), min_size=1, max_size=40).filter(any)


@given(count=st.integers(-(10**12), 10**12), weights=WEIGHTS)
def test_a_split_adds_up_to_the_cent_and_is_fair_to_the_cent(
    count: int, weights: list[float]
) -> None:
    total = count * CENT
    shares = split(total, weights)
    assert sum(shares) == total
    whole = sum(Decimal(weight) for weight in weights)
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - total * Decimal(weight) / whole) < Decimal("0.01000001")
        assert weight or not share


def test_the_largest_remainders_get_the_cents_that_are_left() -> None:
    assert split(Decimal("1.00"), [1, 1, 1]) == [Decimal("0.34"), Decimal("0.33"), Decimal("0.33")]
    assert split(Decimal("-0.05"), [1, 3]) == [Decimal("-0.01"), Decimal("-0.04")]


def test_a_task_of_a_tiny_model_still_has_a_price() -> None:
    assert task_price(Decimal("0.0003") / 1000) == Decimal("0.0000003")
    assert task_price(Decimal("0.087825") / 1000) == Decimal("0.000087825")


def test_nothing_is_split_among_nobody() -> None:
    assert split(Decimal(0), [0, 0]) == [0, 0]


FACTORS = st.lists(st.fractions(0, 1000), min_size=4, max_size=4)


@given(before=FACTORS, after=FACTORS)
def test_the_parts_of_a_product_s_change_add_up_and_none_is_given_to_what_stayed(
    before: list[Fraction], after: list[Fraction]
) -> None:
    parts = shapley(before, after)
    product_before = product_after = Fraction(1)
    for old, new in zip(before, after, strict=True):
        product_before *= old
        product_after *= new
    assert sum(parts) == product_after - product_before
    for part, old, new in zip(parts, before, after, strict=True):
        assert old != new or part == 0
