"""Versions of the stacks' states."""

from invoke import Context

from gpufleet.tasks.command import (
    APPLY_HELP,
    FLEET_HELP,
    JSON_HELP,
    command,
    print_json,
    workspace,
)

_HELP = {"fleet": FLEET_HELP, "json": JSON_HELP}


@command(_HELP, name="list")
def list_(_: Context, fleet: str = "", json: bool = False) -> None:
    """Every version of every stack's state that was kept, newest first.

    Example: ./fleet state.list
    """
    from gpufleet.flows.ground import Ground
    from gpufleet.flows.state_backup import versions
    from gpufleet.tasks import flow_view

    here = workspace()
    found = versions(Ground.open(here, here.find_fleet(fleet or None)))
    if json:
        print_json([row.model_dump() for row in found])
    else:
        flow_view.show_versions(found)


@command(
    {
        "stack": "Project and site, such as `pools fra1`.",
        "version": "As state.list shows it. Default: the latest.",
        "apply": APPLY_HELP,
        **_HELP,
    }
)
def restore(
    _: Context,
    stack: str,
    version: str = "latest",
    apply: bool = False,
    fleet: str = "",
    json: bool = False,
) -> None:
    """Bring a kept state back; the one that it replaces is kept beside it.

    Example: ./fleet state.restore "pools fra1" --apply
    """
    from gpufleet.flows.ground import Ground
    from gpufleet.flows.state_backup import restore as bring_back
    from gpufleet.tasks import flow_view

    here = workspace()
    ground = Ground.open(here, here.find_fleet(fleet or None))
    chosen = bring_back(ground, stack, version, apply=apply)
    if json:
        print_json(chosen.model_dump())
    else:
        flow_view.show_restored(chosen, done=apply)
