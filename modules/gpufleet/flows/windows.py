"""Whether a site may change now, by its calendars: what every flow asks first."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from gpufleet.core.freeze import Decision, Purpose, decide, subject_of
from gpufleet.core.maintenance import cadence_calendars
from gpufleet.edges.calendars import read_calendars
from gpufleet.spec import Fleet
from gpufleet.spec.windows import Calendar, ChangeKind


def calendars_at(
    fleet: Fleet, fleet_file: Path, site: str, now: datetime, change: ChangeKind
) -> list[Calendar]:
    """What decides on a kind of change at a site: its freeze calendars, and its cadence."""
    declared = read_calendars(fleet, fleet_file, site, now)
    return [*declared, *cadence_calendars(fleet, now, change=change)]


def decision_at(  # noqa: PLR0913 - who asks, where, when, for how long and why
    fleet: Fleet,
    fleet_file: Path,
    site: str,
    now: datetime,
    *,
    needs: timedelta = timedelta(),
    purpose: Purpose = Purpose.CHANGE,
    change: ChangeKind = ChangeKind.STACKS,
    pools: Iterable[str] = (),
) -> Decision:
    """The decision on a change of a site that would begin now; other arguments as of `decide`.

    Args:
        fleet: what is declared.
        fleet_file: calendars' paths are relative to it.
        site: a site of the fleet.
        now: with a time zone.
        needs: time that the change takes with its rollback.
        purpose: why something is to change.
        change: which kind of change; one that `patching` has a cadence for is admitted in the
            cadence's windows only.
        pools: pools that it touches; every pool of the site where none is named.
    """
    return decide(
        calendars_at(fleet, fleet_file, site, now, change),
        now,
        required=fleet.governance.calendar_required,
        needs=needs,
        purpose=purpose,
        subject=subject_of(fleet, site, change, pools),
    )
