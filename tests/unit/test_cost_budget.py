"""Budgets that bind."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.cost.budget import Option, Spending, demand_within_budget, overruns
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import EXIT_POLICY, PolicyRefused


@pytest.fixture(scope="module")
def sample() -> Fleet:
    return load_fleet(PROJECT_ROOT / Path("fleets/sample/production.yaml"))


def test_a_budget_holds_to_the_cent_with_the_buffer_on_top(sample: Fleet) -> None:
    # 620,000 a month; 15 % on top of 539,130.43 are 619,999.99
    assert not overruns(sample, Spending(monthly=Decimal("539130.43")))
    assert overruns(sample, Spending(monthly=Decimal("539130.45")))


def test_what_is_over_is_refused_with_what_fits(sample: Fleet) -> None:
    large = Spending(monthly=Decimal(600_000), capital=Decimal(5_000_000))
    options = [
        Option("chat with 20 GPUs less", Spending(monthly=Decimal(560_000))),
        Option("chat with 40 GPUs less", Spending(monthly=Decimal(500_000))),
    ]
    with pytest.raises(PolicyRefused) as told:
        demand_within_budget(sample, large, options)
    assert told.value.exit_code == EXIT_POLICY
    assert "690,000.00 EUR a month (15% buffer included), and the budget is 620,000" in str(
        told.value
    )
    assert "hardware for 5,000,000.00 EUR" in told.value.what
    assert told.value.mend == "what fits: chat with 40 GPUs less"


def test_where_nothing_fits_that_is_said(sample: Fleet) -> None:
    large = Spending(Decimal(0), hosted_monthly=Decimal(10_000))
    with pytest.raises(PolicyRefused) as told:
        demand_within_budget(sample, large, [Option("less", large)])
    assert told.value.mend == "plan less, or ask `sofia` for more; nothing smaller fits"


def test_without_a_budget_nothing_binds(sample: Fleet) -> None:
    free = sample.model_copy(update={"budget": None})
    demand_within_budget(free, Spending(monthly=Decimal(10**9)))


@given(amount=st.decimals(0, 10**9, places=2), more=st.decimals(0, 10**9, places=2))
def test_more_never_fits_where_less_does_not(sample: Fleet, amount: Decimal, more: Decimal) -> None:
    if overruns(sample, Spending(monthly=amount)):
        assert overruns(sample, Spending(monthly=amount + more))
