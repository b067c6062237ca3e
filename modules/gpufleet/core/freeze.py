"""Whether something may change now: the one place that decides it.

Deny beats allow; what cannot be known counts as frozen. A window holds from its start up to, and
not including, its end. Moments are compared in UTC: in one zone Python compares wall clocks, which
are wrong when clocks change.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from itertools import islice
from typing import Final, Self

from gpufleet.core.spans import Span, gaps, intersection, union
from gpufleet.spec.errors import PolicyRefused
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.windows import (
    HORIZON,
    Calendar,
    ChangeKind,
    Opening,
    Scope,
    Window,
    WindowKind,
)

_FOREVER: Final = datetime.max.replace(tzinfo=UTC)
_NAMES_SHOWN: Final = 4


class Purpose(StrEnum):
    """Why something is to change."""

    CHANGE = "change"
    RESTORE = "restore"
    QUARANTINE = "quarantine"
    ROLLBACK = "rollback"
    SELF_HEALING = "self-healing"
    AUTOSCALING = "autoscaling"
    FIRST_PROVISIONING = "first provisioning"


EXEMPT: Final = frozenset(Purpose) - {Purpose.CHANGE}
"""What goes on in a freeze: stopping it would do more harm than the change."""


class Cause(StrEnum):
    """What kind of reason a refusal has."""

    NO_CALENDAR = "no calendar"
    UNTRUSTED = "untrusted calendar"
    BLACKOUT = "blackout"
    MAINTENANCE = "maintenance"
    """It is outside of its maintenance windows, or does not fit into this one."""


@dataclass(frozen=True)
class Subject:
    """What would change. An empty part stands for everything: what holds for one, holds for it."""

    environment: str = ""
    site: str = ""
    pools: tuple[str, ...] = ()
    change: ChangeKind = ChangeKind.STACKS


ANYTHING: Final = Subject()


@dataclass(frozen=True)
class Decision:
    """Whether a change may begin, why not, and when it could at the earliest."""

    admitted: bool
    reason: str = ""
    window: Window | None = None
    """The blackout that refuses it; or the maintenance window that it does not fit into, or the
    next one."""
    opens: datetime | None = None
    """Empty where no opening is known within `HORIZON`."""
    exempt: bool = False
    cause: Cause | None = None
    """Empty where nothing refuses it."""
    closes: datetime | None = None
    """When the opening ends that holds now, whether the change fits into it or not."""
    overrides: tuple[str, ...] = ()
    """The overrides that admitted it against the calendars."""


def subject_of(
    fleet: Fleet,
    site: str,
    change: ChangeKind = ChangeKind.STACKS,
    pools: Iterable[str] = (),
) -> Subject:
    """A change at a site; of every pool there, where none is named."""
    touched = tuple(sorted(pools)) or tuple(sorted(fleet.pools_at(site)))
    return Subject(fleet.environment, site, touched, change)


def decide(  # noqa: PLR0913 - what, where, when, for how long and why
    calendars: Sequence[Calendar],
    now: datetime,
    *,
    required: bool = True,
    needs: timedelta = timedelta(),
    purpose: Purpose = Purpose.CHANGE,
    subject: Subject = ANYTHING,
) -> Decision:
    """Decide on a change that would begin now.

    Args:
        calendars: every calendar that holds for the site, and the cadences of patching.
        now: with a time zone.
        required: whether having no freeze calendar at all counts as frozen.
        needs: time that the change takes with its rollback; it has to end before the next blackout,
            and before its maintenance window closes.
        purpose: exempt purposes are always admitted, and marked.
        subject: what would change.
    """
    found = _decision(calendars, _utc(now), required=required, needs=needs, subject=subject)
    if found.admitted or purpose not in EXEMPT:
        return found
    return replace(found, admitted=True, opens=None, exempt=True)


def next_openings(  # noqa: PLR0913 - what, where, when, for how long and how many
    calendars: Sequence[Calendar],
    now: datetime,
    *,
    required: bool = True,
    needs: timedelta = timedelta(),
    subject: Subject = ANYTHING,
    count: int = 5,
) -> list[Opening]:
    """The next times in which a change fits with its rollback; the first may hold already.

    Arguments as of `decide`. Empty where a calendar cannot be trusted: then nothing is known.
    """
    now = _utc(now)
    if unknown(calendars, subject, required=required):
        return []
    found = Holding.of(calendars, subject)
    fitting = (
        Opening(found.shown(start), found.shown(end) if end < _FOREVER else None)
        for start, end in found.openings(now)
        if _fits((start, end), needs) and start < now + HORIZON
    )
    return list(islice(fitting, count))


def _decision(
    calendars: Sequence[Calendar],
    now: datetime,
    *,
    required: bool,
    needs: timedelta,
    subject: Subject,
) -> Decision:
    if refused := unknown(calendars, subject, required=required):
        return refused
    found = Holding.of(calendars, subject)
    openings = found.openings(now)
    closes = None
    if openings and openings[0][0] <= now:
        end = openings[0][1]
        closes = found.shown(end) if end < _FOREVER else None
        if _fits(openings[0], needs):
            return Decision(admitted=True, closes=closes)
    later = (start for start, end in openings if start > now and _fits((start, end), needs))
    opens = next(later, None)
    known = found.shown(opens) if opens and opens < now + HORIZON else None
    cause, reason, window = found.reason(now, needs, subject)
    return Decision(
        admitted=False, reason=reason, window=window, opens=known, cause=cause, closes=closes
    )


def unknown(calendars: Sequence[Calendar], subject: Subject, *, required: bool) -> Decision | None:
    """The refusal where calendars are missing, or hold for the subject and cannot be trusted."""
    if required and all(calendar.is_cadence for calendar in calendars):
        reason = "no freeze calendar holds here, and governance.calendar_required is true"
        return Decision(admitted=False, reason=reason, cause=Cause.NO_CALENDAR)
    for calendar in calendars:
        if calendar.problem and _may_hold(calendar.scope, subject, *subject.pools):
            reason = f"calendar `{calendar.name}` counts as frozen: {calendar.problem}"
            return Decision(admitted=False, reason=reason, cause=Cause.UNTRUSTED)
    return None


def _fits(opening: Span, needs: timedelta) -> bool:
    return opening[1] - opening[0] >= needs


@dataclass(frozen=True)
class Holding:
    """The windows that hold for a subject: all blackouts as blocks, and when it is maintained."""

    blackouts: list[Window]
    maintained: list[list[Window]]
    """The windows of each part of the subject that may change inside these alone."""

    @classmethod
    def of(cls, calendars: Sequence[Calendar], subject: Subject) -> Self:
        """Those of calendars that can be trusted."""
        blackouts = merged(
            window
            for calendar in calendars
            if _may_hold(calendar.scope, subject, *subject.pools)
            for window in calendar.windows
            if window.kind is WindowKind.BLACKOUT
            and _may_hold(window.scope, subject, *subject.pools)
        )
        parts: dict[tuple[int, ...], list[Window]] = {}
        for pool in _maintained_pools(calendars, subject):
            windows = list(_maintenance(calendars, subject, pool))
            parts.setdefault(tuple(map(id, windows)), windows)
        return cls(blackouts, list(parts.values()))

    def openings(self, now: datetime) -> list[Span]:
        """When the subject may change at all, from now on."""
        found = gaps([block.span for block in self.blackouts], (now, _FOREVER))
        for windows in self.maintained:
            found = intersection(found, _spans(windows))
        return found

    def reason(
        self, now: datetime, needs: timedelta, subject: Subject
    ) -> tuple[Cause, str, Window | None]:
        """Why a change that begins now is refused: a blackout first, since deny beats allow."""
        for block in self.blackouts:
            if _holds(block, now):
                return Cause.BLACKOUT, f"freeze `{block.name}`", block
        for windows in self.maintained:
            if not any(start <= now < end for start, end in _spans(windows)):
                reason = f"it is outside of the maintenance windows of {subject.change} changes"
                ahead = [window for window in windows if window.span[0] > now]
                return Cause.MAINTENANCE, reason, min(ahead, key=_start, default=None)
        for block in self.blackouts:
            if now < block.span[0] < now + needs:
                reason = f"it would not end, with its rollback, before freeze `{block.name}`"
                return Cause.BLACKOUT, reason, block
        closing = [
            max((window for window in windows if _holds(window, now)), key=_end)
            for windows in self.maintained
        ]
        first = min(closing, key=_end)
        reason = f"it would not end, with its rollback, before window `{first.name}` closes"
        return Cause.MAINTENANCE, reason, first

    def shown(self, moment: datetime) -> datetime:
        """A moment in the time zone of the window that starts or ends then."""
        return self._edges.get(moment, moment)

    @cached_property
    def _edges(self) -> dict[datetime, datetime]:
        windows = [*self.blackouts, *(window for part in self.maintained for window in part)]
        starts = {window.span[0]: window.start for window in windows}
        return starts | {window.span[1]: window.end for window in windows}


def _may_hold(scope: Scope, subject: Subject, *pools: str) -> bool:
    """Whether a scope holds for any part of a subject; a part that is not said may be it."""
    return (
        (not scope.changes or subject.change in scope.changes)
        and (not scope.sites or not subject.site or subject.site in scope.sites)
        and (not scope.pools or not pools or not scope.pools.isdisjoint(pools))
        and (
            not scope.environments
            or not subject.environment
            or subject.environment in scope.environments
        )
    )


def _surely_holds(scope: Scope, subject: Subject, pool: str) -> bool:
    """Whether a scope holds for the whole of a subject's part: only then may a window open it."""
    return (
        (not scope.changes or subject.change in scope.changes)
        and (not scope.sites or subject.site in scope.sites)
        and (not scope.pools or pool in scope.pools)
        and (not scope.environments or subject.environment in scope.environments)
    )


def _maintained_pools(calendars: Sequence[Calendar], subject: Subject) -> Iterator[str]:
    """The pools that may change inside maintenance windows only; empty text for a whole site."""
    scopes = [
        (calendar.scope, scope)
        for calendar in calendars
        for scope in calendar.maintained
        if _may_hold(calendar.scope, subject) and _may_hold(scope, subject)
    ]
    for pool in subject.pools or ("",):
        named = (pool,) if pool else ()
        if any(all(_may_hold(scope, subject, *named) for scope in both) for both in scopes):
            yield pool


def _maintenance(calendars: Sequence[Calendar], subject: Subject, pool: str) -> Iterator[Window]:
    for calendar in calendars:
        if _surely_holds(calendar.scope, subject, pool):
            for window in calendar.windows:
                if window.kind is WindowKind.MAINTENANCE and _surely_holds(
                    window.scope, subject, pool
                ):
                    yield window


def merged(windows: Iterable[Window]) -> list[Window]:
    """Windows that touch or overlap as one, by time; its name is that of the parts, joined."""
    parts: list[list[Window]] = []
    until = datetime.min.replace(tzinfo=UTC)
    for window in sorted(windows, key=_start):
        start, end = window.span
        if end <= start:
            continue
        if start <= until:
            parts[-1].append(window)
        else:
            parts.append([window])
        until = max(until, end)
    return [block[0] if len(block) == 1 else _joined(block) for block in parts]


def _joined(block: Sequence[Window]) -> Window:
    names = list(dict.fromkeys(window.name for window in block))
    more = len(names) - _NAMES_SHOWN
    shown = names if more <= 0 else [*names[:_NAMES_SHOWN], f"{more} more"]
    return Window(" + ".join(shown), block[0].start, max(block, key=_end).end, kind=block[0].kind)


def refusal(site: str, decision: Decision) -> PolicyRefused:
    """The error for a change of a site that was not admitted."""
    if decision.opens is not None:
        mend = f"the next opening is {_shown(decision.opens)}"
    elif decision.cause in {Cause.BLACKOUT, Cause.MAINTENANCE}:
        mend = f"no opening is known within {HORIZON.days} days; ask whoever keeps the calendar"
    else:
        mend = "mend or declare the calendar (freeze_calendars in the fleet file), then try again"
    window = decision.window
    span = f" ({_shown(window.start)} to {_shown(window.end)})" if window else ""
    return PolicyRefused(f"frozen: {decision.reason}{span}", where=f"site {site}", mend=mend)


def refusal_of_update(site: str, decision: Decision) -> PolicyRefused:
    """The same for an update by hand, which does not wait: it says what does."""
    error = refusal(site, decision)
    mend = f"{error.mend}; ./fleet change --apply waits for the opening (./fleet freeze.queue)"
    return PolicyRefused(error.what, where=error.where, mend=mend)


def _spans(windows: Iterable[Window]) -> list[Span]:
    return union(window.span for window in windows)


def _holds(window: Window, now: datetime) -> bool:
    return window.span[0] <= now < window.span[1]


def _start(window: Window) -> datetime:
    return window.span[0]


def _end(window: Window) -> datetime:
    return window.span[1]


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _shown(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M %Z")
