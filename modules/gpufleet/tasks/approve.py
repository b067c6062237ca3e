"""Approvals: ask, sign, list."""

from invoke import Context

from gpufleet.tasks.command import (
    APPLY_HELP,
    FLEET_HELP,
    JSON_HELP,
    command,
    print_json,
    workspace,
)
from gpufleet.tasks.signing import IDENTITY_HELP, KEY_HELP, required, signer

_HELP = {"fleet": FLEET_HELP, "json": JSON_HELP}


@command(_HELP, name="list")
def list_(_: Context, fleet: str = "", json: bool = False) -> None:
    """Requests for approval and who has signed them, newest first.

    Example: ./fleet approve.list
    """
    from gpufleet.flows.approvals import stands
    from gpufleet.flows.ground import Ground
    from gpufleet.tasks import flow_view

    here = workspace()
    found = stands(Ground.open(here, here.find_fleet(fleet or None)))
    if json:
        print_json(
            [
                {**request.model_dump(mode="json"), "standing": standing.model_dump(mode="json")}
                for request, standing in found
            ]
        )
    else:
        flow_view.show_requests(found)


@command(
    {
        "action": "What is asked for: change, override, drill, promotion or sign-off.",
        "plan": "Digest of the plan: sha256:...",
        "targets": "Sites, pools or nodes, with commas; the whole environment without it.",
        "identity": IDENTITY_HELP,
        "key": KEY_HELP,
        **_HELP,
    }
)
def request(
    _: Context,
    action: str,
    plan: str,
    targets: str = "",
    identity: str = "",
    key: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Ask others to sign a plan; `change --apply` does so by itself.

    Example: ./fleet approve.request --action override --plan sha256:... --identity jonas
    """
    from gpufleet.flows.approvals import ask_for
    from gpufleet.flows.ground import Ground
    from gpufleet.tasks import console

    here = workspace()
    ground = Ground.open(here, here.find_fleet(fleet or None))
    names = [name for name in targets.split(",") if name]
    who = required(signer(identity, key))
    asked = ask_for(ground, who, action=action, plan=plan, targets=names)
    if json:
        print_json(asked.model_dump(mode="json"))
    else:
        console.facts.print(f"asked: ./fleet approve.sign {asked.id} --identity NAME --apply")


@command(
    {
        "request": "Id, as approve.list shows it.",
        "identity": IDENTITY_HELP,
        "key": KEY_HELP,
        "apply": APPLY_HELP,
        **_HELP,
    }
)
def sign(
    _: Context,
    request: str,
    identity: str = "",
    key: str = "",
    apply: bool = False,
    fleet: str = "",
    json: bool = False,
) -> None:
    """Show what is asked for; with --apply, sign it. Nobody signs a request of their own.

    Example: ./fleet approve.sign change-20260301-101500-a1b2c3 --identity mara --apply
    """
    from gpufleet.flows.approvals import give
    from gpufleet.flows.ground import Ground
    from gpufleet.tasks import console, flow_view

    here = workspace()
    ground = Ground.open(here, here.find_fleet(fleet or None))
    asked, _signature = ground.approvals.request(request)
    if not apply:
        if json:
            print_json(asked.model_dump(mode="json"))
        else:
            flow_view.show_request(asked)
        return
    given = give(ground, required(signer(identity, key)), request)
    if json:
        print_json(given.model_dump(mode="json"))
    else:
        console.facts.print(f"{given.signer} has approved {given.request}")
