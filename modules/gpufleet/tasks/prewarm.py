"""Replicas that are warm before a declared peak begins."""

from invoke import Context

from gpufleet.tasks.command import FLEET_HELP, JSON_HELP, command, print_json, workspace

_WHERE_HELP = {"pool": "This pool alone.", "site": "This site alone."}


@command(
    {
        "days": "How many days ahead. Default: 30.",
        **_WHERE_HELP,
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    }
)
def schedule(
    _: Context,
    days: str = "30",
    pool: str = "",
    site: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """When weights are pulled and replicas start ahead of the next peaks, and when windows open.

    Whether a site has a snapshot of the weights is looked up in its store.

    Example: ./fleet prewarm.schedule --days 60 --pool chat
    """
    from gpufleet.flows.prewarm_schedule import schedule_of
    from gpufleet.tasks import prewarm_view

    here = workspace()
    fleet_file = here.find_fleet(fleet or None)
    found = schedule_of(here, fleet_file, days=days, pool=pool, site=site)
    if json:
        print_json(found.model_dump())
    else:
        prewarm_view.show_schedule(found)


@command(
    {
        "at": "Look at the windows of this time, such as 2026-12-28T23:50:00+01:00. Default: now.",
        **_WHERE_HELP,
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    }
)
def verify(
    _: Context,
    at: str = "",
    pool: str = "",
    site: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Ask every replica that has to be warm for one token; exit 5 where one is missing.

    Also told is on how many nodes the weights were before; one without is no failure.

    Example: ./fleet prewarm.verify --pool chat
    """
    from invoke.exceptions import Exit

    from gpufleet.flows import prewarm
    from gpufleet.flows.ground import Ground
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import prewarm_view

    here = workspace()
    ground = Ground.open(here, here.find_fleet(fleet or None))
    found = prewarm.verify(ground.fleet, ground.state, ground.clock(), at=at, pool=pool, site=site)
    if json:
        print_json({**found.model_dump(), "missing": found.missing})
        if found.missing:
            raise Exit(code=EXIT_TARGET_MISSED)
        return
    prewarm_view.show_verification(found)
    prewarm.demand_warm(found)
