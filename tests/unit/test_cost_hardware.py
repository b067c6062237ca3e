"""What one GPU costs in an hour, by hand."""

from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.cost.hardware import HOURS_PER_MONTH, gpu_hour, owned_gpus, written_off
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet


@pytest.fixture(scope="module")
def article() -> Fleet:
    return load_fleet(PROJECT_ROOT / Path("fleets/article/production.yaml"))


@pytest.fixture(scope="module")
def sample() -> Fleet:
    return load_fleet(PROJECT_ROOT / Path("fleets/sample/production.yaml"))


def test_the_article_s_gpu_hour_is_what_a_person_computes(article: Fleet) -> None:
    cost = gpu_hour(article, "h100")
    # 290,000 x 1.15 / 8 GPUs / (4 x 8,760 h)
    assert cost.amortization.quantize(Decimal("0.000001")) == Decimal("1.189712")
    # 700 W x 1.3 x 0.21 per kWh
    assert cost.power_at(1) == Decimal("0.1911")
    # a fifth of 700 W without work
    assert cost.power_at(0) == Decimal("0.03822")
    assert cost.power_at(0.6) == Decimal("0.129948")
    assert cost.facility == 0
    assert cost.oncall == 0
    assert cost.total(0.6).quantize(Decimal("0.000001")) == Decimal("1.319660")


def test_facility_node_and_shifts_are_spread_over_gpus(sample: Fleet) -> None:
    cost = gpu_hour(sample, "fra1-chat")
    # 700 W and an eighth of 1,400 W are 0.875 kW, at 145 per kW and month of 730 h
    assert cost.facility == Decimal("0.875") * 145 / 730
    assert cost.full_w == 875
    assert cost.idle_w == Decimal(140) + 175
    # 9,800 + 4,200 a month
    assert owned_gpus(sample) == 512
    assert cost.oncall == Decimal(14_000) / 512 / 730


def test_every_gpu_carries_its_share_of_on_call_and_no_more(sample: Fleet) -> None:
    monthly = sum(
        gpu_hour(sample, name).oncall * group.gpus * HOURS_PER_MONTH
        for name, group in sample.node_groups.items()
    )
    assert round(monthly, 9) == 14_000


def test_hardware_that_is_written_off_costs_no_amortization(article: Fleet) -> None:
    last = written_off(article.node_groups["h100"])
    assert last == date(2030, 2, 1)
    day_before = gpu_hour(article, "h100", day=last - timedelta(days=1))
    assert day_before.amortization == gpu_hour(article, "h100").amortization > 0
    assert gpu_hour(article, "h100", day=last).amortization == 0
    assert gpu_hour(article, "h100", day=last).power_at(1) > 0


@given(low=st.floats(0, 1), high=st.floats(0, 1))
def test_more_work_never_draws_less(sample: Fleet, low: float, high: float) -> None:
    low, high = sorted((low, high))
    for name in sample.node_groups:
        cost = gpu_hour(sample, name)
        assert cost.idle_w <= cost.watts_at(low) <= cost.watts_at(high) <= cost.full_w
        assert cost.total(low) <= cost.total(high)
