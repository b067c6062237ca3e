"""What a drill for real finds out before it hits production; clusters stand in for real ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from tests.conftest import small_fleet
from tests.contract.stand_in_cluster import StandIn
from tests.stand_in_replica import stand_in_replica

from gpufleet.core.drills.production import TAKEN_BY, mark_of
from gpufleet.core.drills.stage import NAMESPACE
from gpufleet.core.vocabulary import POOL
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.drills import for_real_play, production
from gpufleet.flows.drills import stage as stages
from gpufleet.flows.drills.for_real_plan import plan_for_real
from gpufleet.flows.drills.for_real_play import ForRealPlay
from gpufleet.flows.drills.for_real_scripts import for_real_script
from gpufleet.flows.drills.production import Production
from gpufleet.flows.drills.production_stage import ProductionStage
from gpufleet.flows.drills.stage import Stage
from gpufleet.flows.drills.story import Story
from gpufleet.flows.ground import Ground
from gpufleet.spec.drills import Cordoned, DrillPlan, ForReal, Outlook, Placed, Reason, Scaled
from gpufleet.spec.errors import BadInput, Failed, FleetError, Retryable
from gpufleet.spec.reports import AnswerRow
from gpufleet.spec.simulation import Fault, SimulatedReplica

if TYPE_CHECKING:
    from gpufleet.flows.durable import Run
    from gpufleet.flows.gateway_answers import Asking

FLOW, OTHER = "drill-for-real-1", "drill-for-real-0"
EAST, WEST = "east", "west"
NAMESPACE_PATH = f"/api/v1/namespaces/{NAMESPACE}"
WORKLOAD = "/apis/apps/v1/namespaces/gpufleet-interactive/deployments/answers"


class Fields(StandIn):
    """A cluster that also takes single fields, whoever owns them."""

    def set_fields(self, path: str, body: dict[str, Any], manager: str) -> None:
        del manager
        for part, content in body.items():
            there = self.objects.setdefault(path, {}).setdefault(part, {})
            for name, value in content.items():
                there[name] = {**there.get(name, {}), **value} if isinstance(value, dict) else value


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    opened = Ground.open(Workspace(tmp_path), PROJECT_ROOT / "fleets/article/production.yaml")
    yield replace(opened, fleet=small_fleet(EAST, WEST))
    opened.close()


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fields]:
    made = {site: Fields() for site in (EAST, WEST)}
    monkeypatch.setattr(stages, "cluster_of", lambda _fleet, _state, site: made[site])
    return made


def taken(**more: object) -> Scaled:
    about = {
        "pool": "answers",
        "site": EAST,
        "node_group": "east-h100",
        "reason": Reason.LOST,
        "kind": "Deployment",
        "namespace": "gpufleet-interactive",
        "before": 2,
        "left": 0,
    }
    return Scaled.model_validate({**about, **more})


def test_what_another_drill_has_taken_is_taken_by_no_second_one(
    ground: Ground, clusters: dict[str, Fields]
) -> None:
    clusters[EAST].objects[WORKLOAD] = {"metadata": {}, "spec": {"replicas": 2}}
    Production(ground, OTHER, EAST).scale_away(taken())
    # Tried again it finds its own mark.
    Production(ground, OTHER, EAST).scale_away(taken())
    with pytest.raises(Failed, match=f"{mark_of(OTHER)} has taken it"):
        Production(ground, FLOW, EAST).scale_away(taken(before=0))
    found = clusters[EAST].objects[WORKLOAD]
    assert found["metadata"]["annotations"][TAKEN_BY] == mark_of(OTHER)


@dataclass
class Flow:
    """A flow of which nobody reads the journal."""

    ground: Ground
    id: str = FLOW
    actor: str = "mara"

    def note(self, event: str, **_: object) -> None:
        """Nobody reads it."""


@dataclass
class Gateway:
    """A gateway that answers for everything."""

    def until_answered(
        self, use_case: str, until: float, stopped: Callable[[], bool]
    ) -> AnswerRow | FleetError:
        del until, stopped
        return AnswerRow(
            use_case=use_case,
            route="primary",
            reason="",
            model="any",
            request_id="r",
            ttft_s=0.1,
            seconds=0.2,
            text="Yes.",
        )


@dataclass
class Agent:
    """What runs at a site, and what was ended there."""

    running: list[SimulatedReplica] = field(default_factory=list)
    ended: list[Fault] = field(default_factory=list)

    def replicas(self) -> list[SimulatedReplica]:
        return self.running

    def inject(self, fault: Fault) -> list[SimulatedReplica]:
        self.ended.append(fault)
        return [each for each in self.running if each.pod == fault.pod]


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    made = Agent()
    monkeypatch.setattr(production, "AgentClient", lambda _state, _site: made)
    return made


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sites whose clusters were told that there is no freeze."""
    found: list[str] = []
    monkeypatch.setattr(for_real_play, "demand_open", lambda *_args, **_more: None)
    monkeypatch.setattr(
        for_real_play, "demand_told", lambda _ground, plan: found.extend(plan.sites)
    )
    return found


def placed(pool: str, site: str) -> Placed:
    return Placed(
        pool=pool,
        site=site,
        node_group=f"{site}-h100",
        replicas=1,
        nodes_per_replica=1,
        gpus_per_node=1,
    )


def playing(ground: Ground, *pools: str) -> ForRealPlay:
    """A drill of the loss of `east` that has begun, and has taken nothing yet."""
    plan = DrillPlan(
        fleet=ground.fleet.fleet,
        environment=ground.fleet.environment,
        fleet_digest=f"sha256:{'0' * 64}",
        scenario="site-lost",
        target=EAST,
        use_cases=["answers"],
        lost=[placed(pool, EAST) for pool in pools],
        placed=[placed(pool, WEST) for pool in pools],
        unheld={},
        notes=[],
        outlook=Outlook(phases=[], recovered_s=1, rto_s=60, source="", remedies=[]),
        for_real=ForReal(
            scaled=[taken(pool=pool) for pool in pools], at_most_s=600, approvals_needed=1
        ),
    )
    run = cast("Run", Flow(ground))
    story = Story(run, plan, "")
    story.begin()
    story.visited()
    stage = ProductionStage(ground, FLOW, plan.scenario)
    script = for_real_script(ground, plan, stage, story)
    return ForRealPlay(run, plan, story, stage, cast("Asking", Gateway()), script)


def test_what_is_in_the_way_of_the_stage_is_found_before_anything_fails(
    ground: Ground, clusters: dict[str, Fields]
) -> None:
    play = playing(ground, "answers")
    Stage(ground, OTHER, "site-lost").announce(WEST)
    with pytest.raises(Retryable, match="another drill is still there"):
        play._steady()
    clusters[WEST].objects.clear()
    clusters[WEST].is_silent = True
    with pytest.raises(Retryable, match="does not answer"):
        play._steady()
    clusters[WEST].is_silent = False
    assert play._steady() == ["answers"]
    assert all(NAMESPACE_PATH in each.objects for each in clusters.values())


def test_a_pool_without_a_replica_keeps_every_other_from_failing(
    ground: Ground, agent: Agent, told: list[str]
) -> None:
    answers = ground.fleet.pools["answers"]
    pools = {"answers": answers, "search": answers.model_copy(update={"use_cases": []})}
    fleet = ground.fleet.model_copy(update={"pools": pools})
    play = playing(replace(ground, fleet=fleet), "answers", "search")
    agent.running = [
        stand_in_replica("answers", "a-1"),
        stand_in_replica("search", "s-1", "gpufleet-drill"),
    ]
    with pytest.raises(Failed, match="no replica that could fail is there of search"):
        play._fail(["answers"], ground.clock())
    assert agent.ended == []
    agent.running.append(stand_in_replica("search", "s-2"))
    play._fail(["answers"], ground.clock())
    assert {each.pod for each in agent.ended} == {"a-1", "s-2"}
    # Both times, and before: what is taken next is admitted by the clusters.
    assert told == 2 * [EAST, WEST]


@pytest.mark.parametrize("later", [timedelta(0), timedelta(minutes=11)])
def test_a_drill_that_was_interrupted_before_the_failure_hits_nothing(
    ground: Ground, agent: Agent, told: list[str], later: timedelta
) -> None:
    now = ground.clock() + later
    play = playing(ground, "answers")
    agent.running = [stand_in_replica("answers", "a-1")]
    if not later:
        play.story.visited()
    resumed = replace(play, run=cast("Run", Flow(replace(ground, clock=lambda: now))))
    with pytest.raises(Failed, match="was interrupted before the failure"):
        resumed._fail(["answers"], now)
    assert agent.ended == []
    assert told == []


def lost_pod(**more: object) -> Cordoned:
    about = {
        "site": EAST,
        "node": "n1",
        "pool": "answers",
        "namespace": "gpufleet-interactive",
        "pod": "a-1",
        "uid": "first",
        "before": 1,
    }
    return Cordoned.model_validate({**about, **more})


def pod(uid: str) -> dict[str, Any]:
    """A ready replica, always of the same name."""
    return {
        "metadata": {
            "name": "a-1",
            "namespace": "gpufleet-interactive",
            "uid": uid,
            "labels": {POOL: "answers"},
        },
        "spec": {"nodeName": "n1"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


def test_a_replica_that_is_made_again_is_known_from_the_lost_one_whatever_its_name(
    ground: Ground, clusters: dict[str, Fields]
) -> None:
    play = playing(ground, "answers")
    real = ForReal(cordoned=lost_pod(), at_most_s=600, approvals_needed=1)
    play.story.took(real)
    path = "/api/v1/namespaces/gpufleet-interactive/pods/a-1"
    clusters[EAST].objects[path] = pod("first")
    assert play.stage.ready_pools(EAST) == {}
    Production(ground, FLOW, EAST).remove(lost_pod())
    assert path not in clusters[EAST].objects
    # Tried again it finds the new one, which stays and counts.
    clusters[EAST].objects[path] = pod("second")
    Production(ground, FLOW, EAST).remove(lost_pod())
    assert path in clusters[EAST].objects
    assert play.stage.ready_pools(EAST) == {"answers": 1}


def test_a_replica_that_spans_nodes_is_no_lost_gpu_of_production(ground: Ground) -> None:
    answers = ground.fleet.pools["answers"]
    wide = {g: p.model_copy(update={"nodes_per_replica": 2}) for g, p in answers.placements.items()}
    pools = {"answers": answers.model_copy(update={"placements": wide})}
    spanning = replace(ground, fleet=ground.fleet.model_copy(update={"pools": pools}))
    with pytest.raises(BadInput, match="spans nodes"):
        plan_for_real(spanning, "gpu-lost", f"answers@{EAST}")
