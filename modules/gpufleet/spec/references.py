"""Every reference of a fleet file resolves: hardware, demand, people, policy."""

from collections.abc import Iterable, Iterator
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gpufleet.spec.fleet import Fleet
from gpufleet.spec.governance import Role
from gpufleet.spec.problem import Problem
from gpufleet.spec.recurrences import FIRST_DAY, starts
from gpufleet.spec.serving import DataClass
from gpufleet.spec.source import FieldPath

_SEARCH_YEARS: Final = 12
"""Within so many years every rule that ever happens has happened, each 29th of February too."""


def references(fleet: Fleet) -> Iterator[Problem]:
    """Every name that names nothing, or names what it may not."""
    yield from _hardware(fleet)
    yield from _demand(fleet)
    yield from _measurements(fleet)
    yield from _people(fleet)
    yield from _budget_owner(fleet)
    yield from _ssh_keys(fleet)
    yield from _policy(fleet)
    yield from _compatibility(fleet)


def reference(path: FieldPath, kind: str, given: str, valid: Iterable[str]) -> Iterator[Problem]:
    """A problem if `given` is not among the valid names of its kind."""
    names = tuple(valid)
    if given not in names:
        yield Problem(path, f"there is no {kind} `{given}`", given, names)


def _hardware(fleet: Fleet) -> Iterator[Problem]:
    for name, rack in fleet.racks.items():
        yield from reference(("racks", name, "site"), "site", rack.site, fleet.sites)
    for name, group in fleet.node_groups.items():
        at: FieldPath = ("node_groups", name)
        yield from reference((*at, "site"), "site", group.site, fleet.sites)
        yield from reference((*at, "gpu_type"), "GPU type", group.gpu_type, fleet.gpus)
        if group.supplier is not None:
            yield from reference((*at, "supplier"), "supplier", group.supplier, fleet.suppliers)
        here = [rack_name for rack_name, rack in fleet.racks.items() if rack.site == group.site]
        for index, rack_name in enumerate(group.racks if group.site in fleet.sites else ()):
            kind = f"rack at site {group.site} named"
            yield from reference((*at, "racks", index), kind, rack_name, here)


def _demand(fleet: Fleet) -> Iterator[Problem]:
    regions = {site.region for site in fleet.sites.values()}
    for name, use_case in fleet.use_cases.items():
        at: FieldPath = ("use_cases", name)
        yield from reference((*at, "team"), "team", use_case.team, fleet.teams)
        yield from reference((*at, "model"), "model revision", use_case.model, fleet.models)
        if use_case.fallback is not None:
            yield from reference(
                (*at, "fallback"), "model revision", use_case.fallback, fleet.models
            )
            if use_case.fallback == use_case.model:
                yield Problem((*at, "fallback"), "is the same revision as `model`")
        for index, region in enumerate(use_case.residency):
            yield from reference((*at, "residency", index), "region", region, regions)
        if use_case.hosted is not None and use_case.data_class is DataClass.RESTRICTED:
            yield Problem((*at, "hosted"), "restricted data may not leave; remove `hosted`")
        yield from _time_zone((*at, "traffic", "time_zone"), use_case.traffic.time_zone)
        for index, peak in enumerate(use_case.traffic.peaks):
            yield from recurrence((*at, "traffic", "peaks", index, "recurrence"), peak.recurrence)


def recurrence(path: FieldPath, rule: str) -> Iterator[Problem]:
    """A problem if a recurrence rule is none, or never happens."""
    try:
        found = starts(rule, FIRST_DAY, FIRST_DAY.replace(year=FIRST_DAY.year + _SEARCH_YEARS))
    except ValueError as error:
        yield Problem(path, str(error), mend="such as FREQ=MONTHLY;BYMONTHDAY=-1")
        return
    if not found:
        yield Problem(path, f"`{rule}` never happens", mend="such as FREQ=MONTHLY;BYMONTHDAY=-1")


def _measurements(fleet: Fleet) -> Iterator[Problem]:
    for name, measurement in fleet.measurements.items():
        at: FieldPath = ("measurements", name)
        yield from reference((*at, "model"), "model revision", measurement.model, fleet.models)
        yield from reference((*at, "gpu_type"), "GPU type", measurement.gpu_type, fleet.gpus)
    if fleet.currency in fleet.exchange_rates:
        path = ("exchange_rates", fleet.currency)
        yield Problem(path, "is the fleet's own currency", mend="remove it")


def _people(fleet: Fleet) -> Iterator[Problem]:
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
        yield from reference(path, "identity", identity, fleet.identities)


def _ssh_keys(fleet: Fleet) -> Iterator[Problem]:
    """One key for one person: with a shared one, somebody could approve alone."""
    owners: dict[str, str] = {}
    for name, identity in fleet.identities.items():
        for index, line in enumerate(identity.ssh_keys):
            key = " ".join(line.split(" ")[:2])
            if key in owners:
                path = ("identities", name, "ssh_keys", index)
                yield Problem(path, f"is a key of `{owners[key]}` already")
            owners.setdefault(key, name)


def _budget_owner(fleet: Fleet) -> Iterator[Problem]:
    owner = fleet.budget and fleet.identities.get(fleet.budget.owner)
    if owner and not {Role.FINANCE, Role.SPONSOR} & set(owner.roles):
        yield Problem(("budget", "owner"), "has neither the role finance nor sponsor")


def _policy(fleet: Fleet) -> Iterator[Problem]:
    for name, calendar in fleet.freeze_calendars.items():
        for index, site in enumerate(calendar.sites):
            path = ("freeze_calendars", name, "sites", index)
            yield from reference(path, "site", site, fleet.sites)
        for index, pool in enumerate(calendar.pools):
            path = ("freeze_calendars", name, "pools", index)
            yield from reference(path, "pool", pool, fleet.pools)
        if calendar.time_zone is not None:
            yield from _time_zone(("freeze_calendars", name, "time_zone"), calendar.time_zone)
    for target, cadence in fleet.patching.items():
        yield from _time_zone(("patching", target.value, "time_zone"), cadence.time_zone)


def _compatibility(fleet: Fleet) -> Iterator[Problem]:
    at: FieldPath = ("compatibility", "requirements")
    for index, requirement in enumerate(fleet.compatibility.requirements):
        for position, gpu_type in enumerate(requirement.gpu_types):
            path = (*at, index, "gpu_types", position)
            yield from reference(path, "GPU type", gpu_type, fleet.gpus)
    at = ("compatibility", "assume")
    for index, assumption in enumerate(fleet.compatibility.assume):
        for position, group in enumerate(assumption.node_groups):
            path = (*at, index, "node_groups", position)
            yield from reference(path, "node group", group, fleet.node_groups)


def _time_zone(path: FieldPath, zone: str) -> Iterator[Problem]:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        yield Problem(path, f"there is no time zone `{zone}`", mend="such as Europe/Berlin or UTC")
