"""Checks that span sections of a fleet file: references, memory, exclusive node groups, classes.

Each check is a generator of problems, with the path of the field at fault, so that the loader can
point at its line.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gpufleet.spec.fleet import Fleet
from gpufleet.spec.governance import Role
from gpufleet.spec.hardware import NodeGroup
from gpufleet.spec.serving import DataClass, ModelRevision, Placement, Pool
from gpufleet.spec.source import FieldPath

GIB: Final = 2**30
MINIMUM_KV_TOKENS: Final = 8192
"""A replica that cannot hold one context of this length serves nothing useful."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a field: its path, what, and the names that would be valid there."""

    path: FieldPath
    what: str
    given: str = ""
    candidates: tuple[str, ...] = ()
    mend: str = ""


def problems(fleet: Fleet) -> Iterator[Problem]:
    """Every problem of a fleet whose sections are valid each by itself."""
    for check in _CHECKS:
        yield from check(fleet)


def _reference(path: FieldPath, kind: str, given: str, valid: Iterable[str]) -> Iterator[Problem]:
    names = tuple(valid)
    if given not in names:
        yield Problem(path, f"there is no {kind} `{given}`", given, names)


def _hardware_references(fleet: Fleet) -> Iterator[Problem]:
    for name, rack in fleet.racks.items():
        yield from _reference(("racks", name, "site"), "site", rack.site, fleet.sites)
    for name, group in fleet.node_groups.items():
        at: FieldPath = ("node_groups", name)
        yield from _reference((*at, "site"), "site", group.site, fleet.sites)
        yield from _reference((*at, "gpu_type"), "GPU type", group.gpu_type, fleet.gpus)
        if group.supplier is not None:
            yield from _reference((*at, "supplier"), "supplier", group.supplier, fleet.suppliers)
        for index, rack_name in enumerate(group.racks):
            here = [name for name, rack in fleet.racks.items() if rack.site == group.site]
            yield from _reference(
                (*at, "racks", index), f"rack at site {group.site} named", rack_name, here
            )


def _demand_references(fleet: Fleet) -> Iterator[Problem]:
    regions = {site.region for site in fleet.sites.values()}
    for name, use_case in fleet.use_cases.items():
        at: FieldPath = ("use_cases", name)
        yield from _reference((*at, "team"), "team", use_case.team, fleet.teams)
        yield from _reference((*at, "model"), "model revision", use_case.model, fleet.models)
        if use_case.fallback is not None:
            yield from _reference(
                (*at, "fallback"), "model revision", use_case.fallback, fleet.models
            )
            if use_case.fallback == use_case.model:
                yield Problem((*at, "fallback"), "is the same revision as `model`")
        for index, region in enumerate(use_case.residency):
            yield from _reference((*at, "residency", index), "region", region, regions)
        if use_case.hosted is not None and use_case.data_class is DataClass.RESTRICTED:
            yield Problem((*at, "hosted"), "restricted data may not leave; remove `hosted`")
        yield from _time_zone((*at, "traffic", "time_zone"), use_case.traffic.time_zone)


def _people_references(fleet: Fleet) -> Iterator[Problem]:
    people: list[tuple[FieldPath, str]] = [
        *((("teams", name, "owner"), team.owner) for name, team in fleet.teams.items()),
        *((("risks", name, "owner"), risk.owner) for name, risk in fleet.risks.items()),
        *(
            (("staffing", name, "identities", index), identity)
            for name, shift in fleet.staffing.items()
            for index, identity in enumerate(shift.identities)
        ),
        *(
            (("escalation", index, "to", position), identity)
            for index, step in enumerate(fleet.escalation)
            for position, identity in enumerate(step.to)
        ),
    ]
    if fleet.budget is not None:
        people.append((("budget", "owner"), fleet.budget.owner))
    for path, identity in people:
        yield from _reference(path, "identity", identity, fleet.identities)
    yield from _budget_owner(fleet)


def _budget_owner(fleet: Fleet) -> Iterator[Problem]:
    owner = fleet.budget and fleet.identities.get(fleet.budget.owner)
    if owner and not {Role.FINANCE, Role.SPONSOR} & set(owner.roles):
        yield Problem(("budget", "owner"), "has neither the role finance nor sponsor")


def _policy_references(fleet: Fleet) -> Iterator[Problem]:
    for name, calendar in fleet.freeze_calendars.items():
        for index, site in enumerate(calendar.sites):
            path = ("freeze_calendars", name, "sites", index)
            yield from _reference(path, "site", site, fleet.sites)
    for target, cadence in fleet.patching.items():
        yield from _time_zone(("patching", target.value, "time_zone"), cadence.time_zone)


def _time_zone(path: FieldPath, zone: str) -> Iterator[Problem]:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        yield Problem(path, f"there is no time zone `{zone}`", mend="such as Europe/Berlin or UTC")


def _pools(fleet: Fleet) -> Iterator[Problem]:
    claimed: dict[str, str] = {}
    for name, pool in fleet.pools.items():
        at: FieldPath = ("pools", name)
        yield from _reference((*at, "model"), "model revision", pool.model, fleet.models)
        sites: dict[str, str] = {}
        for group_name, placement in pool.placements.items():
            path = (*at, "placements", group_name)
            yield from _reference(path, "node group", group_name, fleet.node_groups)
            if (other := claimed.setdefault(group_name, name)) != name:
                yield Problem(
                    path,
                    f"pool `{other}` has claimed this node group already",
                    mend="a node group belongs to one pool; split the group",
                )
            if (group := fleet.node_groups.get(group_name)) is None:
                continue
            if (other := sites.setdefault(group.site, group_name)) != group_name:
                yield Problem(
                    path,
                    f"the pool stands on `{other}` at site {group.site} already",
                    mend="one node group for each site and pool; make a second pool",
                )
            yield from _placement(fleet, path, pool, placement, group)


def _placement(
    fleet: Fleet, path: FieldPath, pool: Pool, placement: Placement, group: NodeGroup
) -> Iterator[Problem]:
    if placement.ceiling < placement.replicas:
        yield Problem(
            (*path, "max_replicas"),
            f"is below `replicas` ({placement.ceiling} < {placement.replicas})",
        )
    if placement.gpus_per_node > group.gpus_per_node:
        yield Problem(
            (*path, "gpus_per_node"),
            f"is {placement.gpus_per_node}, and a node here has {group.gpus_per_node} GPUs",
        )
        return
    fits = replicas_that_fit(placement, group)
    for field, wanted in (
        ("replicas", placement.replicas),
        ("max_replicas", placement.max_replicas),
    ):
        if wanted is not None and wanted > fits:
            yield Problem(
                (*path, field),
                f"is {wanted}, and {fits} fit: {group.nodes} nodes of {group.gpus_per_node} GPUs, "
                f"{placement.nodes_per_replica} x {placement.gpus_per_node} GPUs a replica",
            )
    if (model := fleet.models.get(pool.model)) and (gpu := fleet.gpus.get(group.gpu_type)):
        needed = _memory_bytes(model, pool)
        for_each = gpu.memory_bytes * pool.memory_utilization
        if needed > for_each * placement.gpus_per_replica:
            yield Problem(
                path,
                f"model `{pool.model}` needs {needed / GIB:.1f} GiB (weights "
                f"{model.size_bytes / GIB:.1f}, the rest KV cache), and "
                f"{placement.gpus_per_replica} {group.gpu_type} offer "
                f"{for_each * placement.gpus_per_replica / GIB:.1f} GiB",
                mend=f"give a replica at least {math.ceil(needed / for_each)} GPUs of this type",
            )


def replicas_that_fit(placement: Placement, group: NodeGroup) -> int:
    """Most replicas that a node group holds, when no replica is cut across a node's boundary."""
    slots = group.nodes * (group.gpus_per_node // placement.gpus_per_node)
    return slots // placement.nodes_per_replica


def _memory_bytes(model: ModelRevision, pool: Pool) -> int:
    """What one replica needs at least: the weights, and KV cache for one long request."""
    tokens = min(MINIMUM_KV_TOKENS, pool.max_model_length_tokens or model.max_context_tokens)
    return model.size_bytes + model.kv_bytes_per_token * tokens


def _classes(fleet: Fleet) -> Iterator[Problem]:
    routed: dict[str, str] = {}
    for name, pool in fleet.pools.items():
        for index, use_case_name in enumerate(pool.use_cases):
            path: FieldPath = ("pools", name, "use_cases", index)
            yield from _reference(path, "use case", use_case_name, fleet.use_cases)
            if (use_case := fleet.use_cases.get(use_case_name)) is None:
                continue
            if use_case.class_ is not pool.class_:
                yield Problem(
                    path,
                    f"use case `{use_case_name}` is {use_case.class_}, the pool {pool.class_}",
                    mend="a pool never mixes classes; route it to a pool of its own class",
                )
            if use_case.model != pool.model:
                yield Problem(
                    path, f"use case `{use_case_name}` wants `{use_case.model}`, not `{pool.model}`"
                )
            if (other := routed.setdefault(use_case_name, name)) != name:
                yield Problem(
                    path, f"use case `{use_case_name}` is routed to pool `{other}` already"
                )
            yield from _residency(fleet, path, use_case_name, pool)
    served = {pool.model for pool in fleet.pools.values()}
    for name, use_case in fleet.use_cases.items():
        if name not in routed:
            yield Problem(("use_cases", name), "no pool lists this use case in its `use_cases`")
        if use_case.fallback in fleet.models and use_case.fallback not in served:
            yield Problem(("use_cases", name, "fallback"), f"no pool serves `{use_case.fallback}`")


def _residency(fleet: Fleet, path: FieldPath, name: str, pool: Pool) -> Iterator[Problem]:
    groups = [fleet.node_groups[group] for group in pool.placements if group in fleet.node_groups]
    regions = {fleet.sites[group.site].region for group in groups if group.site in fleet.sites}
    if regions and not regions & set(fleet.use_cases[name].residency):
        allowed = ", ".join(fleet.use_cases[name].residency)
        yield Problem(
            path, f"use case `{name}` may be served in {allowed} only, and the pool is not there"
        )


_CHECKS: Final[tuple[Callable[[Fleet], Iterator[Problem]], ...]] = (
    _hardware_references,
    _demand_references,
    _people_references,
    _policy_references,
    _pools,
    _classes,
)
