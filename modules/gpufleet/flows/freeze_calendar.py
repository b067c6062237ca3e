"""The next days of freezes and maintenance as a picture, and as a page."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from gpufleet.core.freeze import Subject, subject_of
from gpufleet.core.freeze_outlook import Stretch, days_of, stretches
from gpufleet.core.maintenance import cadence_calendars
from gpufleet.core.spans import Span
from gpufleet.edges.calendars import read_calendars
from gpufleet.edges.whole_files import write_whole
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.freeze_questions import MOST_DAYS, clock, moment_of, whole
from gpufleet.flows.freezes import calendar_rows
from gpufleet.reports.freeze_page import freeze_page
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.freezes import DayRow, FreezeOutlook, OutlookRow, StretchRow
from gpufleet.spec.windows import Calendar, ChangeKind


def outlook_of(
    workspace: Workspace, fleet_file: Path, *, at: str = "", days: str = "90", zone: str = ""
) -> FreezeOutlook:
    """What holds on each of the next days, for every site and every kind of change that differs.

    Args:
        workspace: the clone.
        fleet_file: whose calendars are read.
        at: first day, ISO 8601; today where it is empty.
        days: how many.
        zone: of the days; that of most windows where it is empty.

    Raises:
        BadInput: time, days or zone.
    """
    fleet = load_fleet(fleet_file)
    now = clock(workspace, fleet)
    begin = moment_of(at) if at else now
    count = whole(days, "--days", MOST_DAYS)
    return outlook_over(fleet, fleet_file, now, begin, count, _zone(zone) if zone else None)


def outlook_over(  # noqa: PLR0913, PLR0917 - a fleet, and which of its days
    fleet: Fleet,
    fleet_file: Path,
    now: datetime,
    begin: datetime,
    count: int,
    zone: ZoneInfo | None = None,
) -> FreezeOutlook:
    """What holds on so many days from that of `begin` on; `now` is the time by the clock."""
    sites = {site: read_calendars(fleet, fleet_file, site, now, at=begin) for site in fleet.sites}
    cadences = cadence_calendars(fleet, begin, until=begin + timedelta(days=count + 1))
    calendars = [*cadences, *(each for read in sites.values() for each in read)]
    shown = zone or _usual_zone(calendars)
    spans = list(days_of(begin, count, shown))
    first, last = spans[0][0], spans[-1][1]
    rows = [
        _row(fleet, subject, pool, [*sites[subject.site], *cadences], spans, shown)
        for subject, pool in _subjects(fleet, sites, cadences)
    ]
    listed = calendar_rows(fleet, fleet_file, now, begin, last)
    return FreezeOutlook(
        fleet=fleet.fleet,
        environment=fleet.environment,
        time_zone=shown.key,
        begin=first.astimezone(shown).isoformat(),
        end=last.astimezone(shown).isoformat(),
        rows=rows,
        calendars=listed,
        warnings=[f"calendar `{row.name}`: {row.problem}" for row in listed if row.problem],
    )


def write_freeze_page(outlook: FreezeOutlook, output: Path) -> None:
    """Write the page of an outlook.

    Raises:
        BadInput: the output is a folder, or stands in none.
        Retryable: it cannot be written now.
    """
    if output.is_dir() or not output.parent.is_dir():
        what = "is a folder" if output.is_dir() else f"there is no folder {output.parent}"
        raise BadInput(what, where=str(output), mend="such as --output freezes.html")
    write_whole(output, freeze_page(outlook, datetime.now(UTC)))


def _subjects(
    fleet: Fleet, sites: dict[str, list[Calendar]], cadences: Sequence[Calendar]
) -> Iterator[tuple[Subject, str]]:
    """Each site, each kind of change that something tells apart, and each pool that is named."""
    for site, calendars in sites.items():
        scopes = [
            scope
            for calendar in (*calendars, *cadences)
            for scope in (calendar.scope, *(window.scope for window in calendar.windows))
        ]
        named = {change for scope in scopes for change in scope.changes}
        pools = {pool for scope in scopes for pool in scope.pools} & fleet.pools_at(site).keys()
        for change in (each for each in ChangeKind if each in {ChangeKind.STACKS, *named}):
            yield subject_of(fleet, site, change), ""
            for pool in sorted(pools):
                yield subject_of(fleet, site, change, [pool]), pool


def _row(  # noqa: PLR0913, PLR0917 - what, by which calendars, on which days
    fleet: Fleet,
    subject: Subject,
    pool: str,
    calendars: Sequence[Calendar],
    spans: Sequence[Span],
    zone: ZoneInfo,
) -> OutlookRow:
    required = fleet.governance.calendar_required
    found = stretches(calendars, spans[0][0], spans[-1][1], subject, required=required)
    return OutlookRow(
        site=subject.site,
        change=subject.change.value,
        pool=pool,
        days=[_day(span, found, zone) for span in spans],
    )


def _day(span: Span, found: Iterable[Stretch], zone: ZoneInfo) -> DayRow:
    start, end = span
    return DayRow(
        day=start.astimezone(zone).date().isoformat(),
        length_s=int((end - start).total_seconds()),
        stretches=[
            StretchRow(
                from_s=int((max(each.start, start) - start).total_seconds()),
                to_s=int((min(each.end, end) - start).total_seconds()),
                hold=each.hold.value,
                name=each.name,
            )
            for each in found
            if each.start < end and each.end > start
        ],
    )


def _usual_zone(calendars: Iterable[Calendar]) -> ZoneInfo:
    """The zone that most windows are in; UTC where they have none."""
    zones = Counter(
        window.start.tzinfo.key
        for calendar in calendars
        for window in calendar.windows
        if isinstance(window.start.tzinfo, ZoneInfo)
    )
    return ZoneInfo(zones.most_common(1)[0][0] if zones else "UTC")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        what = f"there is no time zone `{name:.40}`"
        raise BadInput(what, where="--zone", mend="such as Europe/Berlin or UTC") from None
