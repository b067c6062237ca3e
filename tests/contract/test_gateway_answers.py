"""The end of `up`: every use case was answered, or the one that was not is named."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows import gateway_answers
from gpufleet.flows.access import listed
from gpufleet.flows.gateway_answers import ask, ask_each, reachable_use_cases, use_cases_at_rest
from gpufleet.flows.ground import Ground
from gpufleet.local.files import write_json
from gpufleet.local.gateway_layout import GatewayFiles
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import BadInput, Failed, TargetMissed
from gpufleet.spec.hardware import ExistingCluster

ARTICLE = PROJECT_ROOT / "fleets/article/production.yaml"
SAMPLE = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    """An environment whose gateway has a place, and is not there."""
    made = Ground.open(Workspace(tmp_path), ARTICLE)
    ports = {"gateway": 9, "gateway-control": 9}
    write_json(made.state.ports(), ports)
    GatewayFiles(made.state.gateway, ports, Path("/python")).certificate()
    yield made
    made.close()


def test_a_use_case_that_is_not_answered_in_time_is_named_and_its_keys_open_nothing(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_answers, "ANSWER_WITHIN_S", 0.1)
    told: list[object] = []
    with pytest.raises(TargetMissed, match="answers: the gateway does not answer") as missed:
        ask_each(ground, told.append, lambda: None)
    assert missed.value.where == "use case answers"
    assert "./fleet gateway.status" in missed.value.mend
    assert told
    (key,) = listed(ground)
    assert key.revoked_at is not None


def test_a_question_for_a_use_case_that_is_not_declared_makes_no_key(
    tmp_path: Path, ground: Ground
) -> None:
    with pytest.raises(BadInput, match="there is no use case `nothing`") as refused:
        ask(Workspace(tmp_path), ARTICLE, "nothing", "Hello")
    assert "answers" in refused.value.mend
    assert listed(ground) == []


def test_before_the_first_up_there_is_no_gateway_to_ask(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="no port yet") as failed:
        ask(Workspace(tmp_path), ARTICLE, "answers", "Hello")
    assert failed.value.mend == "run ./fleet up"


def test_use_cases_whose_pools_stand_on_other_clusters_only_are_not_asked_from_here() -> None:
    assert set(reachable_use_cases(SAMPLE)) == set(SAMPLE.use_cases)
    elsewhere = ExistingCluster(provider="existing", context="real")
    site = SAMPLE.sites["fra1"].model_copy(update={"cluster": elsewhere})
    half = SAMPLE.model_copy(update={"sites": {**SAMPLE.sites, "fra1": site}})
    # The pool for contracts stands in Frankfurt only.
    assert "contract-search" not in reachable_use_cases(half)
    assert "support-chat" in reachable_use_cases(half)
    at_home = SAMPLE.use_cases["support-chat"].model_copy(update={"residency": ["de"]})
    bound = half.model_copy(update={"use_cases": {**SAMPLE.use_cases, "support-chat": at_home}})
    assert "support-chat" not in reachable_use_cases(bound)


def test_a_use_case_without_a_steady_replica_is_not_waited_for_and_named() -> None:
    pool = SAMPLE.pools["chat"]
    at_rest = {
        group: placement.model_copy(update={"replicas": 0})
        for group, placement in pool.placements.items()
    }
    resting = pool.model_copy(update={"placements": at_rest})
    fleet = SAMPLE.model_copy(update={"pools": {**SAMPLE.pools, "chat": resting}})
    assert set(use_cases_at_rest(fleet)) == set(pool.use_cases)
    assert set(reachable_use_cases(fleet)) == set(SAMPLE.use_cases) - set(pool.use_cases)
    assert use_cases_at_rest(SAMPLE) == []


def test_a_gateway_that_does_not_start_is_told_at_once_and_its_keys_open_nothing(
    ground: Ground,
) -> None:
    looks: list[object] = []

    def failure() -> Failed | None:
        looks.append(None)
        return Failed("is not ready (restarting, 5 restarts)", where="gateway")

    with pytest.raises(Failed, match="5 restarts"):
        ask_each(ground, lambda _: None, failure)
    assert len(looks) == 1
    (key,) = listed(ground)
    assert key.revoked_at is not None
