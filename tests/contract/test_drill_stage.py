"""The stage of a drill is struck whole, and nothing beside it: clusters stand in for real ones."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import small_fleet
from tests.contract.stand_in_cluster import StandIn

from gpufleet.core.drills.stage import DRILL, NAMESPACE, PRIORITY_CLASS, stage_fleet
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows import access
from gpufleet.flows.drills import keeper
from gpufleet.flows.drills import stage as stages
from gpufleet.flows.drills.stage import Stage, staged
from gpufleet.flows.ground import Ground
from gpufleet.local.engine.settings import ENGINES_FILE, write_engines
from gpufleet.local.engine_specs import engine_specs
from gpufleet.local.gpu_board import GPUS_FILE, write_gpus
from gpufleet.spec import Fleet
from gpufleet.spec.access import KeyRequest
from gpufleet.spec.drills import DrillReport, DrillState, Outlook, Placed
from gpufleet.spec.errors import Retryable

NAMESPACE_PATH = f"/api/v1/namespaces/{NAMESPACE}"
PRIORITY_PATH = f"/apis/scheduling.k8s.io/v1/priorityclasses/{PRIORITY_CLASS}"
SITES = ("east", "west")


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    opened = Ground.open(Workspace(tmp_path), PROJECT_ROOT / "fleets/article/production.yaml")
    yield replace(opened, fleet=small_fleet(*SITES))
    opened.close()


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> dict[str, StandIn]:
    made = {site: StandIn() for site in SITES}
    monkeypatch.setattr(stages, "cluster_of", lambda _fleet, _state, site: made[site])
    return made


def drill(ground: Ground, flow: str) -> Stage:
    """A drill that has begun."""
    ground.drills.begin(
        DrillReport(
            flow=flow,
            scenario="site-lost",
            target="east",
            actor="mara",
            begun_at=ground.clock(),
            outlook=Outlook(phases=[], recovered_s=1, rto_s=60, source="", remedies=[]),
        )
    )
    return Stage(ground, flow, "site-lost")


def stand_ins(ground: Ground) -> Fleet:
    """The fleet of one stand-in at `east`."""
    where = Placed(
        pool="answers",
        site="east",
        node_group="east-h100",
        replicas=1,
        nodes_per_replica=1,
        gpus_per_node=1,
    )
    return stage_fleet(ground.fleet, [where])


def key(ground: Ground) -> str:
    """A key for the stand-ins."""
    name, case = next(iter(stand_ins(ground).use_cases.items()))
    request = KeyRequest(team=case.team, use_cases=[name], expires_in_s=600)
    return access.issue(staged(ground, stand_ins(ground)), request).key.id


def declared(ground: Ground, fleet: Fleet) -> None:
    """What `up` writes of simulated replicas."""
    for site in SITES:
        write_engines(ground.state.site(site), engine_specs(fleet, site))
        write_gpus(ground.state.site(site), fleet, site)


def pools(ground: Ground, site: str) -> dict[str, list[str]]:
    """The pools that a site's files tell of."""
    folder = ground.state.site(site)
    return {
        name: [row["pool"] for row in json.loads((folder / name).read_text())]
        for name in (ENGINES_FILE, GPUS_FILE)
    }


def test_striking_a_drill_ends_its_keys_and_no_key_of_another(
    ground: Ground, clusters: dict[str, StandIn]
) -> None:
    first, second = drill(ground, "drill-1"), drill(ground, "drill-2")
    mine, others = key(ground), key(ground)
    ground.drills.change("drill-1", lambda told: told.model_copy(update={"keys": [mine]}))
    ground.drills.change("drill-2", lambda told: told.model_copy(update={"keys": [others]}))
    first.strike()
    assert access.found(ground, mine).revoked_at is not None
    assert access.found(ground, others).revoked_at is None
    second.strike()
    assert access.found(ground, others).revoked_at is not None
    assert not any(each.objects for each in clusters.values())


def test_striking_a_drill_leaves_the_stage_and_the_engines_of_another(
    ground: Ground, clusters: dict[str, StandIn]
) -> None:
    declared(ground, ground.fleet)
    playing, waiting = drill(ground, "drill-1"), drill(ground, "drill-2")
    playing.set_up(stand_ins(ground), "east", started=True)
    before = dict(clusters["east"].objects)
    waiting.strike()
    assert clusters["east"].objects == before
    both = ["answers", "drill-answers"]
    assert pools(ground, "east") == {ENGINES_FILE: both, GPUS_FILE: both}
    playing.strike()
    assert not clusters["east"].objects
    assert pools(ground, "east") == {ENGINES_FILE: ["answers"], GPUS_FILE: ["answers"]}


def test_what_up_declares_while_a_drill_goes_on_stays(
    ground: Ground, clusters: dict[str, StandIn]
) -> None:
    declared(ground, ground.fleet)
    playing = drill(ground, "drill-1")
    playing.set_up(stand_ins(ground), "east", started=True)
    answers = ground.fleet.pools["answers"]
    now = ground.fleet.model_copy(update={"pools": {"answers": answers, "chat": answers}})
    declared(ground, now)
    playing.set_up(stand_ins(ground), "east", started=True)
    three = ["answers", "chat", "drill-answers"]
    assert pools(ground, "east") == {ENGINES_FILE: three, GPUS_FILE: three}
    playing.strike()
    two = ["answers", "chat"]
    assert pools(ground, "east") == {ENGINES_FILE: two, GPUS_FILE: two}
    assert not clusters["east"].objects


def test_engines_of_a_stage_go_even_where_an_earlier_strike_was_cut_short(
    ground: Ground, clusters: dict[str, StandIn]
) -> None:
    declared(ground, ground.fleet)
    playing = drill(ground, "drill-1")
    playing.set_up(stand_ins(ground), "east", started=True)
    clusters["east"].delete(NAMESPACE_PATH)
    with pytest.raises(Retryable, match="another drill is still there"):
        drill(ground, "drill-2").set_up(stand_ins(ground), "east", started=True)
    playing.strike()
    assert PRIORITY_PATH not in clusters["east"].objects
    assert pools(ground, "east") == {ENGINES_FILE: ["answers"], GPUS_FILE: ["answers"]}


def test_a_site_that_does_not_answer_keeps_nothing_else_from_being_struck(
    ground: Ground, clusters: dict[str, StandIn]
) -> None:
    playing, made = drill(ground, "drill-1"), key(ground)
    ground.drills.change("drill-1", lambda told: told.model_copy(update={"keys": [made]}))
    for site in SITES:
        playing.set_up(stand_ins(ground), site, started=True)
    playing.folder.mkdir(parents=True)
    clusters["east"].is_silent = True
    with pytest.raises(Retryable, match="does not answer"):
        playing.strike()
    assert not clusters["west"].objects
    assert not playing.folder.exists()
    assert access.found(ground, made).revoked_at is not None


def test_a_node_of_the_drills_own_goes_with_its_stage_and_so_do_the_pods_that_it_holds(
    ground: Ground, clusters: dict[str, StandIn]
) -> None:
    east, flow = clusters["east"], "drill-1"
    playing = drill(ground, flow)
    playing.set_up(stand_ins(ground), "east", started=True)
    for node, label in (("east-h100-drill", flow), ("east-h100-001", "")):
        labels = {DRILL: label} if label else {}
        east.create("/api/v1/nodes", {"metadata": {"name": node, "labels": labels}})
        pod = {"metadata": {"name": f"on-{node}", "labels": {DRILL: flow}}}
        east.create(f"{NAMESPACE_PATH}/pods", {**pod, "spec": {"nodeName": node}})
    east.held = {f"{NAMESPACE_PATH}/pods/on-east-h100-drill"}
    playing.strike()
    # Its node does not let it go: nobody waits for that. Every other node does by itself.
    assert east.at_once == [f"{NAMESPACE_PATH}/pods/on-east-h100-drill"]
    assert set(east.objects) == {"/api/v1/nodes/east-h100-001"}


def test_a_drill_that_cannot_be_struck_keeps_no_other_from_it(
    ground: Ground, clusters: dict[str, StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "open_flows", lambda _: [])
    drill(ground, "drill-1")
    drill(ground, "drill-2").set_up(stand_ins(ground), "west", started=True)
    strike, silent = Stage.strike, ["drill-1"]

    def struck(stage: Stage) -> None:
        if stage.flow in silent:
            raise Retryable("does not answer")
        strike(stage)

    monkeypatch.setattr(Stage, "strike", struck)
    for flows in (["drill-1"], ["drill-2"]):
        silent[:] = flows
        with suppress(Retryable):
            keeper.strike_left(ground)
    assert not clusters["west"].objects
    assert ground.drills.reports(only_open=True) == []


def test_a_drill_that_ends_while_the_keeper_looks_keeps_its_verdict(
    ground: Ground, clusters: dict[str, StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, ended_at = drill(ground, "drill-1"), ground.clock()
    stage.set_up(stand_ins(ground), "east", started=True)

    def ends(_: Ground) -> list[object]:
        met = {"state": DrillState.MET, "met": True, "ended_at": ended_at}
        ground.drills.change("drill-1", lambda told: told.model_copy(update=met))
        return []

    monkeypatch.setattr(keeper, "open_flows", ends)
    assert keeper.strike_left(ground) == ["drill-1"]
    report = ground.drills.report("drill-1")
    assert (report.state, report.cleaned, report.ended_at) == (DrillState.MET, True, ended_at)
    drill(ground, "drill-2")
    monkeypatch.setattr(keeper, "open_flows", lambda _: [])
    assert keeper.strike_left(ground) == ["drill-2"]
    assert ground.drills.report("drill-2").state is DrillState.CANCELLED
    assert not clusters["east"].objects
