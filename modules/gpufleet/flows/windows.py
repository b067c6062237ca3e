"""Whether a site may change now, by its calendars: what every flow asks first."""

from datetime import datetime, timedelta
from pathlib import Path

from gpufleet.core.freeze import Decision, Purpose, decide
from gpufleet.edges.calendars import read_calendars
from gpufleet.spec import Fleet


def decision_at(  # noqa: PLR0913 - who asks, where, when, for how long and why
    fleet: Fleet,
    fleet_file: Path,
    site: str,
    now: datetime,
    *,
    needs: timedelta = timedelta(),
    purpose: Purpose = Purpose.CHANGE,
) -> Decision:
    """The decision on a change of a site that would begin now; arguments as of `decide`."""
    calendars = read_calendars(fleet, fleet_file, site, now)
    required = fleet.governance.calendar_required
    return decide(calendars, now, required=required, needs=needs, purpose=purpose)
