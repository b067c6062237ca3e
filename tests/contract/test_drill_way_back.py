"""Production is given back whoever does not answer, and whoever is gone: clusters stand in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from tests.conftest import small_fleet
from tests.contract.stand_in_cluster import StandIn
from tests.stand_in_replica import stand_in_replica

from gpufleet.core import vocabulary as names
from gpufleet.core.drills.production import GOES_FIRST, TAKEN_BY, mark_of
from gpufleet.core.drills.stage import DRILL, NAMESPACE
from gpufleet.core.patching.nodes import CORDONED_BY
from gpufleet.edges.code_version import code_version
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.drills import for_real, keeper, production
from gpufleet.flows.drills import stage as stages
from gpufleet.flows.drills.for_real_play import ForRealPlay
from gpufleet.flows.drills.objects import ANYWHERE
from gpufleet.flows.drills.production_stage import ProductionStage
from gpufleet.flows.drills.returning import Returning
from gpufleet.flows.drills.story import Story
from gpufleet.flows.durable import Run
from gpufleet.flows.ground import Ground
from gpufleet.flows.operations import OpenFlow, nobody_s
from gpufleet.spec.drills import (
    Cordoned,
    DrillPlan,
    DrillReport,
    DrillState,
    ForReal,
    Outlook,
    Placed,
    Reason,
    Scaled,
    UseCaseRecovery,
)
from gpufleet.spec.errors import Failed, FleetError, Retryable
from gpufleet.spec.records import Claim
from gpufleet.spec.simulation import STAYS_DOWN, SimulatedReplica

T = TypeVar("T")
FLOW = "drill-for-real-1"
SITES = ("east", "west", "north")
EAST, WEST, NORTH = SITES
NAMESPACE_PATH = f"/api/v1/namespaces/{NAMESPACE}"
AT_MOST_S = 600.0


@dataclass
class Site(StandIn):
    """One that also merges, and is silent to whatever is asked."""

    def set_fields(self, path: str, body: dict[str, Any], manager: str) -> dict[str, Any]:
        self._demand_answer()
        self.objects[path] = merged(self.objects[path], body)
        return self.objects[path] | {"manager": manager}

    def items(self, path: str, *, labels: str = "") -> list[dict[str, Any]]:
        self._demand_answer()
        return super().items(path, labels=labels)

    def delete(self, path: str, *, at_once: bool = False) -> None:
        self._demand_answer()
        super().delete(path, at_once=at_once)

    def _demand_answer(self) -> None:
        if self.is_silent:
            raise Retryable("does not answer")


def merged(thing: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """As of a JSON merge patch (RFC 7396)."""
    made = dict(thing)
    for name, content in patch.items():
        if content is None:
            made.pop(name, None)
        elif isinstance(content, dict):
            made[name] = merged(made.get(name) or {}, content)
        else:
            made[name] = content
    return made


@dataclass
class Flow:
    """A flow whose steps are tried once."""

    ground: Ground
    id: str = FLOW
    actor: str = "mara"
    noted: list[tuple[str, object]] = field(default_factory=list)
    waited: list[timedelta] | None = None
    """How long it would wait for each lease, where somebody else has them."""

    def step(self, name: str, work: Callable[[], T]) -> T:
        del name
        return work()

    @contextmanager
    def holding(self, target: str, *, within: timedelta) -> Iterator[None]:
        if self.waited is not None:
            self.waited.append(within)
            raise Retryable("another flow holds it", where=target)
        yield

    def note(self, event: str, **body: object) -> None:
        self.noted.append((event, body.get("outcome")))


@dataclass
class Agent:
    """A node agent."""

    site: Site

    def replicas(self) -> list[SimulatedReplica]:
        found = []
        for path, pod in self.site.objects.items():
            if "/pods/" in path:
                about = pod["metadata"]
                pool, faults = about["labels"][names.POOL], pod.get("faults", [])
                found.append(stand_in_replica(pool, about["name"], faults=faults))
        return found


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    opened = Ground.open(Workspace(tmp_path), PROJECT_ROOT / "fleets/article/production.yaml")
    yield replace(opened, fleet=small_fleet(*SITES))
    opened.close()


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> dict[str, Site]:
    made = {site: Site() for site in SITES}
    monkeypatch.setattr(stages, "cluster_of", lambda _fleet, _state, site: made[site])
    monkeypatch.setattr(production, "AgentClient", lambda _state, site: Agent(made[site]))
    return made


def path_of(taken: Scaled) -> str:
    return f"/apis/apps/v1/namespaces/{taken.namespace}/deployments/{taken.pool}"


def taken(site: str, pool: str = "answers", reason: Reason = Reason.LOST, **more: Any) -> Scaled:  # noqa: ANN401 - any field
    batch = reason is Reason.YIELDS
    about = {
        "pool": pool,
        "site": site,
        "node_group": f"{site}-h100",
        "reason": reason,
        "kind": "Deployment",
        "namespace": names.BATCH_NAMESPACE if batch else names.INTERACTIVE_NAMESPACE,
        "before": 2,
        "left": 0,
    }
    return Scaled.model_validate(about | more)


def taken_at(clusters: dict[str, Site], *rows: Scaled) -> None:
    """What a drill has made smaller."""
    for each in rows:
        clusters[each.site].objects[path_of(each)] = {
            "metadata": {
                "name": each.pool,
                "resourceVersion": "1",
                "annotations": {TAKEN_BY: mark_of(FLOW)},
            },
            "spec": {"replicas": each.left},
            "status": {"readyReplicas": each.left},
        }


def stand(clusters: dict[str, Site], *sites: str) -> None:
    """What has come up instead."""
    for site in sites:
        clusters[site].objects[NAMESPACE_PATH] = {
            "metadata": {"name": NAMESPACE, "labels": {DRILL: FLOW}}
        }


def serves(clusters: dict[str, Site], row: Scaled, ready: int) -> None:
    clusters[row.site].objects[path_of(row)]["status"]["readyReplicas"] = ready


def told(clusters: dict[str, Site], row: Scaled) -> int:
    return int(clusters[row.site].objects[path_of(row)]["spec"]["replicas"])


def begun(ground: Ground, *rows: Scaled, **more: Any) -> DrillReport:  # noqa: ANN401 - any field
    """A drill for real that has hit production."""
    placed = Placed(
        pool="answers",
        site=WEST,
        node_group="west-h100",
        replicas=1,
        nodes_per_replica=1,
        gpus_per_node=1,
    )
    real = ForReal(scaled=list(rows), at_most_s=AT_MOST_S, approvals_needed=1)
    about: dict[str, Any] = {
        "flow": FLOW,
        "scenario": "site-lost",
        "target": EAST,
        "actor": "mara",
        "begun_at": ground.clock(),
        "outlook": Outlook(phases=[], recovered_s=1, rto_s=60, source="", remedies=[]),
        "placed": [placed],
        "for_real": real,
    }
    ground.drills.begin(DrillReport.model_validate(about | more))
    return ground.drills.report(FLOW)


def way_back(ground: Ground) -> Returning:
    found = Returning.of(ground, ground.drills.report(FLOW))
    assert found is not None
    return found


@pytest.mark.parametrize("silent", [WEST, NORTH])
def test_what_was_lost_is_told_to_come_back_whichever_other_site_is_silent(
    ground: Ground, clusters: dict[str, Site], silent: str
) -> None:
    lost, yields = taken(EAST), taken(WEST, "mail", Reason.YIELDS, before=4, left=2)
    taken_at(clusters, lost, yields)
    begun(ground, lost, yields)
    clusters[silent].is_silent = True
    with suppress(Retryable):
        way_back(ground).proceed()
    assert told(clusters, lost) == lost.before


def test_a_lost_site_that_is_silent_keeps_no_other_from_coming_back(
    ground: Ground, clusters: dict[str, Site]
) -> None:
    lost, other = taken(EAST), taken(NORTH)
    taken_at(clusters, lost, other)
    begun(ground, lost, other)
    clusters[EAST].is_silent = True
    with pytest.raises(Retryable):
        way_back(ground).proceed()
    assert told(clusters, other) == other.before


def test_a_site_that_the_drill_never_touched_keeps_no_gpu_from_batch(
    ground: Ground, clusters: dict[str, Site]
) -> None:
    lost, yields = taken(EAST), taken(WEST, "mail", Reason.YIELDS, before=4, left=2)
    taken_at(clusters, lost, yields)
    stand(clusters, EAST, WEST)
    begun(ground, lost, yields)
    serves(clusters, lost, 2)
    clusters[NORTH].is_silent = True
    assert way_back(ground).proceed() == ""
    with pytest.raises(Retryable):
        way_back(ground).clean()
    assert NAMESPACE_PATH not in clusters[WEST].objects
    assert told(clusters, yields) == yields.before


@pytest.mark.parametrize(
    ("before", "ready", "serve", "back"),
    [
        (3, 2, 1, False),
        (3, 2, 2, True),
        (3, None, 2, False),
        (2, 3, 2, True),
    ],
)
def test_a_pool_that_was_not_whole_before_is_back_once_as_many_serve(
    ground: Ground,
    clusters: dict[str, Site],
    before: int,
    ready: int | None,
    serve: int,
    back: bool,  # noqa: FBT001 - a case
) -> None:
    lost = taken(EAST, before=before, ready=ready)
    taken_at(clusters, lost)
    begun(ground, lost)
    serves(clusters, lost, serve)
    assert (way_back(ground).proceed() == "") is back


def losing_one(ground: Ground, clusters: dict[str, Site], *, ready: int) -> Cordoned:
    """A drill of a lost GPU: one of two replicas is lost, and so many are ready."""
    lost = Cordoned(
        site=EAST,
        node="east-h100-001",
        pool="answers",
        namespace=names.INTERACTIVE_NAMESPACE,
        pod="answers-0",
        before=2,
    )
    cluster = clusters[EAST]
    cluster.objects[f"/api/v1/nodes/{lost.node}"] = {
        "metadata": {
            "name": lost.node,
            "resourceVersion": "1",
            "annotations": {CORDONED_BY: mark_of(FLOW)},
        },
        "spec": {"unschedulable": True},
    }
    cluster.objects[path_of(taken(EAST))] = {"metadata": {}, "spec": {"replicas": 2}}
    for number in range(1, ready + 1):
        name = f"answers-{number}"
        cluster.objects[f"/api/v1/namespaces/{lost.namespace}/pods/{name}"] = {
            "metadata": {
                "name": name,
                "uid": f"uid-of-{name}",
                "namespace": lost.namespace,
                "labels": {names.POOL: lost.pool},
            },
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }
    real = ForReal(cordoned=lost, at_most_s=AT_MOST_S, approvals_needed=1)
    begun(ground, scenario="gpu-lost", for_real=real, placed=[])
    return lost


def test_a_lost_gpu_s_pool_is_back_only_once_its_replica_is_there_again(
    ground: Ground, clusters: dict[str, Site]
) -> None:
    lost = losing_one(ground, clusters, ready=1)
    assert "answers at east" in way_back(ground).proceed()
    node = clusters[EAST].objects[f"/api/v1/nodes/{lost.node}"]
    assert not node["spec"].get("unschedulable")
    assert CORDONED_BY not in node["metadata"]["annotations"]
    # Its pool is told to have one alone meanwhile: more are not waited for.
    clusters[EAST].objects[path_of(taken(EAST))]["spec"]["replicas"] = 1
    assert way_back(ground).proceed() == ""


def test_a_lost_gpu_s_pool_is_back_with_as_many_replicas_as_before(
    ground: Ground, clusters: dict[str, Site]
) -> None:
    losing_one(ground, clusters, ready=2)
    assert way_back(ground).proceed() == ""


def test_what_the_drill_has_ended_comes_up_at_once_whenever_it_is_cut_short(
    ground: Ground, clusters: dict[str, Site]
) -> None:
    """The failure was there, and nothing was kept away yet: no mark tells of it."""
    losing_one(ground, clusters, ready=2)
    path = f"/api/v1/namespaces/{names.INTERACTIVE_NAMESPACE}/pods"
    clusters[EAST].objects[f"{path}/answers-1"]["faults"] = [STAYS_DOWN]
    # Its cluster says that it is ready still.
    assert "answers at east" in way_back(ground).proceed()
    assert {at for at in clusters[EAST].objects if "/pods/" in at} == {f"{path}/answers-2"}


def test_a_pod_that_stayed_goes_before_no_other_once_batch_has_its_gpus_back(
    ground: Ground, clusters: dict[str, Site]
) -> None:
    gone, stayed, other = "mail-1", "mail-2", "mail-3"
    yields = taken(WEST, "mail", Reason.YIELDS, before=4, left=2, pods=[gone, stayed])
    taken_at(clusters, yields)
    pods = {name: f"/api/v1/namespaces/{yields.namespace}/pods/{name}" for name in (stayed, other)}
    for (name, path), cost in zip(pods.items(), ("-1000000", "7"), strict=True):
        clusters[WEST].objects[path] = {
            "metadata": {"name": name, "annotations": {GOES_FIRST: cost}}
        }
    begun(ground, yields)
    assert way_back(ground).proceed() == ""
    objects = clusters[WEST].objects
    assert objects[pods[stayed]]["metadata"]["annotations"] == {}
    assert objects[pods[other]]["metadata"]["annotations"] == {GOES_FIRST: "7"}
    assert told(clusters, yields) == yields.before


def test_a_node_that_somebody_has_uncordoned_keeps_no_mark_of_a_drill(
    ground: Ground, clusters: dict[str, Site]
) -> None:
    lost = losing_one(ground, clusters, ready=2)
    node = clusters[EAST].objects[f"/api/v1/nodes/{lost.node}"]
    node["spec"]["unschedulable"] = False
    assert way_back(ground).proceed() == ""
    node = clusters[EAST].objects[f"/api/v1/nodes/{lost.node}"]
    assert CORDONED_BY not in node["metadata"]["annotations"]


def test_a_node_that_is_gone_is_one_clear_error(ground: Ground, clusters: dict[str, Site]) -> None:
    lost = losing_one(ground, clusters, ready=2)
    del clusters[EAST].objects[f"/api/v1/nodes/{lost.node}"]
    with pytest.raises(Failed, match="is gone"):
        production.Production(ground, FLOW, EAST).cordon(lost)


def test_the_keeper_ends_a_drill_before_it_gives_anything_back(
    ground: Ground, clusters: dict[str, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a step that goes on still would take what was given back already."""
    monkeypatch.setattr(keeper, "open_flows", lambda _: [])
    lost = taken(EAST)
    taken_at(clusters, lost)
    begun(ground, lost)
    with pytest.raises(Retryable, match="not every replica is ready"):
        keeper.strike_left(ground)
    report = ground.drills.report(FLOW)
    assert (report.state, report.cleaned) == (DrillState.CANCELLED, False)
    assert report.given_back_at is None
    with pytest.raises(Failed, match="has ended"):
        ProductionStage(ground, FLOW, "site-lost").keep_away()
    assert told(clusters, lost) == lost.before


def test_production_is_hit_until_it_is_as_before_and_not_until_all_is_tidy(
    ground: Ground, clusters: dict[str, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "open_flows", lambda _: [])
    lost = taken(EAST)
    taken_at(clusters, lost)
    begun(ground, lost)
    clusters[NORTH].is_silent = True
    with suppress(Retryable):
        keeper.strike_left(ground)
    assert keeper.hitting(ground) == {("site-lost", EAST)}
    serves(clusters, lost, 2)
    with pytest.raises(Retryable, match="does not answer"):
        keeper.strike_left(ground)
    assert keeper.hitting(ground) == set()
    given_back_at = ground.drills.report(FLOW).given_back_at
    assert given_back_at is not None
    assert not ground.drills.report(FLOW).cleaned
    clusters[NORTH].is_silent = False
    assert keeper.strike_left(ground) == [FLOW]
    report = ground.drills.report(FLOW)
    assert (report.cleaned, report.given_back_at) == (True, given_back_at)


def plan_of(report: DrillReport) -> DrillPlan:
    return DrillPlan(
        fleet="small",
        environment="production",
        fleet_digest=f"sha256:{'0' * 64}",
        scenario=report.scenario,
        target=report.target,
        use_cases=["answers"],
        lost=[],
        placed=report.placed,
        unheld={},
        notes=[],
        outlook=report.outlook,
        for_real=report.for_real,
    )


def met(_run: Run, _plan: DrillPlan, story: Story) -> None:
    """Played: every objective was met."""
    row = UseCaseRecovery(
        use_case="answers", pool="answers", rto_s=60, rpo_s=60, recovered_s=9, lost_s=0
    )
    story.came_back([row])


def test_a_drill_that_was_met_is_met_however_long_the_way_back_takes(
    ground: Ground, clusters: dict[str, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(for_real, "_play", met)
    monkeypatch.setattr(for_real, "BACK_WITHIN_S", 0.0)
    monkeypatch.setattr(keeper, "open_flows", lambda _: [])
    lost = taken(EAST)
    taken_at(clusters, lost)
    plan, flow = plan_of(begun(ground, lost)), Flow(ground)
    with pytest.raises(Retryable, match="not every replica is ready"):
        for_real._drill(cast("Run", flow), plan, "")
    report = ground.drills.report(FLOW)
    assert (report.state, report.met, report.given_back_at) == (DrillState.MET, True, None)
    assert flow.noted[-1] == ("drill.ended", "met")
    # A worker that takes it over goes on with the way back.
    serves(clusters, lost, 2)
    for_real._drill(cast("Run", flow), plan, "")
    report = ground.drills.report(FLOW)
    assert (report.state, report.cleaned) == (DrillState.MET, True)
    assert report.given_back_at is not None


def test_a_step_that_went_on_after_the_keeper_leaves_the_drill_open(
    ground: Ground, clusters: dict[str, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    del clusters
    monkeypatch.setattr(keeper, "open_flows", lambda _: [])
    lost = taken(EAST)
    plan = plan_of(begun(ground, lost))
    assert keeper.strike_left(ground) == [FLOW]
    Story(cast("Run", Flow(ground)), plan, "").broken(DrillState.CANCELLED, "was cancelled")
    assert [each.flow for each in ground.drills.reports(only_open=True)] == [FLOW]
    assert keeper.hitting(ground) == {("site-lost", EAST)}


@pytest.fixture
def cancelled(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The flows that were cancelled; the drill's is open, and of another version of the code."""
    found: list[str] = []
    flow = OpenFlow(FLOW, "drill-for-real", {}, ground.clock(), "an-older-one", "other")
    monkeypatch.setattr(keeper, "open_flows", lambda _: [] if found else [flow])
    monkeypatch.setattr(keeper, "cancel", lambda _, id_: found.append(id_))
    return found


def test_a_drill_that_no_worker_takes_up_again_is_given_back(
    ground: Ground, clusters: dict[str, Site], cancelled: list[str]
) -> None:
    """As after an upgrade: a worker of another version of the code does not go on with it."""
    lost = taken(EAST)
    taken_at(clusters, lost)
    begun(ground, lost)
    claim = Claim(target="executor:other", owner="other", holder="other")
    fence = ground.leases.acquire(claim)
    assert keeper.strike_left(ground) == []
    assert (told(clusters, lost), cancelled) == (0, [])
    ground.leases.abandon(fence)
    serves(clusters, lost, 2)
    assert keeper.strike_left(ground) == [FLOW]
    assert (told(clusters, lost), cancelled) == (lost.before, [FLOW])


@pytest.mark.parametrize(
    ("since_s", "on_way", "ends"),
    [
        (AT_MOST_S - 1, False, False),
        (AT_MOST_S + 60, False, True),
        (AT_MOST_S + 60, True, False),
    ],
)
def test_a_drill_that_hits_production_longer_than_approved_is_cut_short_and_given_back(
    ground: Ground,
    clusters: dict[str, Site],
    cancelled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    since_s: float,
    on_way: bool,  # noqa: FBT001 - a case
    ends: bool,  # noqa: FBT001 - a case
) -> None:
    monkeypatch.setattr(keeper, "nobody_s", lambda _ground, _flows: set())
    lost = taken(EAST)
    taken_at(clusters, lost)
    serves(clusters, lost, 2)
    now = ground.clock()
    failed_at = now - timedelta(seconds=since_s)
    ended_at = now if on_way else None
    begun(
        ground,
        lost,
        begun_at=failed_at - timedelta(hours=1),
        failed_at=failed_at,
        ended_at=ended_at,
    )
    assert keeper.strike_left(ground) == ([FLOW] if ends else [])
    assert cancelled == ([FLOW] if ends else [])
    assert told(clusters, lost) == (lost.before if ends else lost.left)
    notes = ground.drills.report(FLOW).notes
    assert notes == (["took longer than was approved"] if ends else [])


def test_a_flow_of_this_version_is_left_to_whoever_takes_it_up(ground: Ground) -> None:
    flows = [
        OpenFlow("mine", "", {}, ground.clock(), code_version(), "gone"),
        OpenFlow("other", "", {}, ground.clock(), "an-older-one", "gone"),
    ]
    assert nobody_s(ground, flows) == {"other"}


@pytest.mark.parametrize("announced", [False, True])
def test_a_drill_that_does_not_get_its_leases_back_gives_production_back_at_once(
    ground: Ground,
    clusters: dict[str, Site],
    monkeypatch: pytest.MonkeyPatch,
    announced: bool,  # noqa: FBT001 - a case
) -> None:
    monkeypatch.setattr(for_real, "wait_approved", lambda *_args, **_more: None)
    monkeypatch.setattr(for_real, "BACK_WITHIN_S", 0.0)
    lost = taken(EAST)
    taken_at(clusters, lost)
    plan = plan_of(begun(ground, lost))
    flow = Flow(ground, id=FLOW if announced else "another", waited=[])
    with suppress(FleetError):
        for_real.drill_for_real(cast("Run", flow), {"plan": plan.model_dump(mode="json")})
    assert told(clusters, lost) == (lost.before if announced else lost.left)
    assert flow.noted[-1] == (("drill.ended", "failed") if announced else ("drill.refused", None))
    assert flow.waited == [timedelta() if announced else timedelta(minutes=10)]


def played(ground: Ground, clusters: dict[str, Site], since_s: float) -> ForRealPlay:
    """A drill that has hit production for so long."""
    lost = taken(EAST)
    taken_at(clusters, lost)
    report = begun(ground, lost, failed_at=ground.clock() - timedelta(seconds=since_s))
    run, plan = cast("Run", Flow(ground)), plan_of(report)
    stage = ProductionStage(ground, FLOW, report.scenario)
    nothing: Any = None
    return ForRealPlay(run, plan, Story(run, plan, ""), stage, nothing, nothing)


@pytest.mark.parametrize(
    "phase",
    [
        lambda play: play._keep_away(),
        lambda play: play._detect([], ""),
        lambda play: play._provision(play._fleet, [], ""),
        lambda play: play._serve(play._fleet, [], ANYWHERE, play.run.ground.clock()),
    ],
)
def test_no_phase_begins_once_production_was_hit_for_as_long_as_was_approved(
    ground: Ground, clusters: dict[str, Site], phase: Callable[[ForRealPlay], object]
) -> None:
    with pytest.raises(Failed, match="longer than was approved"):
        phase(played(ground, clusters, AT_MOST_S + 1))


def test_nobody_waits_for_replicas_longer_than_was_approved(
    ground: Ground, clusters: dict[str, Site]
) -> None:
    play = played(ground, clusters, AT_MOST_S - 5)
    assert 0 < play._patience_s(ground.clock()) <= 5
