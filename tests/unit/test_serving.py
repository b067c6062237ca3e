"""The numbers that follow from a pool's declaration."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.quotas import SitePlan
from gpufleet.core.serving import (
    STARTUP_MARGIN,
    disruptions,
    longest_generation_s,
    pools_at,
    startup_probe,
    surge,
)
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.checks import replicas_that_fit
from gpufleet.spec.serving import Placement


@pytest.fixture(scope="module")
def sample() -> Fleet:
    return load_fleet(PROJECT_ROOT / Path("fleets/sample/production.yaml"))


@given(
    nodes=st.integers(1, 40),
    gpus=st.integers(1, 8),
    spanned=st.integers(1, 4),
    replicas=st.integers(1, 60),
    extra=st.integers(0, 20),
)
def test_a_rollout_always_moves_and_never_asks_for_gpus_that_are_not_there(
    sample: Fleet, nodes: int, gpus: int, spanned: int, replicas: int, extra: int
) -> None:
    group = sample.node_groups["fra1-chat"].model_copy(update={"nodes": nodes})
    placement = Placement(
        replicas=replicas,
        max_replicas=replicas + extra,
        nodes_per_replica=spanned,
        gpus_per_node=gpus,
    )
    step = surge(placement, group)
    assert step.max_surge + step.max_unavailable >= 1
    spare = replicas_that_fit(placement, group) - placement.ceiling
    assert step.max_surge <= max(0, spare)
    if spare <= 0:
        assert (step.max_surge, step.max_unavailable) == (0, 1)


@given(replicas=st.integers(0, 500), share=st.floats(0.01, 1))
def test_a_disruption_budget_never_blocks_every_drain_and_keeps_the_share(
    replicas: int, share: float
) -> None:
    allowed = disruptions(replicas, share)
    assert allowed >= 1
    if allowed > 1:
        assert replicas - allowed >= replicas * share - 1e-9


def test_the_startup_budget_comes_from_the_measured_load_time(sample: Fleet) -> None:
    for model in sample.models.values():
        assert startup_probe(model).budget_s >= model.load_time_s * STARTUP_MARGIN


def test_the_drain_lasts_as_long_as_the_longest_generation(sample: Fleet) -> None:
    pool = sample.pools["documents"]
    slo = sample.use_cases["document-extraction"].slo
    tokens = sample.use_cases["document-extraction"].tokens
    per_token_s = (slo.p95_s - slo.ttft_p95_s) / tokens.output_p95
    wanted = slo.ttft_p95_s + per_token_s * tokens.output_max
    assert longest_generation_s(sample, pool) == pytest.approx(wanted, abs=1)
    for site in sample.sites:
        for placed in pools_at(sample, site):
            assert placed.grace_s > placed.drain_s


def test_a_fallback_pool_without_use_cases_drains_for_those_who_fall_back(sample: Fleet) -> None:
    alone = sample.pools["small"].model_copy(update={"use_cases": []})
    assert longest_generation_s(sample, alone) >= longest_generation_s(sample, sample.pools["chat"])


def test_a_replica_over_nodes_passes_its_parallelism_to_the_engine(sample: Fleet) -> None:
    reasoning = next(p for p in pools_at(sample, "fra1") if p.name == "reasoning")
    assert reasoning.spans_nodes
    assert "--tensor-parallel-size=8" in reasoning.arguments
    assert "--pipeline-parallel-size=2" in reasoning.arguments


def test_a_false_flag_is_left_out_and_a_true_one_has_no_value(sample: Fleet) -> None:
    reasoning = next(p for p in pools_at(sample, "fra1") if p.name == "reasoning")
    assert "--enable-expert-parallel" in reasoning.arguments
    assert not any("trust-remote-code" in argument for argument in reasoning.arguments)


def test_batch_is_never_autoscaled_and_never_in_the_interactive_quota(sample: Fleet) -> None:
    for site in sample.sites:
        plan = SitePlan.of(sample, site)
        batch = {p.group_name for p in pools_at(sample, site) if p.class_.value == "batch"}
        assert {quota.node_group for quota in plan.batch} == batch
        assert not any(p.autoscaled for p in pools_at(sample, site) if p.group_name in batch)
        interactive = [
            sample.node_groups[p.group_name]
            for p in pools_at(sample, site)
            if p.group_name not in batch
        ]
        assert plan.interactive_gpus <= sum(group.gpus for group in interactive)
