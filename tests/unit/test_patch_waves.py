"""Waves: every host once, one rack at a time, and every pool keeps its promise throughout."""

import math
import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.patching.capacity import (
    PoolCapacity,
    PoolKey,
    declared_capacity,
    observed_capacity,
)
from gpufleet.core.patching.waves import LARGEST_BATCH, WavePlan, batch_refusal, plan_waves
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.governance import PatchTarget
from gpufleet.spec.patching import HostChange, Part, PatchOrder

SAMPLE = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
ORDER = PatchOrder(component=PatchTarget.DRIVER, part=Part.DRIVER, version="580.105.08")


def change(number: int, rack: str, pools: list[str], group: str = "gpu") -> HostChange:
    return HostChange(
        host=f"{group}-{number:03d}",
        site="east",
        rack=rack,
        node_group=group,
        pools=pools,
        before="580.95.05",
        after="580.105.08",
    )


@dataclass
class Situation:
    """Hosts, what their pools have, and where each replica stands at first."""

    hosts: list[HostChange]
    load: dict[PoolKey, PoolCapacity]
    pods: dict[PoolKey, list[list[str]]]


def placed(capacity: PoolCapacity, count: int, chosen: random.Random) -> list[list[str]]:
    """Replicas dealt to free slots by chance; the hosts of each one's pods."""
    free = [host for host, slots in capacity.slots.items() for _ in range(slots)]
    chosen.shuffle(free)
    size = capacity.nodes_per_replica
    return [free[size * index : size * (index + 1)] for index in range(count)]


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    chosen = draw(st.randoms(use_true_random=False))
    found = Situation([], {}, {})
    for group in range(draw(st.integers(1, 4))):
        racks = [f"r{number}" for number in range(draw(st.integers(1, 4)))]
        nodes = draw(st.integers(1, 12))
        pools = draw(st.sampled_from([[], [f"pool{group}"]]))
        hosts = [
            change(number, chosen.choice(racks), pools, f"group{group}") for number in range(nodes)
        ]
        found.hosts += hosts
        if not pools:
            continue
        per_host = draw(st.integers(1, 4))
        size = draw(st.integers(1, 2))
        lost = draw(st.integers(0, min(2, nodes - 1)))
        slots = {host.host: per_host for host in hosts[: nodes - lost]}
        room = sum(slots.values()) // size
        wanted = draw(st.integers(0, room + 1))
        ready = draw(st.integers(max(0, min(wanted, room) - 2), min(wanted, room)))
        capacity = PoolCapacity(
            wanted=wanted,
            ready=ready,
            min_available=draw(st.sampled_from([0.3, 0.5, 0.7, 0.8, 0.9, 1.0])),
            slots=slots,
            nodes_per_replica=size,
        )
        pods = placed(capacity, ready, chosen)
        known = draw(st.booleans())
        holding = {host for replica in pods for host in replica}
        idle = frozenset(slots) - holding if known else frozenset()
        key = ("east", f"pool{group}")
        found.load[key] = replace(capacity, idle=idle)
        found.pods[key] = pods
    return found


def orders() -> st.SearchStrategy[PatchOrder]:
    shares = st.sampled_from([0.0, 0.05, 0.25, 0.5, 1.0])
    return st.builds(
        lambda canary, early: ORDER.model_copy(
            update={"canary_share": canary, "early_share": early}
        ),
        shares,
        shares,
    )


def in_order(plan: WavePlan) -> list[list[str]]:
    return [batch for wave in plan.waves for batch in wave.batches]


@given(situations(), orders())
def test_every_host_is_in_one_wave_once_or_left_out_with_a_reason(
    found: Situation, order: PatchOrder
) -> None:
    plan = plan_waves(found.hosts, found.load, order)
    planned = [host for wave in plan.waves for host in wave.hosts]
    assert sorted([*planned, *plan.left_out]) == sorted(host.host for host in found.hosts)
    assert all(plan.left_out.values())
    assert all(batch for batch in in_order(plan))
    assert [wave.number for wave in plan.waves] == list(range(1, len(plan.waves) + 1))


@given(situations(), orders())
def test_a_batch_is_never_in_two_racks(found: Situation, order: PatchOrder) -> None:
    racks = {host.host: (host.site, host.rack) for host in found.hosts}
    for batch in in_order(plan_waves(found.hosts, found.load, order)):
        assert len({racks[host] for host in batch}) == 1
        assert len(batch) <= LARGEST_BATCH


@given(situations(), orders(), st.randoms(use_true_random=False))
def test_no_pool_is_below_its_minimum_at_any_time_wherever_its_replicas_move(
    found: Situation, order: PatchOrder, chosen: random.Random
) -> None:
    plan = plan_waves(found.hosts, found.load, order)
    for batch in in_order(plan):
        for key, capacity in found.load.items():
            floor = math.ceil(round(capacity.wanted * capacity.min_available, 6))
            standing = found.pods[key]
            kept = [replica for replica in standing if not set(replica) & set(batch)]
            moved = len(standing) - len(kept)
            if not moved:
                continue
            # One is always between two hosts while they are drained.
            assert len(standing) - 1 >= floor
            left = replace(
                capacity,
                slots={h: slots for h, slots in capacity.slots.items() if h not in batch},
            )
            room = sum(left.slots.values()) // capacity.nodes_per_replica
            serving = min(len(standing), room)
            assert serving >= floor
            # Some day all that serves may stand anywhere, and one that had no room comes back.
            found.pods[key] = placed(capacity, len(standing), chosen)


@given(situations(), orders(), st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_of_hosts(
    found: Situation, order: PatchOrder, chosen: random.Random
) -> None:
    shuffled = found.hosts.copy()
    chosen.shuffle(shuffled)
    assert plan_waves(shuffled, found.load, order) == plan_waves(found.hosts, found.load, order)


@given(situations(), orders())
def test_each_batch_of_a_plan_is_admitted_by_the_load_that_it_was_made_from(
    found: Situation, order: PatchOrder
) -> None:
    by_name = {host.host: host for host in found.hosts}
    for batch in in_order(plan_waves(found.hosts, found.load, order)):
        assert not batch_refusal([by_name[host] for host in batch], found.load)


@given(st.integers(1, 400))
def test_waves_are_one_host_then_the_declared_shares_then_the_rest(count: int) -> None:
    hosts = [change(number, f"r{number % 7}", []) for number in range(count)]
    sizes = [len(wave.hosts) for wave in plan_waves(hosts, {}, ORDER).waves]
    wanted = [1, math.ceil(count / 20), math.ceil(count / 4)]
    for size, share in zip(sizes, wanted, strict=False):
        assert size <= share
    assert sum(sizes) == count
    assert sizes[:3] == wanted[: len(sizes[:3])] or len(sizes) < 4


POOL = ("east", "answers")


def answers(**of: object) -> dict[PoolKey, PoolCapacity]:
    """Eight hosts with two slots each; ten replicas at 0.8 leave two to move."""
    capacity = PoolCapacity(
        wanted=10,
        ready=10,
        min_available=0.8,
        slots={f"gpu-{number:03d}": 2 for number in range(1, 9)},
    )
    return {POOL: replace(capacity, **of)}  # type: ignore[arg-type]


EIGHT = [change(number, f"r{number % 2}", ["answers"]) for number in range(1, 9)]


def test_hosts_of_one_rack_go_together_while_there_is_room_for_what_they_hold() -> None:
    plan = plan_waves(EIGHT, answers(), ORDER.model_copy(update={"early_share": 0.0}))
    assert [[len(batch) for batch in wave.batches] for wave in plan.waves] == [[1], [1], [3, 3]]


def test_without_room_for_all_that_serve_hosts_go_one_at_a_time() -> None:
    plan = plan_waves(EIGHT, answers(wanted=16, ready=16), ORDER)
    assert {len(batch) for batch in in_order(plan)} == {1}
    assert not plan.left_out


@pytest.mark.parametrize(
    ("load", "told"),
    [
        (answers(ready=7), "7 of 10 replicas serve, and 8 have to"),
        (answers(ready=7), "it has to recover first; see why its replicas are not ready"),
        (
            answers(wanted=4, ready=4),
            "none may be moved; run 5 replicas or lower min_available to 0.75",
        ),
        (answers(wanted=1, ready=1), "none may be moved; run 5 replicas"),
        (answers(min_available=1.0), "none may be moved; lower min_available to 0.9"),
        (
            answers(
                wanted=16, ready=16, min_available=0.9, slots={f"gpu-{n:03d}": 4 for n in (1, 2)}
            ),
            "without host gpu-001 there is room for 4; free or add a node of its group or lower",
        ),
        ({}, "nobody knows how many replicas pool answers has at east"),
    ],
)
def test_a_host_that_has_to_stay_is_left_out_with_what_would_let_it_go(
    load: dict[PoolKey, PoolCapacity], told: str
) -> None:
    plan = plan_waves([change(1, "r1", ["answers"])], load, ORDER)
    assert plan.waves == []
    assert told in plan.left_out["gpu-001"]


def test_what_a_reason_advises_does_let_the_host_go() -> None:
    one = [change(1, "r1", ["answers"])]
    for capacity in (answers(wanted=5, ready=5), answers(wanted=4, ready=4, min_available=0.75)):
        assert not plan_waves(one, capacity, ORDER).left_out


def test_hosts_without_a_replica_are_patched_where_none_may_be_moved() -> None:
    idle = frozenset(f"gpu-{number:03d}" for number in range(3, 9))
    plan = plan_waves(EIGHT, answers(wanted=4, ready=4, idle=idle), ORDER)
    assert set(plan.left_out) == {"gpu-001", "gpu-002"}


def test_the_first_host_is_one_that_holds_nothing() -> None:
    spare = change(1, "r9", [], "spare")
    plan = plan_waves([*EIGHT, spare], answers(), ORDER)
    assert plan.waves[0].hosts == ["spare-001"]
    plan = plan_waves(EIGHT, answers(idle=frozenset({"gpu-005"})), ORDER)
    assert plan.waves[0].hosts == ["gpu-005"]


def test_early_waves_see_every_node_group() -> None:
    hosts = [change(n, "r1", [], f"group{group}") for group in range(10) for n in range(20)]
    plan = plan_waves(hosts, {}, ORDER)
    assert {host.rpartition("-")[0] for host in plan.waves[1].hosts} == {
        f"group{group}" for group in range(10)
    }


def test_a_pool_that_wants_no_replica_holds_no_host() -> None:
    assert not plan_waves(EIGHT, answers(wanted=0, ready=0), ORDER).left_out


def test_the_samples_small_pools_are_told_and_everything_else_is_planned() -> None:
    load = declared_capacity(SAMPLE)
    hosts = [
        HostChange(
            host=f"{name}-{number + 1:03d}",
            site=group.site,
            rack=group.racks[number % len(group.racks)],
            node_group=name,
            pools=[pool for pool, found in SAMPLE.pools.items() if name in found.placements],
            before="",
            after="580.105.08",
        )
        for name, group in SAMPLE.node_groups.items()
        for number in range(group.nodes)
    ]
    plan = plan_waves(hosts, load, ORDER)
    held = {host.rpartition("-")[0] for host in plan.left_out}
    assert held == {"dub1-code", "dub1-reasoning", "fra1-documents", "dub1-documents"}


READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def node(name: str, *, ready: bool = True, cordoned: bool = False) -> dict[str, object]:
    return {
        "metadata": {"name": name},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def pod(pool: str, where: str, *, ready: bool = True, group: str = "") -> dict[str, object]:
    index = {"leaderworkerset.sigs.k8s.io/group-index": group} if group else {}
    return {
        "metadata": {"labels": {"gpufleet.dev/pool": pool, **index}},
        "spec": {"nodeName": where},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def test_the_load_is_what_the_cluster_shows() -> None:
    names = [f"fra1-chat-{number + 1:03d}" for number in range(8)]
    found = observed_capacity(
        SAMPLE,
        "fra1",
        nodes=[node(names[0], ready=False), node(names[1], cordoned=True), *map(node, names[2:])],
        pods=[pod("chat", names[2]), pod("chat", names[3]), pod("chat", names[4], ready=False)],
        workloads=[{"metadata": {"name": "chat"}, "spec": {"replicas": 12}}],
    )["fra1", "chat"]
    assert (found.wanted, found.ready, found.floor) == (12, 2, 10)
    assert found.slots == dict.fromkeys(names[2:], 2)
    assert found.idle == {*names[:2], *names[5:]}


def test_what_others_hold_and_what_is_lost_is_no_room() -> None:
    names = [f"fra1-chat-{number + 1:03d}" for number in range(8)]
    nodes = [node(name) for name in names]
    nodes[0]["status"] = {**READY, "allocatable": {"nvidia.com/gpu": "7"}}
    job = {
        "metadata": {"labels": {"gpufleet.dev/batch-pool": "chat"}},
        "spec": {
            "nodeName": names[1],
            "containers": [{"resources": {"requests": {"nvidia.com/gpu": "5"}}}],
        },
        "status": {"phase": "Running"},
    }
    ended = {**job, "status": {"phase": "Succeeded"}}
    found = observed_capacity(SAMPLE, "fra1", nodes=nodes, pods=[job, ended], workloads=[])
    # Replicas of 4 GPUs on hosts of 8.
    assert found["fra1", "chat"].slots == {**dict.fromkeys(names, 2), names[0]: 1, names[1]: 0}


def test_a_replica_over_two_nodes_serves_only_as_a_whole() -> None:
    pods = [
        pod("reasoning", "fra1-reasoning-001", group="0"),
        pod("reasoning", "fra1-reasoning-002", group="0"),
        pod("reasoning", "fra1-reasoning-003", group="1"),
        pod("reasoning", "fra1-reasoning-004", ready=False, group="1"),
    ]
    found = observed_capacity(SAMPLE, "fra1", nodes=[], pods=pods, workloads=[])
    assert found["fra1", "reasoning"].ready == 1
