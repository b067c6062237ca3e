"""From the fleet file to a changed preview: a plan is applied, and nothing else is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.cloned import Clone

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
ARTICLE = "fleets/article/production.yaml"


@pytest.fixture(scope="module")
def article(clone: Clone) -> Iterator[Clone]:
    """The article's fleet, up."""
    clone.json("up", "--fleet", ARTICLE)
    yield clone
    plan_file(clone).unlink(missing_ok=True)


def plan_file(clone: Clone) -> Path:
    return clone.root / "fleets/article/production.plan.yaml"


def changes(clone: Clone) -> set[tuple[str, str]]:
    """Kind and name of everything that `up` would change."""
    stacks = clone.json("preview", "--fleet", ARTICLE)["stacks"]
    return {(change["kind"], change["name"]) for stack in stacks for change in stack["changes"]}


def test_without_apply_nothing_is_written(article: Clone) -> None:
    told = article.json("plan.apply", "--fleet", ARTICLE)
    assert told["changes"]
    assert not told["written"]
    assert not plan_file(article).exists()
    assert changes(article) == set()


def test_the_next_preview_shows_what_the_plan_sets_and_nothing_else(article: Clone) -> None:
    (pool,) = article.json("plan.capacity", "--fleet", ARTICLE)["pools"]
    assert (pool["replicas_min"], pool["replicas_max"]) == (7, 9)
    assert article.json("plan.apply", "--apply", "--fleet", ARTICLE)["written"]
    shown = changes(article)
    assert ("ScaledObject", "answers-scale") in shown
    assert ("ResourceQuota", "gpufleet-interactive") in shown
    assert not {kind for kind, _ in shown} & {"Namespace", "Service", "NetworkPolicy"}


def test_a_second_apply_changes_nothing(article: Clone) -> None:
    before = plan_file(article).read_bytes()
    again = article.json("plan.apply", "--apply", "--fleet", ARTICLE)
    assert not again["written"]
    assert again["changes"] == []
    assert plan_file(article).read_bytes() == before


def test_a_change_tells_gpus_cost_and_risk_before_anything_is_applied(article: Clone) -> None:
    capacity = article.json("change", "--fleet", ARTICLE)["capacity"]
    assert (capacity["gpus_before"], capacity["gpus_after"]) == (10, 9)
    assert float(capacity["cost_monthly_after"]) < float(capacity["cost_monthly_before"])


def test_after_up_the_cluster_has_the_plan_s_numbers(article: Clone) -> None:
    article.fleet("up", "--fleet", ARTICLE)
    article.use(ARTICLE)
    scaled = article.kubectl("main", "-n", "gpufleet-interactive", "get", "scaledobject", "answers")
    assert (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]) == (7, 9)
    assert changes(article) == set()
