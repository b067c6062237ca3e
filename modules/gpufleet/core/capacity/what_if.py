"""A fleet as it would be: other traffic, a site lost, a model of another size."""

from dataclasses import dataclass

from gpufleet.spec.fleet import Fleet
from gpufleet.spec.serving import ModelRevision, UseCase
from gpufleet.spec.shapes import built_in_shapes


@dataclass(frozen=True)
class Change:
    """What is assumed; several hold together."""

    traffic: float = 1.0
    """Factor on the requests for each second."""
    model_size: float = 1.0
    """Factor on a model's parameters, as if it had more layers of the same width."""
    lost_site: str = ""
    use_case: str = ""
    """The only one whose traffic and model change; all where it is empty."""

    def told(self) -> list[str]:
        """Each assumption as a person would say it."""
        of = f" of {self.use_case}" if self.use_case else ""
        told = []
        if self.traffic != 1:
            told.append(f"traffic{of} x {self.traffic:g}")
        if self.model_size != 1:
            told.append(f"model{of or 's'} x {self.model_size:g} in size")
        if self.lost_site:
            told.append(f"site {self.lost_site} is lost")
        return told


def changed(fleet: Fleet, change: Change) -> tuple[Fleet, list[str]]:
    """The fleet under a change, and the pools that have no place left in it.

    What was measured of a revision says nothing about a larger one: that is another revision.

    Args:
        fleet: as it is declared.
        change: names a site and a use case that are declared.
    """
    mine = {change.use_case} if change.use_case else set(fleet.use_cases)
    use_cases = {
        name: _with_traffic(use_case, change.traffic) if name in mine else use_case
        for name, use_case in fleet.use_cases.items()
    }
    fleet = fleet.model_copy(update={"use_cases": use_cases})
    if change.model_size != 1:
        for name, pool in fleet.pools.items():
            if mine & set(pool.use_cases):
                fleet = _with_model_size(fleet, name, change.model_size)
    return _without_site(fleet, change.lost_site) if change.lost_site else (fleet, [])


def _with_traffic(use_case: UseCase, factor: float) -> UseCase:
    """The same traffic so many times: its bursts are as large beside its mean as they were.

    What is above 1 in the index of dispersion of a rate that varies grows with the rate (Cox).
    """
    traffic = use_case.traffic
    update = {
        "rate_rps": traffic.rate_rps * factor,
        "index_of_dispersion": 1 + (traffic.index_of_dispersion - 1) * factor,
    }
    return use_case.model_copy(update={"traffic": traffic.model_copy(update=update)})


def _with_model_size(fleet: Fleet, pool_name: str, factor: float) -> Fleet:
    """The fleet in which one pool serves a revision of its own, of another size."""
    pool = fleet.pools[pool_name]
    revision = f"{pool.model}-x{factor:g}"
    use_cases = {
        name: use_case.model_copy(update={"model": revision})
        if name in pool.use_cases
        else use_case
        for name, use_case in fleet.use_cases.items()
    }
    return fleet.model_copy(
        update={
            "models": {**fleet.models, revision: _larger(fleet.models[pool.model], factor)},
            "use_cases": use_cases,
            "pools": {**fleet.pools, pool_name: pool.model_copy(update={"model": revision})},
        }
    )


def _larger(model: ModelRevision, factor: float) -> ModelRevision:
    shape = model.shape or built_in_shapes().get(model.model)
    if shape is not None:
        shape = shape.model_copy(update={"layers": max(1, round(shape.layers * factor))})
    return model.model_copy(
        update={
            "parameters": round(model.parameters * factor),
            "weights_bytes": round(model.size_bytes * factor),
            "kv_bytes_per_token": max(1, round(model.kv_bytes_per_token * factor)),
            "load_time_s": model.load_time_s * factor,
            "shape": shape,
        }
    )


def _without_site(fleet: Fleet, site: str) -> tuple[Fleet, list[str]]:
    groups = {name: g for name, g in fleet.node_groups.items() if g.site != site}
    pools, unserved = {}, []
    for name, pool in fleet.pools.items():
        left = {group: place for group, place in pool.placements.items() if group in groups}
        if left:
            pools[name] = pool.model_copy(update={"placements": left})
        else:
            unserved.append(name)
    routed = {name for pool in pools.values() for name in pool.use_cases}
    update = {
        "sites": {name: each for name, each in fleet.sites.items() if name != site},
        "racks": {name: rack for name, rack in fleet.racks.items() if rack.site != site},
        "node_groups": groups,
        "pools": pools,
        "use_cases": {name: each for name, each in fleet.use_cases.items() if name in routed},
    }
    return fleet.model_copy(update=update), unserved
