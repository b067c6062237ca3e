"""Freezes: what the clusters are told."""

from invoke import Context

from gpufleet.tasks.command import FLEET_HELP, JSON_HELP, command, print_json, workspace


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
