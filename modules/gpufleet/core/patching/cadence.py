"""What is overdue: by the declared cadence of each component, and by known vulnerabilities."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from gpufleet.core.inventory import expand
from gpufleet.core.maintenance import cadence_calendars
from gpufleet.core.patching.advisories import (
    COMPONENTS,
    Affected,
    KnownAdvisory,
    concerning,
)
from gpufleet.core.patching.matching import is_affected
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.governance import PatchCadence, PatchTarget
from gpufleet.spec.hardware import DriverPin
from gpufleet.spec.patch_cycle import (
    PINNED,
    CadenceRow,
    Exposure,
    InstalledVersion,
    PatchCycleReport,
)
from gpufleet.spec.patching import PARTS
from gpufleet.spec.windows import ChangeKind

_A_WEEK: Final = timedelta(days=8)
"""Within it each weekday's window opens once at least."""


def installed(fleet: Fleet, seen: Iterable[InstalledVersion]) -> list[InstalledVersion]:
    """What every declared host has: as it was seen, and as the fleet file pins it where not.

    Of a component that has a cadence, and of which nothing is known, one part without a version.
    """
    known = {(row.node, row.part): row for row in seen}
    found = []
    for node in expand(fleet):
        pins = _pinned(fleet.node_groups[node.group].pins)
        parts = dict.fromkeys([*pins, *(part for part in COMPONENTS if (node.name, part) in known)])
        told = {COMPONENTS[part] for part in parts}
        parts |= dict.fromkeys(
            PARTS[target][0].value for target in fleet.patching if target not in told
        )
        for part in parts:
            row = known.get((node.name, part))
            found.append(
                row or InstalledVersion(node=node.name, part=part, version=pins.get(part, ""))
            )
    return found


def _pinned(pins: DriverPin) -> dict[str, str]:
    declared = {
        "driver": pins.driver,
        "dcgm": pins.dcgm,
        "bmc": pins.bmc,
        "vbios": pins.vbios,
        "containerd": pins.containerd,
        "container-toolkit": pins.container_toolkit,
        "kernel": pins.kernel,
    }
    return {part: version for part, version in declared.items() if version}


def cycle(
    fleet: Fleet,
    rows: Sequence[InstalledVersion],
    advisories: Sequence[KnownAdvisory],
    now: datetime,
) -> PatchCycleReport:
    """How a fleet stands against its patch cycle.

    Args:
        fleet: with its cadences; a component without one is never overdue.
        rows: what is installed, as `installed` gives it.
        advisories: that are known.
        now: with a time zone.
    """
    undecided: dict[str, None] = {}
    exposures = list(_exposures(rows, advisories, now, undecided))
    exposures.sort(key=lambda each: (each.severity != "critical", -each.age_s, each.advisory))
    ages = [each.age_s for each in exposures if each.severity == "critical"]
    return PatchCycleReport(
        fleet=fleet.fleet,
        environment=fleet.environment,
        at=now,
        cadences=[
            _row(target, cadence, rows, exposures, now).model_copy(
                update={"window_opens": _window_opens(fleet, target, now)}
            )
            for target, cadence in fleet.patching.items()
        ],
        exposures=exposures,
        undecided=list(undecided),
        advisories=len(advisories),
        oldest_critical_s=max(ages, default=None),
    )


def _exposures(
    rows: Sequence[InstalledVersion],
    advisories: Iterable[KnownAdvisory],
    now: datetime,
    undecided: dict[str, None],
) -> Iterator[Exposure]:
    """One for each advisory and part, however many of its packages are that part."""
    nodes: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.version:
            nodes[row.part][row.version].append(row.node)
    told: dict[tuple[str, str], tuple[KnownAdvisory, list[Affected]]] = {}
    for advisory, part, affected in concerning(advisories, list(nodes)):
        told.setdefault((advisory.id, part), (advisory, []))[1].append(affected)
    for (_, part), (advisory, packages) in told.items():
        hit: dict[str, Affected] = {}
        for version in nodes[part]:
            verdicts = [(is_affected(each, part, version), each) for each in packages]
            found = next((each for verdict, each in verdicts if verdict), None)
            if found is not None:
                hit[version] = found
            elif any(verdict is None for verdict, _ in verdicts):
                undecided[
                    f"{advisory.id}: nobody can tell whether {part} {version} is affected"
                ] = None
        if hit:
            yield Exposure(
                advisory=advisory.id,
                aliases=list(advisory.aliases),
                severity=advisory.severity,
                component=COMPONENTS[part],
                part=part,
                package=next(iter(hit.values())).package,
                published=advisory.published,
                age_s=max(0.0, (now - advisory.published).total_seconds()),
                versions=sorted(hit),
                fixed=sorted({fixed for each in hit.values() for fixed in each.fixed}),
                nodes=sorted(node for version in hit for node in nodes[part][version]),
            )


def _row(
    target: PatchTarget,
    cadence: PatchCadence,
    rows: Iterable[InstalledVersion],
    exposures: Iterable[Exposure],
    now: datetime,
) -> CadenceRow:
    of_target = [row for row in rows if COMPONENTS.get(row.part) is target]
    patched = _patched(of_target)
    seen = {row.node for row in of_target if row.since is not None and row.flow != PINNED}
    times = {node: at for node, at in patched.items() if at is not None}
    node = min(times, key=lambda name: (times[name], name), default="")
    oldest_s = (now - times[node]).total_seconds() if node else None
    critical = [
        each.age_s for each in exposures if each.component is target and each.severity == "critical"
    ]
    worst = max(critical, default=None)
    return CadenceRow(
        component=target,
        every_s=cadence.every_s,
        critical_within_s=cadence.critical_within_s,
        hosts=len(times),
        unknown=len(patched.keys() - seen),
        oldest_node=node,
        oldest_s=oldest_s,
        late_s=max(0.0, (oldest_s or 0.0) - cadence.every_s),
        oldest_critical_s=worst,
        critical_late_s=max(0.0, (worst or 0.0) - cadence.critical_within_s),
    )


def _window_opens(fleet: Fleet, target: PatchTarget, now: datetime) -> datetime | None:
    (calendar,) = cadence_calendars(
        fleet, now, change=ChangeKind(target.value), until=now + _A_WEEK
    )
    return calendar.windows[0].start if calendar.windows else None


def _patched(rows: Iterable[InstalledVersion]) -> Mapping[str, datetime | None]:
    """When each host had any of some parts installed last; None where nobody knows."""
    found: dict[str, datetime | None] = {}
    for row in rows:
        last = found.get(row.node)
        found[row.node] = row.since if last is None else max(last, row.since or last)
    return found
