"""Flows that the worker runs: look at them, follow, cancel, resume."""

from invoke import Context

from gpufleet.tasks.command import FLEET_HELP, JSON_HELP, command, print_json, workspace

_HELP = {"fleet": FLEET_HELP, "json": JSON_HELP}
_FLOW = {"flow": "Id, as flows.list shows it.", **_HELP}


@command({"open": "Only those that have not ended.", **_HELP}, name="list")
def list_(_: Context, open: bool = False, fleet: str = "", json: bool = False) -> None:  # noqa: A002 - the flag
    """Every flow, newest first.

    Example: ./fleet flows.list --open
    """
    from gpufleet.flows.ground import Ground
    from gpufleet.flows.operations import listed
    from gpufleet.tasks import flow_view

    here = workspace()
    rows = listed(Ground.open(here, here.find_fleet(fleet or None)), only_open=open)
    if json:
        print_json([row.model_dump() for row in rows])
    else:
        flow_view.show_flows(rows)


@command(_FLOW)
def show(_: Context, flow: str, fleet: str = "", json: bool = False) -> None:
    """One flow, and what it has told.

    Example: ./fleet flows.show change-20260301-101500-a1b2c3
    """
    from gpufleet.flows.ground import Ground
    from gpufleet.flows.operations import shown
    from gpufleet.tasks import flow_view

    here = workspace()
    row = shown(Ground.open(here, here.find_fleet(fleet or None)), flow)
    if json:
        print_json(row.model_dump())
    else:
        flow_view.show_flows([row])


@command(_FLOW)
def attach(_: Context, flow: str, fleet: str = "", json: bool = False) -> None:
    """Follow a flow to its end; Ctrl-C lets go of it, and it goes on.

    Example: ./fleet flows.attach change-20260301-101500-a1b2c3
    """
    from gpufleet.flows.ground import Ground
    from gpufleet.tasks import console, flow_view

    here = workspace()
    result = flow_view.follow(Ground.open(here, here.find_fleet(fleet or None)), flow)
    if json:
        print_json(result)
    else:
        console.facts.print(f"{flow} is done")


@command(_FLOW)
def cancel(_: Context, flow: str, fleet: str = "", json: bool = False) -> None:
    """Let a flow end before its next step; what was done is kept.

    Example: ./fleet flows.cancel change-20260301-101500-a1b2c3
    """
    from gpufleet.flows import operations
    from gpufleet.flows.ground import Ground
    from gpufleet.tasks import flow_view

    here = workspace()
    row = operations.cancel(Ground.open(here, here.find_fleet(fleet or None)), flow)
    if json:
        print_json(row.model_dump())
    else:
        flow_view.show_flows([row])


@command(_FLOW)
def resume(_: Context, flow: str, fleet: str = "", json: bool = False) -> None:
    """Let a cancelled flow go on from its last step.

    Example: ./fleet flows.resume change-20260301-101500-a1b2c3
    """
    from gpufleet.flows import operations
    from gpufleet.flows.ground import Ground
    from gpufleet.tasks import flow_view

    here = workspace()
    row = operations.resume(Ground.open(here, here.find_fleet(fleet or None)), flow)
    if json:
        print_json(row.model_dump())
    else:
        flow_view.show_flows([row])
