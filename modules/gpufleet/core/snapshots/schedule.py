"""What is taken when, how old the newest good snapshot may be, and the same as a cron line."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gpufleet.core.protection import age_of, tightest_rpo
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.protection import REVISION
from gpufleet.spec.snapshot_schedule import SOONEST_S
from gpufleet.spec.snapshots import SnapshotKind

_HOUR_MIN: Final = 60
_DAY_H: Final = 24
_DAY_MIN: Final = 1440
_WEEK_MIN: Final = 7 * _DAY_MIN


@dataclass(frozen=True)
class Line:
    """One thing that is taken again and again."""

    revision: str
    kind: SnapshotKind
    every: timedelta
    """Longest time between two."""
    rpo: timedelta
    """Age above which the newest good one is too old."""
    source: str = ""
    """Folder of the files; empty for a protected set, which is made."""
    claim: str = ""
    """PersistentVolumeClaim that the folder is in; empty for the worker's own machine."""
    site: str = ""
    """Whose store keeps it; empty for the only one, and for a protected set, which all keep."""


@dataclass(frozen=True)
class LineStanding:
    """How a line stands."""

    age: timedelta | None
    """Of the newest good snapshot; None where there is none."""
    due: bool
    """Whether one is to be taken now."""
    late: bool
    """Whether the newest is older than it may be."""
    next_at: datetime
    """When the next one is due."""


def lines(fleet: Fleet) -> list[Line]:
    """Everything that a fleet takes by itself: the protected set first, then revisions by name."""
    rpo = tightest_rpo(fleet)
    given_s = fleet.snapshot_schedule.protect_every_s
    every = timedelta(seconds=given_s) if given_s else max(rpo / 2, timedelta(seconds=SOONEST_S))
    return [
        Line(REVISION, SnapshotKind.STATE, every, rpo),
        *(
            Line(
                revision=name,
                kind=SnapshotKind.ARTIFACT,
                every=timedelta(seconds=each.every_s),
                rpo=timedelta(seconds=each.limit_s),
                source=each.source,
                claim=each.claim or "",
                site=each.site or "",
            )
            for name, each in sorted(fleet.snapshot_schedule.revisions.items())
        ),
    ]


def standing(line: Line, newest: datetime | None, now: datetime) -> LineStanding:
    """How a line stands.

    Args:
        line: it.
        newest: when the newest good snapshot was created; None where there is none.
        now: the time.
    """
    if newest is None:
        return LineStanding(age=None, due=True, late=True, next_at=now)
    age = age_of(newest, now)
    next_at = max(newest + line.every, now)
    return LineStanding(age, due=age >= line.every, late=age > line.rpo, next_at=next_at)


def cron_of(every: timedelta, name: str) -> str:
    """A cron line (UTC) that comes at least as often as asked for, and always at equal times.

    Cron knows equal times only where they divide the hour, the day or the week: 7 min becomes 6,
    50 min 30, 5 h 4 h, two days one day. Lines of an hour or more begin at a minute (and hour) of
    their own, so that not all begin at once.

    Args:
        every: a minute at least.
        name: of what it is for.
    """
    minutes = int(every.total_seconds() // 60)
    spread = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    minute, hour, weekday = spread % _HOUR_MIN, spread // _HOUR_MIN % _DAY_H, spread % 7
    if minutes < _HOUR_MIN:
        step = _divisor(minutes, _HOUR_MIN)
        return "* * * * *" if step == 1 else f"*/{step} * * * *"
    if minutes < _DAY_MIN:
        step = _divisor(minutes // _HOUR_MIN, _DAY_H)
        return f"{minute} * * * *" if step == 1 else f"{minute} */{step} * * *"
    if minutes < _WEEK_MIN:
        return f"{minute} {hour} * * *"
    return f"{minute} {hour} * * {weekday}"


def _divisor(most: int, whole: int) -> int:
    """The largest divisor of `whole` that is not above `most`, which is 1 at least."""
    return next(step for step in range(max(most, 1), 0, -1) if whole % step == 0)
