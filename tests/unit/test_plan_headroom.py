"""What has to be there beyond the peak."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import poisson

from gpufleet.core.capacity.headroom import (
    Failures,
    kept_available,
    poisson_quantile,
    repair_s,
    wave_nodes,
)
from gpufleet.core.serving import disruptions
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet

SAMPLE = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")


@given(mean=st.floats(0, 5000), probability=st.floats(0.01, 0.99999))
def test_the_quantile_is_the_one_of_the_statistics_library(mean: float, probability: float) -> None:
    k = poisson_quantile(mean, probability)
    assert poisson.cdf(k, mean) >= probability - 1e-9
    assert k == 0 or poisson.cdf(k - 1, mean) < probability + 1e-9


def test_spares_follow_from_failures_a_year_and_the_time_to_repair() -> None:
    broken = Failures(
        gpus=1000, annual_failure_rate=0.09, repair_s=365 / 10 * 86_400, availability=0.99
    )
    assert broken.mean == pytest.approx(9)
    assert broken.spares == 17  # P(X <= 16) = 0.9889, P(X <= 17) = 0.9947 for a mean of 9


@given(
    gpus=st.integers(0, 5000),
    more=st.integers(0, 500),
    days=st.floats(0, 400),
    availability=st.floats(0.5, 0.9999),
)
def test_more_gpus_and_slower_repairs_never_need_fewer_spares(
    gpus: int, more: int, days: float, availability: float
) -> None:
    few = Failures(gpus, 0.09, days * 86_400, availability)
    many = Failures(gpus + more, 0.09, (days + 10) * 86_400, availability)
    assert few.spares <= many.spares
    assert few.spares <= Failures(gpus, 0.09, days * 86_400, (1 + availability) / 2).spares


def test_the_slowest_supplier_of_a_pool_decides_its_repair_time() -> None:
    assert repair_s(SAMPLE, ["fra1-chat"]) == SAMPLE.suppliers["northstar"].rma_turnaround_s
    both = repair_s(SAMPLE, ["fra1-chat", "fra1-legal"])
    assert both == max(supplier.rma_turnaround_s for supplier in SAMPLE.suppliers.values())


@pytest.mark.parametrize(("nodes", "away"), [(1, 1), (8, 1), (39, 1), (40, 2), (200, 10)])
def test_a_wave_is_one_node_and_then_five_percent(nodes: int, away: int) -> None:
    group = SAMPLE.node_groups["fra1-chat"].model_copy(update={"nodes": nodes})
    assert wave_nodes(group) == away


@given(replicas=st.integers(1, 500), percent=st.integers(1, 100))
def test_what_stays_available_is_what_the_disruption_budget_leaves(
    replicas: int, percent: int
) -> None:
    kept = kept_available(replicas, percent / 100)
    assert kept >= replicas * percent / 100 - 1e-6
    allowed = disruptions(replicas, percent / 100)
    assert allowed == 1 or replicas - allowed in {kept, kept + 1}
