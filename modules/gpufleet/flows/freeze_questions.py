"""What people ask of freezes, as their command lines say it: times, scopes, durations."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Final

from gpufleet.core.freeze import Subject, subject_of
from gpufleet.core.maintenance import cadence_calendars
from gpufleet.edges.calendars import read_calendars, read_undeclared
from gpufleet.edges.clock import clock_of
from gpufleet.edges.workspace import Workspace
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.freeze_scope import FORM, parse_scope, strangers
from gpufleet.spec.hardware import EmbeddedCluster
from gpufleet.spec.windows import HORIZON, Calendar, ChangeKind, Scope

LONGEST_S: Final = HORIZON.total_seconds()
MOST_DAYS: Final = 366


@dataclass(frozen=True)
class Asked:
    """What somebody asks about, as the command line says it."""

    at: str = ""
    scope: str = ""
    change: str = ""
    duration_s: str = "0"
    rollback_s: str = "0"
    calendar: str = ""
    """The only iCalendar file that decides; the fleet's own calendars where it is empty."""


@dataclass(frozen=True)
class Question:
    """What is asked, understood."""

    fleet: Fleet
    fleet_file: Path
    now: datetime
    at: datetime
    needs: timedelta
    subjects: tuple[Subject, ...]
    """One for each site and kind of change."""
    pools: frozenset[str]
    """Those that were named; every pool where it is empty."""
    calendar: Path | None

    @property
    def required(self) -> bool:
        """Whether having no calendar at all counts as frozen."""
        return self.calendar is None and self.fleet.governance.calendar_required

    def calendars(self, subject: Subject) -> list[Calendar]:
        """What decides about a subject, with the windows after the time that is asked about."""
        if self.calendar is not None:
            return [read_undeclared(self.calendar, self.at, self.fleet)]
        return [
            *read_calendars(self.fleet, self.fleet_file, subject.site, self.now, at=self.at),
            *cadence_calendars(self.fleet, self.at, change=subject.change),
        ]


def clock(workspace: Workspace, fleet: Fleet) -> datetime:
    """Now, by the environment's clock."""
    simulated = all(isinstance(site.cluster, EmbeddedCluster) for site in fleet.sites.values())
    return clock_of(workspace.for_fleet(fleet), simulated=simulated)()


def understood(workspace: Workspace, fleet_file: Path, asked: Asked) -> Question:
    """What is asked, with its names looked up in a fleet file.

    Raises:
        BadInput: it cannot be understood, or names what the fleet does not have.
    """
    fleet = load_fleet(fleet_file)
    now = clock(workspace, fleet)
    needs_s = _seconds(asked.duration_s, "--duration-s") + _seconds(
        asked.rollback_s, "--rollback-s"
    )
    return Question(
        fleet=fleet,
        fleet_file=fleet_file,
        now=now,
        at=moment_of(asked.at) if asked.at else now,
        needs=timedelta(seconds=min(needs_s, LONGEST_S)),
        subjects=tuple(_subjects(fleet, asked.scope, asked.change)),
        pools=_scope(asked.scope).pools,
        calendar=Path(asked.calendar).resolve() if asked.calendar else None,
    )


def _subjects(fleet: Fleet, text: str, change: str) -> Iterable[Subject]:
    """Every site and kind of change that a scope and a flag name.

    Raises:
        BadInput: they name what there is not, or contradict each other.
    """
    scope = _scope(text)
    for stranger in strangers(scope, fleet):
        raise BadInput(stranger, where="--scope")
    kinds = [_kind(change)] if change else []
    if kinds and scope.changes:
        raise BadInput("the scope names the change already", where="--change", mend="name it once")
    if len(scope.environments) > 1:
        raise BadInput("is about one environment at a time", where="--scope", mend=FORM)
    sites = [
        site
        for site in fleet.sites
        if (not scope.sites or site in scope.sites)
        and (not scope.pools or scope.pools & fleet.pools_at(site).keys())
    ]
    if not sites:
        what = f"{', '.join(sorted(scope.pools))} stands at none of these sites"
        raise BadInput(what, where="--scope", mend=FORM)
    for site, kind in product(sites, kinds or sorted(scope.changes) or [ChangeKind.STACKS]):
        subject = subject_of(fleet, site, kind, scope.pools & fleet.pools_at(site).keys())
        [environment] = scope.environments or {fleet.environment}
        yield Subject(environment, subject.site, subject.pools, subject.change)


def _scope(text: str) -> Scope:
    try:
        said = parse_scope(text)
    except ValueError as error:
        raise BadInput(str(error), where="--scope") from None
    if said.kind is not None:
        raise BadInput("a change has no kind of window", where="--scope", mend=FORM)
    return said.scope


def _kind(text: str) -> ChangeKind:
    try:
        return ChangeKind(text)
    except ValueError:
        mend = f"valid here: {', '.join(ChangeKind)}"
        raise BadInput(
            f"there is no kind of change `{text:.40}`", where="--change", mend=mend
        ) from None


def moment_of(text: str) -> datetime:
    """A time as the command line says it; in UTC where it names no offset.

    Raises:
        BadInput: it is none.
    """
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        # Calendars are read for more than a year around it.
        for away in (-HORIZON, 2 * HORIZON):
            (moment.astimezone(UTC) + away).astimezone(UTC)
    except (ValueError, OverflowError):
        what = f"`{text:.40}` is not a time such as 2026-12-28T23:50:00+01:00"
        raise BadInput(what, where="--at") from None
    return moment


def _seconds(text: str, flag: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= LONGEST_S:
        what = f"`{text:.40}` is not a number of seconds from 0 to {LONGEST_S:.0f}"
        raise BadInput(what, where=flag)
    return value


def whole(text: str, flag: str, most: int) -> int:
    """A whole number from 1 to `most`, as a flag says it.

    Raises:
        BadInput: it is none.
    """
    if not re.fullmatch("[0-9]{1,6}", text) or not 0 < int(text) <= most:
        raise BadInput(f"`{text:.40}` is not a whole number from 1 to {most}", where=flag)
    return int(text)
