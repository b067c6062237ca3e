"""Closed forms of queueing, at values that textbooks print."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.capacity.queueing import (
    erlang_b,
    erlang_c,
    ggc_mean_wait_s,
    md1_mean_wait_s,
    mmc_mean_wait_s,
    mmc_wait_quantile_s,
    processor_sharing_mean_s,
    replicas_by_erlang_c,
    replicas_by_rate,
    replicas_by_square_root,
)


def test_erlang_b_and_c_are_those_of_the_tables() -> None:
    assert erlang_b(2, 1.0) == pytest.approx(0.2)
    assert erlang_b(10, 5.0) == pytest.approx(0.01838, abs=5e-6)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(10, 8.0) == pytest.approx(0.4092, abs=5e-5)


def test_one_server_waits_as_m_m_1_does() -> None:
    assert mmc_mean_wait_s(1, 0.8, 1.0) == pytest.approx(0.8 / 0.2)
    assert processor_sharing_mean_s(0.8, 1.0) == pytest.approx(1 / 0.2)
    assert md1_mean_wait_s(0.8, 1.0) == pytest.approx(mmc_mean_wait_s(1, 0.8, 1.0) / 2)


@given(servers=st.integers(1, 200), load=st.floats(0.05, 0.99), share=st.floats(0.5, 0.999))
def test_the_quantile_of_the_wait_is_where_its_tail_says(
    servers: int, load: float, share: float
) -> None:
    rate_rps = servers * load
    wait_s = mmc_wait_quantile_s(servers, rate_rps, 1.0, share)
    beyond = erlang_c(servers, rate_rps) * math.exp(-(servers - rate_rps) * wait_s)
    assert beyond <= 1 - share + 1e-9
    if wait_s > 0:
        assert beyond == pytest.approx(1 - share)


@given(servers=st.integers(1, 100), load=st.floats(0.05, 0.95))
def test_allen_cunneen_is_exact_where_both_sides_are_exponential(servers: int, load: float) -> None:
    wait_s = ggc_mean_wait_s(servers, servers * load, 1.0, arrival_scv=1.0, service_scv=1.0)
    assert wait_s == mmc_mean_wait_s(servers, servers * load, 1.0)


def test_nothing_holds_an_overload() -> None:
    assert erlang_c(3, 3.0) == 1.0
    for wait_s in (
        mmc_mean_wait_s(2, 2.0, 1.0),
        mmc_wait_quantile_s(2, 3.0, 1.0, 0.95),
        md1_mean_wait_s(1.0, 1.0),
        processor_sharing_mean_s(2.0, 1.0),
    ):
        assert wait_s == math.inf


def test_the_rules_of_thumb_give_what_their_authors_print() -> None:
    assert replicas_by_rate(50, 8) == 7
    assert replicas_by_rate(56, 8) == 7
    # Load 6.25, root 2.5, 1.645 of it: 10.36.
    assert replicas_by_square_root(50, 8) == 11


@given(rate_rps=st.floats(0.1, 500), limit_s=st.floats(0.001, 20))
def test_the_rule_by_erlang_c_is_the_fewest_that_hold(rate_rps: float, limit_s: float) -> None:
    replicas = replicas_by_erlang_c(rate_rps, 8.0, limit_s)
    assert mmc_wait_quantile_s(replicas, rate_rps, 1 / 8, 0.95) <= limit_s
    assert mmc_wait_quantile_s(replicas - 1, rate_rps, 1 / 8, 0.95) > limit_s or replicas == 1
