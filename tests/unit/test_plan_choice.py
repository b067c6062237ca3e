"""The choice over the fleet is exact: what every choice that there is, tried one by one, says."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import OptimizeResult

from gpufleet.core.capacity.choice import (
    Cannot,
    Demand,
    Ground,
    Option,
    Pattern,
    Stand,
    choose,
)
from gpufleet.spec.errors import Failed

Picked = dict[str, tuple[int, dict[str, Stand]]]


def option(steady: int, most: int, *, kind: str = "a", gpus: int = 1, **more: int) -> Option:
    return Option(
        gpu_type=kind,
        gpus_per_node=gpus,
        nodes_per_replica=1,
        concurrency_limit=8,
        steady=steady,
        most=most,
        after_loss=more.get("after_loss", 0),
        spares=more.get("spares", 0),
    )


def ground(site: str, nodes: int, *, kind: str = "a", cost: float = 1.0) -> Ground:
    return Ground(site=site, gpu_type=kind, nodes=nodes, gpus_per_node=2, hourly_cost=cost)


def every_pool(
    demand: Demand, grounds: dict[str, Ground]
) -> Iterator[tuple[int, dict[str, Stand]]]:
    """Every way to place one pool that holds its needs."""
    for index, chosen in enumerate(demand.options):
        places = []
        for name in demand.grounds:
            fits = grounds[name].fits(chosen) if grounds[name].gpu_type == chosen.gpu_type else 0
            places.append(
                [None]
                + [
                    Stand(low, most)
                    for most in range(1, fits + 1)
                    for low in range(1, most + 1)
                    if demand.autoscaled or low == most
                ]
            )
        for found in product(*places):
            stands = {n: s for n, s in zip(demand.grounds, found, strict=True) if s is not None}
            sites = [grounds[name].site for name in stands]
            always = sum(s.replicas for s in stands.values())
            least = max(chosen.steady, len(stands))
            most = sum(s.most for s in stands.values())
            enough = always == min(least, most) if demand.autoscaled else always >= least
            holds = enough and most >= chosen.most
            if holds and len(set(sites)) == len(sites):
                yield index, stands


def value(
    picked: Picked, demands: dict[str, Demand], grounds: dict[str, Ground]
) -> tuple[float, ...]:
    """What is to be smallest, in its order."""
    broken = cost = gpus = away = 0.0
    for name, (index, stands) in picked.items():
        demand, chosen = demands[name], demands[name].options[index]
        if demand.keeps_site_loss:
            sites = {
                grounds[g].site
                for g in demand.grounds
                if any(grounds[g].gpu_type == each.gpu_type for each in demand.options)
            }
            broken += max(
                max(
                    0,
                    chosen.after_loss
                    - sum(s.most for g, s in stands.items() if grounds[g].site != lost),
                )
                for lost in sites
            )
        room = sum(grounds[g].fits(chosen) - s.most for g, s in stands.items())
        broken += max(0, chosen.spares - room)
        for g, stand in stands.items():
            gpus += stand.most * chosen.gpus_per_replica
            cost += stand.most * chosen.gpus_per_replica * grounds[g].hourly_cost
        for g in demand.grounds:
            now, will = demand.current.get(g, Stand(0, 0)), stands.get(g, Stand(0, 0))
            away += abs(now.replicas - will.replicas) + abs(now.most - will.most)
        away += index * 1e-3
    return broken, round(cost, 6), gpus, round(away, 6)


def by_trying(demands: dict[str, Demand], grounds: dict[str, Ground]) -> tuple[float, ...] | None:
    best = None
    ways = [list(every_pool(demand, grounds)) for demand in demands.values()]
    for found in product(*ways):
        taken = [name for _, stands in found for name in stands]
        if len(set(taken)) == len(taken):
            worth = value(dict(zip(demands, found, strict=True)), demands, grounds)
            best = worth if best is None else min(best, worth)
    return best


@st.composite
def instances(draw: st.DrawFn) -> tuple[dict[str, Demand], dict[str, Ground]]:
    names = ["g0", "g1", "g2"][: draw(st.integers(1, 3))]
    grounds = {
        name: ground(
            draw(st.sampled_from(["east", "west"])),
            draw(st.integers(1, 2)),
            kind=draw(st.sampled_from(["a", "b"])),
            cost=draw(st.sampled_from([1.0, 1.5, 2.25])),
        )
        for name in names
    }
    demands = {}
    for pool in ["p0", "p1"][: draw(st.integers(1, 2))]:
        options = []
        for _ in range(draw(st.integers(1, 2))):
            steady = draw(st.integers(1, 2))
            options.append(
                option(
                    steady,
                    steady + draw(st.integers(0, 2)),
                    kind=draw(st.sampled_from(["a", "b"])),
                    gpus=draw(st.sampled_from([1, 2])),
                    after_loss=draw(st.integers(0, 2)),
                    spares=draw(st.integers(0, 1)),
                )
            )
        allowed = [name for name in names if draw(st.booleans())] or names
        autoscaled = draw(st.booleans())
        if not autoscaled:
            options = [
                option(o.most, o.most, kind=o.gpu_type, gpus=o.gpus_per_node) for o in options
            ]
        demands[pool] = Demand(
            options=tuple(options),
            grounds=tuple(allowed),
            keeps_site_loss=draw(st.booleans()),
            autoscaled=autoscaled,
            current={allowed[0]: Stand(1, draw(st.integers(1, 2)))},
        )
    return demands, grounds


@settings(deadline=None)
@given(instances())
def test_no_choice_is_better_and_none_is_given_where_there_is_none(
    instance: tuple[dict[str, Demand], dict[str, Ground]],
) -> None:
    demands, grounds = instance
    best = by_trying(demands, grounds)
    cannot = None
    try:
        chosen = choose(demands, grounds)
    except Cannot as found_none:
        cannot = found_none
        chosen = {}
    if best is None or cannot:
        assert best is None
        assert cannot
        assert sum(cannot.lacking.values()) > 0
        return
    picked = {name: (each.option, dict(each.stands)) for name, each in chosen.items()}
    for name, found in picked.items():
        assert found in list(every_pool(demands[name], grounds))
    claimed = [name for _, stands in picked.values() for name in stands]
    assert len(set(claimed)) == len(claimed)
    assert value(picked, demands, grounds)[:3] == best[:3]
    assert choose(demands, grounds) == chosen


def one(demand: Demand, grounds: dict[str, Ground]) -> Pattern:
    return choose({"pool": demand}, grounds)["pool"]


def test_the_other_sites_hold_what_the_loss_of_a_site_needs() -> None:
    grounds = {"e": ground("east", 4, cost=1.0), "w": ground("west", 4, cost=3.0)}
    options = (option(2, 4, after_loss=3),)
    kept = one(Demand(options, ("e", "w"), keeps_site_loss=True, autoscaled=True), grounds)
    assert kept.site_loss_short == 0
    assert min(kept.stands["e"].most, kept.stands["w"].most) >= 3
    cheap = one(Demand(options, ("e", "w"), keeps_site_loss=False, autoscaled=True), grounds)
    assert list(cheap.stands) == ["e"]


def test_a_site_loss_that_no_inventory_holds_is_told_and_costs_nothing_else() -> None:
    grounds = {"e": ground("east", 1), "w": ground("west", 1)}
    demand = Demand(
        (option(2, 3, after_loss=3),), ("e", "w"), keeps_site_loss=True, autoscaled=True
    )
    found = one(demand, grounds)
    assert found.site_loss_short == 1
    assert all(stand.most == 2 for stand in found.stands.values())


def test_between_equals_the_choice_stays_where_the_pool_is() -> None:
    grounds = {name: ground(name, 4) for name in ("a1", "a2", "a3")}
    demand = Demand(
        (option(2, 4, gpus=1), option(2, 4, gpus=1)),
        ("a1", "a2", "a3"),
        keeps_site_loss=False,
        autoscaled=True,
        current={"a2": Stand(2, 4)},
    )
    found = one(demand, grounds)
    assert (found.option, dict(found.stands)) == (0, {"a2": Stand(2, 4)})


def test_two_pools_never_share_a_node_group_even_where_both_would_fit() -> None:
    grounds = {"e": ground("east", 4), "w": ground("west", 4, cost=9.0)}
    demand = Demand((option(1, 2),), ("e", "w"), keeps_site_loss=False, autoscaled=True)
    chosen = choose({"first": demand, "second": demand}, grounds)
    assert sorted(name for each in chosen.values() for name in each.stands) == ["e", "w"]


def test_nodes_that_a_site_keeps_free_are_taken_by_nobody() -> None:
    grounds = {"own": ground("east", 1), "free": ground("east", 2)}
    demand = Demand(
        (option(2, 3),),
        ("own", "free"),
        keeps_site_loss=False,
        autoscaled=True,
        current={"own": Stand(2, 2)},
    )
    assert list(one(demand, grounds).stands) == ["free"]
    with pytest.raises(Cannot) as cannot:
        choose({"pool": demand}, grounds, {"east": 1})
    assert cannot.value.lacking == {"pool": 1}
    assert dict(cannot.value.fitting["pool"].stands) == {"own": Stand(2, 2)}


@pytest.mark.parametrize("x", [None, np.ones(4)])
def test_a_choice_that_is_not_proven_best_is_refused(
    monkeypatch: pytest.MonkeyPatch, x: object
) -> None:
    ended = OptimizeResult(status=1, x=x, message="Time limit reached.")
    monkeypatch.setattr("scipy.optimize.milp", lambda *_, **__: ended)
    grounds = {"e": ground("east", 4), "w": ground("west", 4, cost=9.0)}
    demand = Demand((option(1, 2),), ("e", "w"), keeps_site_loss=False, autoscaled=True)
    with pytest.raises(Failed, match="Time limit reached"):
        choose({"first": demand, "second": demand}, grounds)
