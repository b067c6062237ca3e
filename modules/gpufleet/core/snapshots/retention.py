"""Which snapshots are kept: grandfather, father, son, and what must never go."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import groupby
from typing import Final, NamedTuple

from gpufleet.spec.governance import SnapshotRetention
from gpufleet.spec.snapshots import SnapshotKind, SnapshotSummary

LAST_GOOD: Final = "the last good one"
_EVERY_SET_FOR: Final = timedelta(days=1)
"""How long each protected set is locked, and kept."""


@dataclass(frozen=True)
class Retained:
    """What a prune keeps and removes; both from the oldest snapshot on."""

    keep: Mapping[str, str]
    """ID: why."""
    remove: tuple[str, ...]


class Standing(NamedTuple):
    """A snapshot that lists, and what is known of it."""

    summary: SnapshotSummary
    damaged: bool = False
    """Whether a verification found something missing or wrong."""
    needed_by: str = ""
    """What refers to it: a revision of the fleet file, a promotion, a restore that runs."""


def retained(
    snapshots: Iterable[Standing], policy: SnapshotRetention, *, zone: tzinfo, now: datetime
) -> Retained:
    """Decide for each revision by itself.

    Of the newest days, weeks and months that have a good snapshot, the newest good one of each is
    kept; of protected sets the first good one, which `lock_for` locks for as long, and every one
    of the last day. A damaged one takes nobody's place: it goes when a newer good one is there, and
    stays where it may be all there is.

    Args:
        snapshots: in any order.
        policy: how many days, weeks and months.
        zone: where days begin.
        now: what was created later has a clock that went wrong; it is kept, and counts for nothing.
    """
    every = sorted(snapshots, key=lambda one: (one.summary.created.astimezone(UTC), one.summary.id))
    keep: dict[str, str] = {}
    for _, group in groupby(sorted(every, key=_line), key=_line):
        keep |= _of_line(list(group), policy, zone, now)
    keep |= {one.summary.id: one.needed_by for one in every if one.needed_by}
    ids = [one.summary.id for one in every]
    return Retained(
        {one: keep[one] for one in ids if one in keep}, tuple(one for one in ids if one not in keep)
    )


def needed(snapshots: Iterable[Standing], served: Mapping[tuple[str, str], str]) -> list[Standing]:
    """The same, with what needs them: of each revision that is served, one with its digest.

    That is the newest good one; where all are damaged, the newest.

    Args:
        snapshots: in any order.
        served: by name and digest of a revision, what serves it.
    """
    ordered = sorted(
        snapshots, key=lambda one: (not one.damaged, one.summary.created, one.summary.id)
    )
    chosen = {(one.summary.revision, one.summary.digest): one.summary.id for one in ordered}
    wanted = {chosen[each]: why for each, why in served.items() if each in chosen}
    return [
        one._replace(needed_by=one.needed_by or wanted.get(one.summary.id, "")) for one in ordered
    ]


def _of_line(
    ones: Sequence[Standing], policy: SnapshotRetention, zone: tzinfo, now: datetime
) -> dict[str, str]:
    """What is kept of one revision, and why; from the oldest snapshot on."""
    past = [one for one in ones if one.summary.created <= now]
    good = [one.summary for one in past if not one.damaged]
    keep = {one.summary.id: "created in the future" for one in ones if one not in past}
    for one in reversed(past):
        if not one.damaged:
            break
        keep[one.summary.id] = "damaged, and no newer one is good"
    keep |= {
        one.id: "of the last day"
        for one in good
        if one.kind is SnapshotKind.STATE and one.created > now - _EVERY_SET_FOR
    }
    return keep | _by_period(good, policy, zone) | {one.id: LAST_GOOD for one in good[-1:]}


def _line(one: Standing) -> tuple[str, str]:
    return one.summary.kind.value, one.summary.revision


def _by_period(
    good: Sequence[SnapshotSummary], policy: SnapshotRetention, zone: tzinfo
) -> dict[str, str]:
    """Months first: the reason that holds for the shortest time is told last."""
    periods: tuple[tuple[str, int, Callable[[datetime], str]], ...] = (
        ("month", policy.monthly, lambda at: f"{at:%Y-%m}"),
        ("week", policy.weekly, lambda at: f"{at:%G-W%V}"),
        ("day", policy.daily, lambda at: f"{at:%Y-%m-%d}"),
    )
    # Of a period the last one in this order is kept.
    ordered = [one for one in good if one.kind is not SnapshotKind.STATE]
    ordered += [one for one in reversed(good) if one.kind is SnapshotKind.STATE]
    keep: dict[str, str] = {}
    for name, count, period_of in periods:
        of_period = {period_of(one.created.astimezone(zone)): one.id for one in ordered}
        chosen = sorted(of_period.items(), reverse=True)[:count]
        keep |= {snapshot: f"{name} {period}" for period, snapshot in chosen}
    return keep


def lock_for(policy: SnapshotRetention, earlier: datetime | None, now: datetime) -> timedelta:
    """How long a snapshot is locked of which several are taken each day.

    The first good one of a day (in UTC) for as long as one of each day is kept; the others for a
    day, so that what is taken every few minutes does not fill the store.

    Args:
        policy: how many days.
        earlier: when the newest good one that is there was created; None where there is none.
        now: when this one is.
    """
    is_first = earlier is None or earlier.astimezone(UTC).date() < now.astimezone(UTC).date()
    return timedelta(days=max(policy.daily, 1)) if is_first else _EVERY_SET_FOR
