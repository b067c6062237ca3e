"""When replicas start ahead of declared peaks, and when their weights are pulled."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from gpufleet.core.prewarm_weights import Pull, pull_of, weight_warnings
from gpufleet.core.prewarming import Window, prewarmed_images, warnings, windows
from gpufleet.edges.clock import clock_of
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.ground import Ground
from gpufleet.flows.prewarm_weights import Outlook, outlook
from gpufleet.local.platform import embedded_sites
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import BadInput, FleetError
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.prewarming import PrewarmSchedule, ScheduledWindow

_MOST_DAYS: Final = 800


def schedule_of(
    workspace: Workspace, fleet_file: Path, *, days: str = "30", pool: str = "", site: str = ""
) -> PrewarmSchedule:
    """`schedule` of an environment, from now on by its clock.

    Its stores are asked for snapshots; one that was never used is left alone. What does not answer
    is a warning.

    Raises:
        BadInput: the fleet file; number of days, pool or site.
    """
    fleet = load_fleet(fleet_file)
    state = workspace.for_fleet(fleet)
    now = clock_of(state, simulated=len(embedded_sites(fleet)) == len(fleet.sites))()
    found = _found(fleet, now, days, pool, site)
    known = Outlook()
    if found and state.root.is_dir():
        try:
            ground = Ground.open(workspace, fleet_file)
            try:
                known = outlook(ground, found)
            finally:
                ground.close()
        except FleetError as error:
            known = Outlook(faults=(f"which snapshots there are is not known: {error.what}",))
    return schedule(fleet, now, known, days=days, pool=pool, site=site)


def schedule(  # noqa: PLR0913 - of what, when, where
    fleet: Fleet,
    now: datetime,
    known: Outlook | None = None,
    *,
    days: str = "30",
    pool: str = "",
    site: str = "",
) -> PrewarmSchedule:
    """The windows of the next days, those that are open included.

    Args:
        fleet: with its plan.
        now: with a time zone.
        known: of the weights; nothing where it is left out.
        days: how many.
        pool: this one alone.
        site: this one alone.

    Raises:
        BadInput: number of days, pool or site.
    """
    known = known or Outlook()
    found = _found(fleet, now, days, pool, site)
    pulled = {each.key: pull_of(fleet, each, known.rate) for each in found}
    return PrewarmSchedule(
        fleet=fleet.fleet,
        environment=fleet.environment,
        begin=_text(now),
        end=_text(now + timedelta(days=_days(days))),
        windows=[_row(each, pulled[each.key], known) for each in found],
        images=prewarmed_images(fleet),
        warnings=[
            *warnings(found, fleet),
            *weight_warnings(fleet, filter(None, pulled.values()), known.snapshots),
            *known.faults,
        ],
    )


def _row(window: Window, pull: Pull | None, known: Outlook) -> ScheduledWindow:
    snapshot = known.snapshots.get((pull.site, pull.revision)) if pull else None
    weights = pull.row(snapshot) if pull and snapshot != "" else None
    return ScheduledWindow(**window.row().model_dump(), weights=weights)


def _found(fleet: Fleet, now: datetime, days: str, pool: str, site: str) -> list[Window]:
    demand_known(fleet, pool, site)
    return selected(windows(fleet, now, now + timedelta(days=_days(days))), pool, site)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def selected(found: list[Window], pool: str, site: str) -> list[Window]:
    """The windows of a pool and a site; of every one where it is empty."""
    return [each for each in found if pool in {"", each.pool.name} and site in {"", each.pool.site}]


def demand_known(fleet: Fleet, pool: str, site: str) -> None:
    """See that there are such a pool and such a site.

    Raises:
        BadInput: there are not; names those there are.
    """
    for given, flag, kind, known in (
        (pool, "--pool", "pool", fleet.pools),
        (site, "--site", "site", fleet.sites),
    ):
        if given and given not in known:
            what = f"there is no {kind} `{given:.60}`"
            raise BadInput(what, where=flag, mend=f"there are: {', '.join(known)}")


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= _MOST_DAYS:
        raise BadInput(
            f"`{text:.40}` is not a number of days from 1 to {_MOST_DAYS}", where="--days"
        )
    return int(text)
