"""Freezes: whether something may change, when, what is declared, and what the clusters are told."""

from pathlib import Path

from invoke import Context

from gpufleet.tasks.command import FLEET_HELP, JSON_HELP, command, print_json, workspace

_AT_HELP = "Look at this time, such as 2026-12-28T23:50:00+01:00. Default: now."
_ASKED_HELP = {
    "at": _AT_HELP,
    "scope": "What it touches, such as site=fra1;pool=chat. Default: every site.",
    "change": "stacks, release, driver, firmware, runtime or os. Default: stacks.",
    "duration-s": "How long it takes, by the 95th percentile of earlier ones, s.",
    "rollback-s": "How long its rollback takes, s.",
    "fleet": FLEET_HELP,
    "json": JSON_HELP,
}


@command(
    {"calendar": "Only this iCalendar file decides. Default: the fleet's calendars.", **_ASKED_HELP}
)
def check(
    _: Context,
    calendar: str = "",
    at: str = "",
    scope: str = "",
    change: str = "",
    duration_s: str = "0",
    rollback_s: str = "0",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Whether a change may begin, and end with its rollback before the next freeze; exit 3 if not.

    Example: ./fleet freeze.check --change driver --scope "site=fra1" --duration-s 1800
    """
    from invoke.exceptions import Exit

    from gpufleet.flows.freeze_questions import Asked
    from gpufleet.flows.freezes import check as decided
    from gpufleet.spec.errors import EXIT_POLICY
    from gpufleet.tasks import freeze_view

    here = workspace()
    asked = Asked(at, scope, change, duration_s, rollback_s, calendar)
    found = decided(here, here.find_fleet(fleet or None), asked)
    if json:
        print_json(found.model_dump())
    else:
        freeze_view.show_check(found)
    if not found.allowed:
        raise Exit(code=EXIT_POLICY)


@command(
    {
        "days": "How many days ahead. Default: 90.",
        "at": _AT_HELP,
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    },
    name="list",
)
def list_(_: Context, days: str = "90", at: str = "", fleet: str = "", json: bool = False) -> None:
    """Every calendar of the fleet: what it holds for, whether it is trusted, its next windows.

    Example: ./fleet freeze.list --days 30
    """
    from gpufleet.flows.freezes import declared
    from gpufleet.tasks import freeze_view

    here = workspace()
    found = declared(here, here.find_fleet(fleet or None), at=at, days=days)
    if json:
        print_json(found.model_dump())
    else:
        freeze_view.show_list(found)


@command({"count": "How many openings of each site. Default: 5.", **_ASKED_HELP}, name="next")
def next_(
    _: Context,
    count: str = "5",
    at: str = "",
    scope: str = "",
    change: str = "",
    duration_s: str = "0",
    rollback_s: str = "0",
    fleet: str = "",
    json: bool = False,
) -> None:
    """The next times in which a change fits with its rollback, for each site.

    Example: ./fleet freeze.next --change firmware --duration-s 7200 --rollback-s 3600
    """
    from gpufleet.flows.freeze_questions import Asked
    from gpufleet.flows.freezes import upcoming
    from gpufleet.tasks import freeze_view

    here = workspace()
    asked = Asked(at, scope, change, duration_s, rollback_s)
    found = upcoming(here, here.find_fleet(fleet or None), asked, count=count)
    if json:
        print_json([row.model_dump() for row in found])
    else:
        freeze_view.show_openings(found)


@command(
    {
        "days": "How many days. Default: 90.",
        "at": "First day, such as 2026-12-01. Default: today.",
        "zone": "Time zone of the days, such as Europe/Berlin. Default: that of most windows.",
        "output": "The page's file. Default: freezes-FLEET-ENVIRONMENT.html in this folder.",
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    }
)
def calendar(
    _: Context,
    days: str = "90",
    at: str = "",
    zone: str = "",
    output: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Show the next days of freezes and maintenance windows, and write them as one HTML page.

    Example: ./fleet freeze.calendar --days 30 --output freezes.html
    """
    from gpufleet.flows.freeze_calendar import outlook_of, write_freeze_page
    from gpufleet.tasks import console, freeze_view

    here = workspace()
    fleet_file = here.find_fleet(fleet or None)
    found = outlook_of(here, fleet_file, at=at, days=days, zone=zone)
    name = f"freezes-{fleet_file.parent.name}-{fleet_file.stem}.html"
    file = Path(output or name).resolve()
    write_freeze_page(found, file)
    if json:
        print_json({"page": str(file), **found.model_dump()})
        return
    freeze_view.show_outlook(found)
    console.facts.print(f"wrote {file}", soft_wrap=True)


@command({"fleet": FLEET_HELP, "json": JSON_HELP})
def sync(_: Context, fleet: str = "", json: bool = False) -> None:
    """Tell every cluster now whether a freeze holds; the worker does so every few seconds.

    Example: ./fleet freeze.sync
    """
    from gpufleet.flows.freeze_sync import sync as tell
    from gpufleet.flows.ground import Ground
    from gpufleet.tasks.console import facts

    here = workspace()
    rows = tell(Ground.open(here, here.find_fleet(fleet or None)))
    if json:
        print_json([row.model_dump(mode="json") for row in rows])
        return
    for row in rows:
        facts.print(f"{row.site}: {row.message}", style="yellow" if row.frozen else "green")
    if not rows:
        facts.print("no site's platform was provisioned yet: ./fleet up")
