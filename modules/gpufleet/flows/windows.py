"""Whether a site may change now, by its calendars: what every flow asks first."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from gpufleet.core.freeze import EXEMPT, Decision, Purpose, decide, subject_of
from gpufleet.core.maintenance import cadence_calendars
from gpufleet.core.overrides import Target, in_force, lifted
from gpufleet.edges.calendars import read_calendars
from gpufleet.edges.override_table import current_overrides
from gpufleet.edges.workspace import Workspace
from gpufleet.spec import Fleet
from gpufleet.spec.overrides import Override
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
    node_groups: Iterable[str] = (),
    flow: str = "",
    overrides: Callable[[], Sequence[Override]] | None = None,
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
        pools: pools that it touches; every pool of the site where none is named. An override that
            is for some pools lifts a change only if all that it touches are named.
        node_groups: whose hosts it touches; only overrides ask for them.
        flow: its id; likewise.
        overrides: those in force, asked for only where the calendars refuse; where it is not given,
            they are read from this clone's environment.

    Raises:
        Retryable: the calendars refuse, and the database of overrides does not answer.
    """
    named = tuple(pools)
    calendars = calendars_at(fleet, fleet_file, site, now, change)
    subject = subject_of(fleet, site, change, named)

    def judge(at: datetime, takes: timedelta) -> Decision:
        return decide(
            calendars,
            at,
            required=fleet.governance.calendar_required,
            needs=takes,
            purpose=purpose,
            subject=subject,
        )

    decision = judge(now, needs)
    if decision.admitted or purpose in EXEMPT:
        return decision
    known = overrides or (lambda: own_overrides(fleet, now))
    target = Target(site, change, named, tuple(node_groups), flow)
    return lifted(judge, known(), target, now, needs)


def own_overrides(fleet: Fleet, now: datetime) -> list[Override]:
    """The overrides in force in the environment whose state is in this clone.

    Raises:
        Retryable: its database does not answer.
    """
    state = Workspace.here().for_fleet(fleet)
    return in_force(current_overrides(state, fleet.identities, now), fleet, now)
