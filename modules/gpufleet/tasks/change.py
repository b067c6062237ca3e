"""Change an environment through the worker: planned, approved, in its window, proven."""

from invoke import Context

from gpufleet.tasks.command import (
    APPLY_HELP,
    FLEET_HELP,
    JSON_HELP,
    command,
    print_json,
    workspace,
)
from gpufleet.tasks.signing import IDENTITY_HELP, KEY_HELP, signer


@command(
    {
        "fleet": FLEET_HELP,
        "apply": APPLY_HELP,
        "detach": "Do not follow it: print the flow's id and end.",
        "identity": IDENTITY_HELP,
        "key": KEY_HELP,
        "json": JSON_HELP,
    }
)
def change(
    _: Context,
    fleet: str = "",
    apply: bool = False,
    detach: bool = False,
    identity: str = "",
    key: str = "",
    json: bool = False,
) -> None:
    """Show what a changed fleet file would do; with --apply, let the worker do it.

    Example: ./fleet change --fleet fleets/sample/staging.yaml --apply
    """
    from gpufleet.flows.change import plan_change
    from gpufleet.flows.ground import Ground
    from gpufleet.flows.request_change import request_change
    from gpufleet.spec.changes import ChangeReport
    from gpufleet.tasks import console, flow_view

    here = workspace()
    ground = Ground.open(here, here.find_fleet(fleet or None))
    with console.ProgressView() as view:
        plan = plan_change(ground, view)
    if not apply:
        if json:
            print_json(plan.model_dump(mode="json"))
        else:
            flow_view.show_change_plan(plan)
        return
    if not json:
        flow_view.show_change_plan(plan)
    if not plan.changes:
        if json:
            print_json(ChangeReport.of_nothing().model_dump(mode="json", by_alias=True))
        return
    flow = request_change(ground, plan, signer(identity, key))
    if detach:
        flow_view.tell_flow(flow, json=json)
        return
    result = ChangeReport.of(flow_view.follow(ground, flow))
    if json:
        print_json(result.model_dump(mode="json", by_alias=True))
    else:
        flow_view.show_change(result)
