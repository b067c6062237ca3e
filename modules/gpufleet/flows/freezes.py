"""What people ask of freezes: may this change begin, when may it, and what is declared."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gpufleet.core.freeze import Decision, Subject, decide, next_openings, subject_of
from gpufleet.core.freeze_outlook import windows_between
from gpufleet.core.maintenance import cadence_calendars
from gpufleet.edges.calendars import read_calendars, read_undeclared
from gpufleet.edges.clock import clock_of
from gpufleet.edges.workspace import Workspace
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.freeze_scope import FORM, parse_scope, strangers
from gpufleet.spec.freezes import (
    CalendarRow,
    FreezeCheck,
    FreezeList,
    OpeningRow,
    SiteOpenings,
    WindowRow,
)
from gpufleet.spec.hardware import EmbeddedCluster
from gpufleet.spec.windows import HORIZON, Calendar, ChangeKind, Scope, WindowKind

LONGEST_S: Final = HORIZON.total_seconds()
MOST_DAYS: Final = 366
_MOST_OPENINGS: Final = 100
_ROUNDS: Final = 1000
"""Openings that are tried until one is common to all sites."""


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
class _Question:
    """What is asked, understood."""

    fleet: Fleet
    fleet_file: Path
    now: datetime
    at: datetime
    needs: timedelta
    subjects: tuple[Subject, ...]
    """One for each site and kind of change."""
    calendar: Path | None

    @property
    def required(self) -> bool:
        return self.calendar is None and self.fleet.governance.calendar_required

    def calendars(self, subject: Subject) -> list[Calendar]:
        """What decides about a subject, with the windows after the time that is asked about."""
        if self.calendar is not None:
            return [read_undeclared(self.calendar, self.at, self.fleet)]
        return [
            *read_calendars(self.fleet, self.fleet_file, subject.site, self.now, at=self.at),
            *cadence_calendars(self.fleet, self.at, change=subject.change),
        ]


def check(workspace: Workspace, fleet_file: Path, asked: Asked) -> FreezeCheck:
    """Whether a change may begin at a time, at every site that it is about.

    Raises:
        BadInput: what is asked cannot be understood, or names what the fleet does not have.
    """
    question = _understood(workspace, fleet_file, asked)
    read = [(subject, question.calendars(subject)) for subject in question.subjects]
    decisions = _decisions(question, read, question.at)
    refused = next((each for each in decisions if not each[1].admitted), None)
    if refused is None:
        first = question.subjects[0]
        return FreezeCheck(
            allowed=True,
            reason="",
            window=None,
            next_opening=None,
            at=question.at.isoformat(),
            site="",
            change=first.change.value,
        )
    subject, decision = refused
    opens = _common_opening(question, read, decisions)
    return FreezeCheck(
        allowed=False,
        reason=decision.reason,
        window=WindowRow.of(decision.window, Scope()) if decision.window else None,
        next_opening=opens.isoformat() if opens else None,
        at=question.at.isoformat(),
        site=subject.site,
        change=subject.change.value,
    )


_Read = Sequence[tuple[Subject, list[Calendar]]]
_Decided = Sequence[tuple[Subject, Decision]]


def _decisions(question: _Question, read: _Read, moment: datetime) -> _Decided:
    return [
        (
            subject,
            decide(
                calendars,
                moment,
                required=question.required,
                needs=question.needs,
                subject=subject,
            ),
        )
        for subject, calendars in read
    ]


def _common_opening(question: _Question, read: _Read, decided: _Decided) -> datetime | None:
    """The first time at which every subject is admitted; None where none is known."""
    until = question.at + HORIZON
    for _ in range(_ROUNDS):
        refused = [decision for _, decision in decided if not decision.admitted]
        opens = [decision.opens for decision in refused if decision.opens]
        if len(opens) < len(refused):
            return None
        moment = max(opens, key=lambda each: each.astimezone(UTC))
        if moment.astimezone(UTC) >= until:
            return None
        decided = _decisions(question, read, moment)
        if all(decision.admitted for _, decision in decided):
            return moment
    return None


def upcoming(
    workspace: Workspace, fleet_file: Path, asked: Asked, *, count: str = "5"
) -> list[SiteOpenings]:
    """The next openings of every site and kind of change that is asked about.

    Raises:
        BadInput: as `check`.
    """
    question = _understood(workspace, fleet_file, asked)
    most = whole(count, "--count", _MOST_OPENINGS)
    found = []
    for subject in question.subjects:
        calendars = question.calendars(subject)
        [(_, decision)] = _decisions(question, [(subject, calendars)], question.at)
        openings = next_openings(
            calendars,
            question.at,
            required=question.required,
            needs=question.needs,
            subject=subject,
            count=most,
        )
        found.append(
            SiteOpenings(
                site=subject.site,
                change=subject.change.value,
                open=decision.admitted,
                reason=decision.reason,
                openings=[OpeningRow.of(opening) for opening in openings],
            )
        )
    return found


def declared(
    workspace: Workspace, fleet_file: Path, *, at: str = "", days: str = "90"
) -> FreezeList:
    """Every calendar of a fleet, its cadences too, with the windows of the next days.

    Raises:
        BadInput: time or days.
    """
    fleet = load_fleet(fleet_file)
    now = clock(workspace, fleet)
    begin = moment_of(at) if at else now
    end = begin + timedelta(days=whole(days, "--days", MOST_DAYS))
    return FreezeList(
        fleet=fleet.fleet,
        environment=fleet.environment,
        begin=begin.isoformat(timespec="seconds"),
        end=end.isoformat(timespec="seconds"),
        calendars=calendar_rows(fleet, fleet_file, now, begin, end),
    )


def calendar_rows(
    fleet: Fleet, fleet_file: Path, now: datetime, begin: datetime, end: datetime
) -> list[CalendarRow]:
    """Every calendar of a fleet with its windows between two moments."""
    read: dict[str, Calendar] = {}
    for site in fleet.sites:
        for each in read_calendars(fleet, fleet_file, site, now, at=begin):
            read.setdefault(each.name, each)
    kinds = {name: declared.kind for name, declared in fleet.freeze_calendars.items()}
    return [
        CalendarRow(
            name=each.name,
            source=_source(fleet, each),
            kind=kinds.get(each.name, WindowKind.MAINTENANCE).value,
            sites=sorted(each.scope.sites),
            pools=sorted(each.scope.pools),
            changes=sorted(each.scope.changes),
            problem=each.problem,
            windows=[
                WindowRow.of(window, each.scope) for window in windows_between(each, begin, end)
            ],
        )
        for each in (*read.values(), *cadence_calendars(fleet, begin, until=end))
    ]


def _source(fleet: Fleet, calendar: Calendar) -> str:
    if calendar.is_cadence:
        return "patching"
    given = fleet.freeze_calendars[calendar.name]
    if given.file is not None:
        return given.file
    # An address may be secret.
    return urlsplit(given.url or "").netloc


def clock(workspace: Workspace, fleet: Fleet) -> datetime:
    """Now, by the environment's clock."""
    simulated = all(isinstance(site.cluster, EmbeddedCluster) for site in fleet.sites.values())
    return clock_of(workspace.for_fleet(fleet), simulated=simulated)()


def _understood(workspace: Workspace, fleet_file: Path, asked: Asked) -> _Question:
    fleet = load_fleet(fleet_file)
    now = clock(workspace, fleet)
    needs_s = _seconds(asked.duration_s, "--duration-s") + _seconds(
        asked.rollback_s, "--rollback-s"
    )
    return _Question(
        fleet=fleet,
        fleet_file=fleet_file,
        now=now,
        at=moment_of(asked.at) if asked.at else now,
        needs=timedelta(seconds=min(needs_s, LONGEST_S)),
        subjects=tuple(_subjects(fleet, asked.scope, asked.change)),
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
