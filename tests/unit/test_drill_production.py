"""What a drill for real hits, what yields for it, and in which order production is given back."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.approvals import needed_for
from gpufleet.core.drills.failover import failover
from gpufleet.core.drills.production import (
    PAUSED,
    TAKEN_BY,
    BatchPod,
    Return,
    demand_accepted_known,
    demand_held,
    demand_offered,
    mark_of,
    moved,
    needless,
    next_return,
    production_fleet,
    scaled_of,
    told_back,
    with_places,
    yielding,
)
from gpufleet.core.drills.stage import DRILL, FOR_REAL, PRIORITY_CLASS
from gpufleet.core.drills.verdict import trends
from gpufleet.core.drills.words import words
from gpufleet.core.monitoring.platform import _drills
from gpufleet.core.serving import pools_at
from gpufleet.edges.clock import system_clock
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.flows.drills.objects import contents, namespace
from gpufleet.reports.drill_page import drill_page
from gpufleet.spec import load_fleet
from gpufleet.spec.approvals import Action
from gpufleet.spec.drill_cadence import ScenarioName
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
)
from gpufleet.spec.errors import BadInput, PolicyRefused

SAMPLE = load_fleet(PROJECT_ROOT / "fleets" / "sample" / "production.yaml")
OUTLOOK = Outlook(phases=[], recovered_s=1, rto_s=60, source="", remedies=[])
GPUS = 8


def placed(gpus: int = 4, replicas: int = 1, nodes: int = 1, pool: str = "chat") -> Placed:
    return Placed(
        pool=pool,
        site="fra1",
        node_group="fra1-documents",
        replicas=replicas,
        nodes_per_replica=nodes,
        gpus_per_node=gpus,
        yields="documents",
    )


def scaled(
    reason: Reason = Reason.LOST, before: int = 2, left: int = 0, pool: str = "chat"
) -> Scaled:
    about = {
        "pool": pool,
        "site": "fra1",
        "node_group": "fra1-chat",
        "kind": "Deployment",
        "namespace": "gpufleet-interactive",
    }
    return Scaled.model_validate({**about, "reason": reason, "before": before, "left": left})


def plan(*rows: Scaled, **more: object) -> DrillPlan:
    real = ForReal(scaled=list(rows), at_most_s=600, approvals_needed=1)
    return DrillPlan(
        fleet="sample",
        environment="production",
        fleet_digest=f"sha256:{'0' * 64}",
        scenario="site-lost",
        target="fra1",
        use_cases=["support-chat"],
        lost=[],
        placed=[],
        unheld={},
        notes=[],
        outlook=OUTLOOK,
        for_real=real,
    ).model_copy(update=more)


@st.composite
def batch_nodes(
    draw: st.DrawFn,
) -> tuple[list[Placed], dict[str, int], list[BatchPod]]:
    """Nodes of a batch pool, its replicas on them, and what is to come up there: it fits."""
    each = draw(st.sampled_from([1, 2, 4, 8]))
    count = draw(st.integers(1, 4))
    free, pods = {}, []
    for node in range(count):
        here = draw(st.integers(0, GPUS // each))
        free[f"n{node}"] = GPUS - here * each
        pods += [BatchPod(f"p{node}-{at}", f"n{node}", each) for at in range(here)]
    gpus = draw(st.sampled_from([1, 2, 4, 8]))
    replicas = draw(st.integers(1, count * (GPUS // gpus)))
    return [placed(gpus, replicas)], free, pods


@given(batch_nodes())
def test_batch_yields_enough_and_only_what_is_there(
    situation: tuple[list[Placed], dict[str, int], list[BatchPod]],
) -> None:
    (wanted,), free, pods = situation
    gone = yielding([wanted], free, pods)
    by_name = {pod.name: pod for pod in pods}
    assert len(gone) == len(set(gone))
    after = dict(free)
    for name in gone:
        after[by_name[name].node] += by_name[name].gpus
    assert sum(left // wanted.gpus_per_node for left in after.values()) >= wanted.replicas


@given(batch_nodes())
def test_batch_yields_nothing_that_is_not_needed(
    situation: tuple[list[Placed], dict[str, int], list[BatchPod]],
) -> None:
    (wanted,), free, pods = situation
    gone = yielding([wanted], free, pods)
    by_name = {pod.name: pod for pod in pods}
    for spared in gone:
        after = dict(free)
        for name in gone:
            if name != spared:
                after[by_name[name].node] += by_name[name].gpus
        assert sum(left // wanted.gpus_per_node for left in after.values()) < wanted.replicas


def test_free_gpus_are_taken_before_any_batch_replica_goes() -> None:
    pods = [BatchPod("a", "n0", 4), BatchPod("b", "n0", 4)]
    assert yielding([placed(4)], {"n0": 0, "n1": 4}, pods) == []


def test_a_replica_over_two_nodes_gets_room_on_two_nodes() -> None:
    pods = [BatchPod("a", "n0", 8), BatchPod("b", "n1", 8), BatchPod("c", "n2", 4)]
    gone = yielding([placed(8, nodes=2)], {"n0": 0, "n1": 0, "n2": 4}, pods)
    assert len(gone) == 2
    assert "c" in gone


@dataclass(frozen=True)
class Standing:
    """How far production is as it was."""

    lost_told: bool
    lost_ready: bool
    replacement_gone: bool
    batch_told: bool


STANDINGS = [Standing(*flags) for flags in product((False, True), repeat=4)]


@pytest.mark.parametrize("standing", STANDINGS)
def test_what_came_up_goes_only_once_what_was_lost_serves(standing: Standing) -> None:
    if next_return(standing) is Return.REPLACEMENT:
        assert standing.lost_told
        assert standing.lost_ready


@pytest.mark.parametrize("standing", STANDINGS)
def test_batch_gets_its_gpus_back_only_when_what_came_up_is_gone(standing: Standing) -> None:
    if next_return(standing) is Return.BATCH:
        assert standing.replacement_gone


def test_giving_back_ends_with_everything_as_before() -> None:
    ended = [each for each in STANDINGS if next_return(each) is None]
    assert [set(vars(each).values()) for each in ended] == [{True}]


def workload(replicas: int, mark: str = "") -> dict[str, Any]:
    annotations = {"annotations": {TAKEN_BY: mark}} if mark else {}
    return {"kind": "Deployment", "metadata": annotations, "spec": {"replicas": replicas}}


def test_a_workload_is_told_its_earlier_number_by_whoever_took_it_alone() -> None:
    taken = scaled(before=3, left=0)
    assert told_back(taken, workload(0, mark_of("drill-1")), "drill-1") == 3
    assert told_back(taken, workload(0, mark_of("drill-2")), "drill-1") is None
    assert told_back(taken, workload(0), "drill-1") is None


def test_a_number_that_somebody_gave_meanwhile_stays() -> None:
    assert told_back(scaled(before=3), workload(5, mark_of("drill-1")), "drill-1") == 5


def test_what_autoscaling_was_paused_at_before_is_remembered() -> None:
    pool = next(each for each in pools_at(SAMPLE, "fra1") if each.name == "chat")
    scaler = {"metadata": {"annotations": {PAUSED: "7"}}}
    row = scaled_of(pool, workload(4), scaler, Reason.LOST)
    assert (row.before, row.left, row.autoscaled, row.paused) == (4, 0, True, "7")
    assert scaled_of(pool, workload(4), {"metadata": {}}, Reason.LOST).paused is None
    assert scaled_of(pool, workload(4), None, Reason.YIELDS, pods=["a"]).left == 3


def test_how_many_replicas_served_before_is_remembered() -> None:
    pool = next(each for each in pools_at(SAMPLE, "fra1") if each.name == "chat")
    not_whole = workload(4) | {"status": {"readyReplicas": 3}}
    assert scaled_of(pool, not_whole, None, Reason.LOST).ready == 3
    assert scaled_of(pool, workload(4), None, Reason.LOST).ready == 0


def test_what_comes_up_for_real_has_the_names_of_production_and_its_priority() -> None:
    free = {g: [n.gpus_per_node] * n.nodes for g, n in SAMPLE.node_groups.items()}
    found = failover(SAMPLE, "dub1", free)
    stage = production_fleet(SAMPLE, found.placed)
    assert set(stage.pools) <= set(SAMPLE.pools)
    made = list(contents(stage, "fra1", "drill-1", started=True, for_real=True))
    (one, *_) = (each for each in made if each["kind"] == "Deployment")
    pod = one["spec"]["template"]["spec"]
    assert pod["priorityClassName"] != PRIORITY_CLASS
    pool = next(each for each in pools_at(stage, "fra1") if each.name in one["metadata"]["name"])
    assert pod["terminationGracePeriodSeconds"] == pool.grace_s
    assert one["metadata"]["labels"][DRILL] == "drill-1"
    told = namespace("drill-1", "site-lost", for_real=True)[0]["metadata"]["annotations"]
    assert FOR_REAL in told
    assert FOR_REAL not in namespace("drill-1", "site-lost")[0]["metadata"]["annotations"]


def test_simulated_replicas_of_production_are_told_beside_those_that_come_up() -> None:
    more = production_fleet(SAMPLE, [placed(4, pool="chat")])
    both = with_places(SAMPLE, more)
    assert set(both.pools) == set(SAMPLE.pools)
    for name, pool in SAMPLE.pools.items():
        assert both.pools[name].placements.items() >= pool.placements.items()
    assert "fra1-documents" in both.pools["chat"].placements


@pytest.mark.parametrize("name", list(ScenarioName))
def test_a_scenario_that_cannot_be_given_back_is_not_drilled_for_real(name: ScenarioName) -> None:
    if name in {ScenarioName.SITE_LOST, ScenarioName.GPU_LOST}:
        demand_offered(name.value)
        return
    with pytest.raises(BadInput, match="not drilled for real"):
        demand_offered(name.value)


def test_a_use_case_that_would_be_down_has_to_be_accepted_by_name() -> None:
    down = plan(unheld={"search": "no GPUs", "mail": "residency"})
    with pytest.raises(PolicyRefused, match="search: no GPUs"):
        demand_held(down)
    accepted = ForReal(accepted=["search"], at_most_s=1, approvals_needed=1)
    with pytest.raises(PolicyRefused, match="mail: residency") as refused:
        demand_held(down.model_copy(update={"for_real": accepted}))
    assert "search" not in refused.value.what
    both = accepted.model_copy(update={"accepted": ["search", "mail"]})
    demand_held(down.model_copy(update={"for_real": both}))


def test_only_what_is_hit_can_be_accepted_to_be_down() -> None:
    demand_accepted_known(["a"], ["a", "b"])
    with pytest.raises(BadInput, match="`c` is not hit"):
        demand_accepted_known(["a", "c"], ["a", "b"])


def test_more_of_batch_or_another_pool_than_was_approved_is_found() -> None:
    approved = plan(scaled(before=2), scaled(Reason.YIELDS, 4, 3, pool="documents"))
    assert needless(approved, approved) == ""
    # Load moves the number of replicas that are lost.
    assert needless(approved, plan(scaled(before=5))) == ""
    assert "documents" in needless(approved, plan(scaled(Reason.YIELDS, 4, 2, pool="documents")))
    assert "code" in needless(approved, plan(scaled(pool="code")))
    assert "new" in needless(approved, plan(use_cases=["new"]))


def test_what_would_come_up_elsewhere_or_in_another_number_is_found() -> None:
    approved = plan(placed=[placed(replicas=2), placed(pool="code")])
    assert moved(approved, approved) == ""
    # In which order, and in how many rows, is all the same.
    assert moved(approved, plan(placed=[placed(pool="code"), placed(), placed()])) == ""
    fewer = moved(approved, plan(placed=[placed(), placed(pool="code")]))
    assert fewer == "1 replicas of pool chat at fra1 on fra1-documents, not 2"
    away = placed(pool="code").model_copy(update={"node_group": "fra1-spare", "yields": ""})
    told = moved(approved, plan(placed=[placed(replicas=2), away]))
    assert "0 replicas of pool code at fra1 on fra1-documents, not 1" in told
    assert "1 replicas of pool code at fra1 on fra1-spare, not 0" in told


def test_a_drill_for_real_takes_somebody_else_whatever_the_fleet_file_says() -> None:
    for wanted, needed in ((0, 1), (1, 1), (3, 3)):
        governance = SAMPLE.governance.model_copy(update={"approvals_required": wanted})
        assert needed_for(Action.DRILL, governance) == needed


def test_the_plan_says_in_words_what_is_hit_and_how_it_is_given_back() -> None:
    told = "\n".join(words(plan(scaled(), scaled(Reason.YIELDS, 4, 3, pool="documents"))))
    for wanted in (
        "production is hit at fra1",
        "all 2 replicas of pool chat on fra1-chat",
        "1 of 4 replicas of batch pool documents",
        "support-chat",
        "at most 10 min",
        "then batch has its GPUs again",
        "signatures of others: 1",
        "they count for 60 min",
    ):
        assert wanted in told
    lost = Cordoned(
        site="fra1", node="n1", pool="chat", namespace="any", pod="chat-7", uid="7", before=2
    )
    real = ForReal(cordoned=lost, at_most_s=60, approvals_needed=2)
    one = "\n".join(words(plan(for_real=real)))
    assert "pod chat-7" in one
    assert "node n1 takes nothing new" in one
    assert "uncordoned" in one
    assert words(plan(for_real=None)) == []


def report(*, for_real: bool, met: bool = True) -> DrillReport:
    return DrillReport(
        flow="f",
        scenario="site-lost",
        target="fra1",
        actor="mara",
        state=DrillState.MET if met else DrillState.MISSED,
        begun_at=system_clock(),
        outlook=OUTLOOK,
        recovered_s=10 if for_real else 1,
        met=met,
        for_real=ForReal(at_most_s=1, approvals_needed=1) if for_real else None,
    )


def test_drills_for_real_have_a_trend_of_their_own() -> None:
    found = trends([report(for_real=True), report(for_real=False), report(for_real=False)])
    assert {(each.for_real, each.drills, each.last_s) for each in found} == {
        (True, 1, 10.0),
        (False, 2, 1.0),
    }


def test_the_page_says_that_production_was_hit_and_who_has_signed() -> None:
    real = ForReal(scaled=[scaled()], at_most_s=1, approvals_needed=1)
    told = report(for_real=True).model_copy(update={"for_real": real, "approved_by": ["jonas"]})
    page = drill_page(told, [told], trends([told])[0], system_clock())
    assert "For real: production was hit, as signed by jonas" in page
    assert "not given back yet" in page
    back = told.model_copy(update={"given_back_at": system_clock()})
    assert "not given back yet" not in drill_page(back, [back], None, system_clock())
    alone = report(for_real=False)
    assert "For real" not in drill_page(alone, [alone], None, system_clock())


def test_the_alert_says_where_to_look_while_no_worker_tells_of_the_drill() -> None:
    (alert,) = (each for each in _drills() if each.name == "DrillForReal")
    assert "./fleet status" in alert.description
