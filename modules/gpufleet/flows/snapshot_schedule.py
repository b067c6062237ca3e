"""Snapshots that are taken by themselves: what runs when, and the worker that sees to it.

Beside an embedded platform the worker takes what is due; on a cluster CronJobs of the platform
stack do, and the worker only looks. Due is what the store says: a run that was missed is made up
for once, and two workers never take the same.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from gpufleet.core import vocabulary as names
from gpufleet.core.cluster_worker import worker_site
from gpufleet.core.snapshots.schedule import Line, cron_of, lines, standing
from gpufleet.edges.clock import system_clock
from gpufleet.flows.declared import LiveGround
from gpufleet.flows.ground import Ground
from gpufleet.flows.protection import PROTECTED, protect
from gpufleet.flows.snapshots.catalogue import newest_good
from gpufleet.flows.snapshots.meter import quiet
from gpufleet.flows.snapshots.requests import TAKEN, TakeWish, chosen_site, store_of, taken
from gpufleet.flows.stores import places_of
from gpufleet.spec.errors import FleetError, Retryable
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.schedule_reports import ScheduleReport, ScheduleRow
from gpufleet.spec.snapshots import SnapshotKind, SnapshotSummary

WORKER: Final = "worker"
NEVER: Final = datetime.fromtimestamp(0, UTC)
"""When the newest one was created where there is none: older than any objective."""
_RECORDS: Final = 100
"""The newest of the journal that are looked at, of all revisions and sites together."""


class Newest(NamedTuple):
    """The newest good snapshot of a line in one store."""

    line: Line
    site: str
    """Whose store; what the fleet file says where that is wrong."""
    summary: SnapshotSummary | None
    """None where there is none, or nobody knows."""
    fault: str = ""
    """Why nobody knows; empty where one does."""

    @property
    def created(self) -> datetime | None:
        """When it was; None where there is none."""
        return self.summary.created if self.summary else None


def schedule(ground: Ground) -> ScheduleReport:
    """What is taken by itself, by whom, and how old the newest good one is in each store."""
    now = system_clock()
    return ScheduleReport(
        rows=[_row(ground.fleet, each, now) for each in newest(ground, lines(ground.fleet))]
    )


Read = dict[str, dict[str, SnapshotSummary]]
"""What earlier looks have read, by site and ID: a summary never changes."""


def newest(ground: Ground, wanted: Iterable[Line], read: Read | None = None) -> list[Newest]:
    """The newest good snapshot of each line, in each store that is to have it.

    Args:
        ground: the environment.
        wanted: what is looked for.
        read: by earlier calls; grows.
    """
    known = {} if read is None else read
    return [
        _newest(ground, line, site, known.setdefault(site, {}))
        for line in wanted
        for site in _sites(ground, line)
    ]


class ScheduleKeeper:
    """Takes what is due, where that is the worker's task, and tells how old the newest are.

    Args:
        ground: the environment, as its files declare it now.
        kind: what this one sees to: a protected set never waits for a long take of a revision.
        tell: is told each time what stands: the line, its site, and when the newest good one was
            created (`NEVER` where there is none; by the journal where the store does not say);
            None once the line is not declared any more.
    """

    def __init__(
        self,
        ground: LiveGround,
        kind: SnapshotKind,
        tell: Callable[[Line, str, datetime | None], None],
    ) -> None:
        self._ground = ground
        self._kind = kind
        self._tell = tell
        self._known: dict[tuple[str, str], datetime] = {}
        self._told: set[tuple[Line, str]] = set()
        self._tried: dict[Line, float] = {}
        self._read: Read = {}

    def keep(self) -> None:
        """Look, take what is due, and tell.

        Raises:
            FleetError: something that is due could not be taken; the rest was.
        """
        ground = self._ground.now()
        wanted = [line for line in lines(ground.fleet) if line.kind is self._kind]
        found = newest(ground, wanted, self._read)
        told = {(each.line, each.site) for each in found}
        for line, site in self._told - told:
            self._tell(line, site, None)
        self._told = told
        self._note(ground, found)
        if worker_site(ground.fleet) is not None:
            return
        failures: list[FleetError] = []
        for line in wanted:
            if self._is_due(line, [each for each in found if each.line == line]):
                self._tried[line] = time.monotonic()
                try:
                    taken_now = _taken_alone(ground, line)
                except FleetError as error:
                    failures.append(error)
                    continue
                if taken_now:
                    self._note(ground, newest(ground, [line], self._read))
        if failures:
            raise failures[0]

    def _is_due(self, line: Line, found: Iterable[Newest]) -> bool:
        now = system_clock()
        if not any(not each.fault and standing(line, each.created, now).due for each in found):
            return False
        # What fails, in one store of several too, is not tried again at each look.
        tried_at = self._tried.get(line)
        return tried_at is None or time.monotonic() - tried_at >= line.every.total_seconds() / 4

    def _note(self, ground: Ground, found: Iterable[Newest]) -> None:
        for each in found:
            key = (each.line.revision, each.site)
            if not each.fault:
                self._known[key] = each.created or NEVER
            elif key not in self._known:
                self._known[key] = _told_by_journal(ground, each.line, each.site)
            self._tell(each.line, each.site, self._known[key])


def _taken_alone(ground: Ground, line: Line) -> bool:
    """Take what is due, unless another worker does so now; whether it was taken."""
    with ExitStack() as held:
        try:
            held.enter_context(ground.holding(f"snapshot:{line.revision}", why="snapshot"))
        except Retryable:
            return False
        again = [each for each in newest(ground, [line]) if not each.fault]
        now = system_clock()
        if not any(standing(line, each.created, now).due for each in again):
            return False
        if line.kind is SnapshotKind.STATE:
            protect(ground, quiet)
        else:
            taken(ground, TakeWish(Path(line.source), line.revision), line.site, quiet)
    return True


def _told_by_journal(ground: Ground, line: Line, site: str) -> datetime:
    """When a store that does not answer was last given a line's snapshot; `NEVER` without a record.

    Raises:
        Retryable: the database does not answer.
    """
    if line.kind is SnapshotKind.STATE:
        for record in reversed(ground.journal.latest(PROTECTED, _RECORDS)):
            kept = record.body.get("snapshots")
            if isinstance(kept, dict) and site in kept:
                return datetime.fromisoformat(str(record.body["at"]))
        return NEVER
    return next(
        (
            record.at
            for record in reversed(ground.journal.latest(TAKEN, _RECORDS))
            if record.body.get("revision") == line.revision
        ),
        NEVER,
    )


def _sites(ground: Ground, line: Line) -> Iterator[str]:
    """Whose stores are to have a line's snapshots."""
    places = places_of(ground)
    if line.kind is SnapshotKind.STATE and places:
        yield from places
    elif line.site or len(places) != 1:
        yield line.site
    else:
        yield from places


def _newest(ground: Ground, line: Line, site: str, read: dict[str, SnapshotSummary]) -> Newest:
    try:
        store = store_of(ground, chosen_site(ground, site))
        return Newest(line, site, newest_good(store, line.revision, line.kind, read))
    except FleetError as error:
        return Newest(line, site, None, error.what)


def _row(fleet: Fleet, found: Newest, now: datetime) -> ScheduleRow:
    line = found.line
    stands = standing(line, found.created, now)
    at = worker_site(fleet)
    runs = WORKER
    if at is not None:
        name = names.cron_job_of(line.revision, protects=line.kind is SnapshotKind.STATE)
        runs = f"CronJob {name} at {at}, {cron_of(line.every, line.revision)}"
    return ScheduleRow(
        revision=line.revision,
        kind=line.kind,
        site=found.site,
        every_s=line.every.total_seconds(),
        rpo_s=line.rpo.total_seconds(),
        runs=runs,
        newest=found.summary.id if found.summary else "",
        age_s=None if stands.age is None else stands.age.total_seconds(),
        next_at=None if found.fault else stands.next_at,
        late=stands.late,
        fault=found.fault,
    )
