"""When each drill is due, and each revision's restore has to be proven again."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from gpufleet.core.drills.scenarios import SCENARIOS, SITE_LOST, targets_of
from gpufleet.spec.drill_cadence import ScenarioName
from gpufleet.spec.drills import DrillReport, Due, ProvenRestore
from gpufleet.spec.fleet import Fleet

RESTORE: Final = "restore"
"""Stands in the place of a scenario for the restores of revisions."""


def due_drills(
    fleet: Fleet, reports: Iterable[DrillReport], since: datetime, now: datetime
) -> list[Due]:
    """When each scenario is due: each site by itself, of the others any target counts.

    Args:
        fleet: as declared.
        reports: of drills.
        since: when the environment began; a scenario that was never met is due a cadence later.
        now: the time.
    """
    met: dict[tuple[str, str], DrillReport] = {}
    for report in sorted(reports, key=lambda each: each.begun_at):
        if report.met:
            met[report.scenario, _counted_as(report.scenario, report.target)] = report
    found = []
    for scenario in ScenarioName:
        targets = targets_of(fleet, scenario)
        for target in dict.fromkeys(_counted_as(scenario, each) for each in targets):
            last = met.get((scenario, target))
            found.append(
                _due(
                    scenario,
                    target,
                    fleet.drills.of(scenario),
                    last.begun_at if last else None,
                    last.recovered_s if last else None,
                    (since, now),
                )
            )
    return found


def due_restores(
    fleet: Fleet,
    held: Mapping[str, Iterable[str]],
    proven: Iterable[ProvenRestore],
    since: datetime,
    now: datetime,
) -> list[Due]:
    """When the restore of each revision that a pool serves has to be proven, store by store.

    Args:
        fleet: as declared.
        held: revisions of which each site's store has a snapshot.
        proven: restores that were.
        since: when the environment began; what was never proven is due at once.
        now: the time.
    """
    last: dict[tuple[str, str], ProvenRestore] = {}
    for each in sorted(proven, key=lambda one: one.at):
        last[each.revision, each.site] = each
    served = dict.fromkeys(pool.model for pool in fleet.pools.values())
    every_s = fleet.drills.restore_every_s
    found = []
    for site, revisions in held.items():
        for revision in served:
            if revision not in set(revisions):
                continue
            known = last.get((revision, site))
            at, took_s = (known.at, known.seconds) if known else (None, None)
            times = (since - timedelta(seconds=every_s), now)
            found.append(_due(RESTORE, f"{revision}@{site}", every_s, at, took_s, times))
    return found


def _counted_as(scenario: str, target: str) -> str:
    """Any pool proves a scenario of single replicas, any stack that of states; no site another."""
    if SCENARIOS[scenario].target == target or scenario == SITE_LOST.name:
        return target
    return f"any {SCENARIOS[scenario].target.partition('@')[0]}"


def _due(  # noqa: PLR0913, PLR0917 - what a row is made of
    scenario: str,
    target: str,
    every_s: float,
    proven_at: datetime | None,
    proven_s: float | None,
    times: tuple[datetime, datetime],
) -> Due:
    since, now = times
    due_at = (proven_at or since) + timedelta(seconds=every_s)
    return Due(
        scenario=scenario,
        target=target,
        every_s=every_s,
        proven_at=proven_at,
        proven_s=proven_s,
        due_at=due_at,
        overdue_s=max(0.0, (now - due_at).total_seconds()),
    )
