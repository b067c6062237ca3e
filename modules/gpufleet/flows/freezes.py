"""Whether a change may begin, when it may, and what is declared: the answers about freezes."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gpufleet.core.freeze import Decision, Subject, decide, next_openings
from gpufleet.core.freeze_outlook import windows_between
from gpufleet.core.maintenance import cadence_calendars
from gpufleet.core.overrides import Target, lifted
from gpufleet.edges.calendars import read_calendars
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.freeze_questions import (
    MOST_DAYS,
    Asked,
    Question,
    clock,
    moment_of,
    understood,
    whole,
)
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.freezes import (
    CalendarRow,
    FreezeCheck,
    FreezeList,
    OpeningRow,
    SiteOpenings,
    WindowRow,
)
from gpufleet.spec.overrides import Override
from gpufleet.spec.windows import HORIZON, Calendar, Scope, WindowKind

_MOST_OPENINGS: Final = 100
_ROUNDS: Final = 1000
"""Openings that are tried until one is common to all sites."""


def check(workspace: Workspace, fleet_file: Path, asked: Asked) -> FreezeCheck:
    """Whether a change may begin at a time, at every site that it is about.

    Raises:
        BadInput: what is asked cannot be understood, or names what the fleet does not have.
    """
    question = understood(workspace, fleet_file, asked)
    read = [(subject, question.calendars(subject)) for subject in question.subjects]
    decisions = _decisions(question, read, question.at)
    overrides: list[Override] = []
    if question.calendar is None and not all(decision.admitted for _, decision in decisions):
        # Only who is refused pays for the database.
        from gpufleet.flows.windows import own_overrides  # noqa: PLC0415

        overrides = own_overrides(question.fleet, question.at)
        decisions = _decisions(question, read, question.at, overrides)
    refused = next((each for each in decisions if not each[1].admitted), None)
    if refused is None:
        used = {name: decision for _, decision in decisions for name in decision.overrides}
        return FreezeCheck(
            allowed=True,
            reason=next((decision.reason for decision in used.values()), ""),
            window=None,
            next_opening=None,
            at=question.at.isoformat(),
            site="",
            change=question.subjects[0].change.value,
            overrides=sorted(used),
        )
    subject, decision = refused
    opens = _common_opening(question, read, decisions, overrides)
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


def _decisions(
    question: Question, read: _Read, moment: datetime, overrides: Sequence[Override] = ()
) -> _Decided:
    return [
        (subject, _decision(question, subject, calendars, moment, overrides))
        for subject, calendars in read
    ]


def _decision(
    question: Question,
    subject: Subject,
    calendars: Sequence[Calendar],
    moment: datetime,
    overrides: Sequence[Override],
) -> Decision:
    def judge(at: datetime, takes: timedelta) -> Decision:
        return decide(calendars, at, required=question.required, needs=takes, subject=subject)

    target = Target(subject.site, subject.change, tuple(sorted(question.pools & {*subject.pools})))
    return lifted(judge, overrides, target, moment, question.needs)


def _common_opening(
    question: Question, read: _Read, decided: _Decided, overrides: Sequence[Override]
) -> datetime | None:
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
        decided = _decisions(question, read, moment, overrides)
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
    question = understood(workspace, fleet_file, asked)
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
