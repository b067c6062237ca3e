"""What comes up where when a site is lost: free GPUs, residency, the shortest objective first."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.drills.failover import (
    affected_pools,
    affected_use_cases,
    failover,
    free_gpus,
    stand_ins,
    unyielding,
)
from gpufleet.core.drills.stage import drill_name, stage_fleet, stage_routes, with_drills
from gpufleet.core.gateway.routes import routes_of
from gpufleet.core.inventory import expand_site
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.drills import DRILL_PREFIX, Placed
from gpufleet.spec.serving import ServingClass

SAMPLE = load_fleet(PROJECT_ROOT / "fleets" / "sample" / "production.yaml")


def all_free(fleet: Fleet, *, without: str = "") -> dict[str, list[int]]:
    """Every GPU of every node, but those of one site."""
    return {
        name: [group.gpus_per_node] * group.nodes
        for name, group in fleet.node_groups.items()
        if group.site != without
    }


@st.composite
def situations(draw: st.DrawFn) -> tuple[str, dict[str, list[int]], bool]:
    """A site of the sample that is lost, what is free elsewhere, and whether batch yields."""
    lost = draw(st.sampled_from(list(SAMPLE.sites)))
    free = {
        name: draw(st.lists(st.integers(0, nodes[0]), min_size=len(nodes), max_size=len(nodes)))
        for name, nodes in all_free(SAMPLE, without=lost).items()
    }
    return lost, free, draw(st.booleans())


def region_of(placed: Placed) -> str:
    return SAMPLE.sites[placed.site].region


@given(situations())
def test_nothing_comes_up_at_the_lost_site_or_outside_of_residency(
    situation: tuple[str, dict[str, list[int]], bool],
) -> None:
    lost, free, yields = situation
    for each in failover(SAMPLE, lost, free, batch_yields=yields).placed:
        assert SAMPLE.node_groups[each.node_group].site == each.site != lost
        residencies = [SAMPLE.use_cases[u].residency for u in SAMPLE.pools[each.pool].use_cases]
        assert any(region_of(each) in residency for residency in residencies)


@given(situations())
def test_no_more_comes_up_than_is_free_and_than_was_lost(
    situation: tuple[str, dict[str, list[int]], bool],
) -> None:
    lost, free, yields = situation
    found = failover(SAMPLE, lost, free, batch_yields=yields)
    used: Counter[str] = Counter()
    replicas: Counter[str] = Counter()
    for each in found.placed:
        used[each.node_group] += each.gpus
        replicas[each.pool] += each.replicas
        group = SAMPLE.node_groups[each.node_group]
        fitting = sum(nodes // each.gpus_per_node for nodes in free[each.node_group])
        if not each.yields:
            assert each.replicas * each.nodes_per_replica <= fitting
        assert each.gpus_per_node <= group.gpus_per_node
    batch = {
        g for p in SAMPLE.pools.values() if p.class_ is ServingClass.BATCH for g in p.placements
    }
    for group_name, gpus in used.items():
        room = SAMPLE.node_groups[group_name].gpus if group_name in batch else sum(free[group_name])
        assert gpus <= room
    for pool, wanted in affected_pools(SAMPLE, lost).items():
        assert replicas[pool] + found.short.get(pool, 0) == wanted


@given(situations())
def test_a_use_case_comes_back_or_it_is_said_why_not(
    situation: tuple[str, dict[str, list[int]], bool],
) -> None:
    lost, free, yields = situation
    found = failover(SAMPLE, lost, free, batch_yields=yields)
    for pool in affected_pools(SAMPLE, lost):
        regions = {region_of(each) for each in found.placed if each.pool == pool}
        for name in affected_use_cases(SAMPLE, lost, [pool]):
            held = regions.intersection(SAMPLE.use_cases[name].residency)
            assert bool(held) != (name in found.unheld)


@given(situations())
def test_batch_gives_way_only_where_it_is_asked_to(
    situation: tuple[str, dict[str, list[int]], bool],
) -> None:
    lost, free, _ = situation
    kept = failover(SAMPLE, lost, free, batch_yields=False)
    assert not any(each.yields for each in kept.placed)
    more = failover(SAMPLE, lost, free)
    assert sum(more.short.values()) <= sum(kept.short.values())
    for each in more.placed:
        if each.yields:
            assert each.node_group in SAMPLE.pools[each.yields].placements


def test_batch_whose_replicas_span_nodes_does_not_yield_and_that_is_the_reason() -> None:
    documents = SAMPLE.pools["documents"]
    wide = {
        g: p.model_copy(update={"nodes_per_replica": 2}) for g, p in documents.placements.items()
    }
    pools = {**SAMPLE.pools, "documents": documents.model_copy(update={"placements": wide})}
    fleet = SAMPLE.model_copy(update={"pools": pools})
    free = {name: [0] * len(nodes) for name, nodes in all_free(fleet, without="dub1").items()}
    assert "documents" in {each.yields for each in failover(SAMPLE, "dub1", free).placed}
    found = failover(fleet, "dub1", free)
    assert "documents" not in {each.yields for each in found.placed}
    why = found.unheld["support-chat"]
    assert "replicas of batch pool documents span nodes and do not yield" in why
    assert unyielding(fleet, "chat", ["fra1"]) == ["documents"]
    assert unyielding(SAMPLE, "chat", ["fra1"]) == []


def test_every_pool_gets_one_replica_before_any_gets_a_second() -> None:
    # Room for three replicas of four GPUs, where six of chat and one of nothing else would fit.
    free = {name: [0] * len(nodes) for name, nodes in all_free(SAMPLE, without="dub1").items()}
    free["fra1-chat"][0] = free["fra1-small"][0] = free["fra1-code"][0] = 8
    found = failover(SAMPLE, "dub1", free)
    assert {"chat", "code", "small"} <= {each.pool for each in found.placed}


def test_restricted_data_does_not_come_up_in_another_country() -> None:
    found = failover(SAMPLE, "fra1", all_free(SAMPLE, without="fra1"))
    assert found.unheld.keys() == {"contract-search"}
    assert "residency" in found.unheld["contract-search"]


def test_a_use_case_that_is_not_served_at_a_site_loses_nothing_with_it() -> None:
    only_german = SAMPLE.use_cases["support-chat"].model_copy(update={"residency": ["de"]})
    fleet = SAMPLE.model_copy(
        update={"use_cases": {**SAMPLE.use_cases, "support-chat": only_german}}
    )
    nothing = {name: [0] * len(nodes) for name, nodes in all_free(fleet, without="dub1").items()}
    found = failover(fleet, "dub1", nothing, batch_yields=False)
    assert "support-chat" not in found.unheld
    assert "agent-assist" in found.unheld
    assert affected_use_cases(fleet, "dub1", ["chat"]) == ["agent-assist"]


def test_with_too_few_free_gpus_it_is_said_how_many_to_keep() -> None:
    free = {name: [0] * len(nodes) for name, nodes in all_free(SAMPLE, without="dub1").items()}
    why = failover(SAMPLE, "dub1", free, batch_yields=False).unheld["support-chat"]
    assert "4 GPUs" in why
    assert "fra1" in why


def test_what_stands_in_for_a_site_is_one_free_replica_of_each_pool_there() -> None:
    free = {g: n for g, n in all_free(SAMPLE).items() if SAMPLE.node_groups[g].site == "dub1"}
    found = stand_ins(SAMPLE, "dub1", free)
    assert {each.pool for each in found} == affected_pools(SAMPLE, "dub1").keys()
    assert all(each.site == "dub1" and each.replicas == 1 for each in found)
    assert not stand_ins(SAMPLE, "dub1", {name: [0] for name in free})


def test_a_cordoned_node_and_held_gpus_are_not_free() -> None:
    nodes: list[dict[str, Any]] = [
        {
            "metadata": {"name": node.name},
            "spec": {"unschedulable": node.name == "dub1-spare-001"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }
        for node in expand_site(SAMPLE, "dub1")
    ]
    requests = {"requests": {"nvidia.com/gpu": "3"}}
    pod = {
        "metadata": {"name": "one", "namespace": "any"},
        "spec": {"nodeName": "dub1-spare-002", "containers": [{"resources": requests}]},
    }
    ended = pod | {"status": {"phase": "Succeeded"}}
    free = free_gpus(SAMPLE, "dub1", nodes, [pod, ended], {})
    assert free["dub1-spare"] == [5]
    assert free["dub1-chat"] == [8] * SAMPLE.node_groups["dub1-chat"].nodes


@pytest.fixture
def stage() -> Fleet:
    """The stage of what comes up for `dub1`."""
    found = failover(SAMPLE, "dub1", all_free(SAMPLE, without="dub1"))
    return stage_fleet(SAMPLE, found.placed)


def test_a_stage_has_no_name_and_no_way_out_of_production(stage: Fleet) -> None:
    routes = stage_routes(stage)
    assert routes.use_cases
    assert all(name.startswith(DRILL_PREFIX) for name in (*routes.use_cases, *routes.pools))
    for name, route in routes.use_cases.items():
        assert route.hosted is None
        assert route.fallback is None
        assert route.cache_ttl_s is None
        assert route.residency == SAMPLE.use_cases[name.removeprefix(DRILL_PREFIX)].residency


def test_routes_of_a_drill_never_replace_those_of_production(stage: Fleet) -> None:
    production = routes_of(SAMPLE)
    drill = stage_routes(stage)
    assert with_drills(production, []) == production
    both = with_drills(production, [drill])
    assert both.use_cases == {**drill.use_cases, **production.use_cases}
    # What claims to be a drill's, and has production's names or a way to a hosted API, is left out.
    assert with_drills(production, [production]) == production
    name, route = next(iter(drill.use_cases.items()))
    hosted = next(each.hosted for each in production.use_cases.values() if each.hosted)
    leaky = drill.model_copy(
        update={"use_cases": {name: route.model_copy(update={"hosted": hosted})}}
    )
    assert name not in with_drills(production, [leaky]).use_cases
    stranger = drill.model_copy(update={"environment": "staging"})
    assert with_drills(production, [stranger]) == production


@given(st.from_regex(r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$", fullmatch=True))
def test_the_name_of_a_stand_in_is_a_name(name: str) -> None:
    made = drill_name(name)
    assert made.startswith(DRILL_PREFIX)
    assert len(made) <= 40
    assert not made.endswith("-")


def test_long_names_stay_apart() -> None:
    assert drill_name("a" * 39 + "b") != drill_name("a" * 39 + "c")
