"""Provision an environment and look at it."""

import shlex
import sys

from invoke import Context
from invoke.exceptions import Exit

from gpufleet.tasks.command import FLEET_HELP, JSON_HELP, command, print_json, workspace

_HELP = {"fleet": FLEET_HELP, "json": JSON_HELP}


@command(_HELP)
def up(_: Context, fleet: str = "", json: bool = False) -> None:
    """Make everything that a fleet file declares: platform, clusters, pools. Finds what runs.

    Example: ./fleet up --fleet fleets/article/production.yaml
    """
    from gpufleet.flows import provision
    from gpufleet.tasks import console

    here = workspace()
    with console.ProgressView() as view:
        report = provision.up(here, here.find_fleet(fleet or None), view)
    if json:
        print_json(report.model_dump(by_alias=True))
    else:
        console.show_up(report)


@command(
    {
        "fleet": FLEET_HELP,
        "purge": "Also remove the environment's state: nothing of it is left.",
    }
)
def down(_: Context, fleet: str = "", purge: bool = False) -> None:
    """Stop an environment's embedded platform; what was provisioned is kept for the next up.

    Example: ./fleet down --fleet fleets/article/production.yaml --purge
    """
    from gpufleet.flows import provision
    from gpufleet.tasks.console import facts

    here = workspace()
    file = here.find_fleet(fleet or None)
    provision.stop(here, file, purge=purge)
    facts.print("stopped, and its state is removed" if purge else "stopped; ./fleet up goes on")


@command(_HELP)
def preview(_: Context, fleet: str = "", json: bool = False) -> None:
    """What up would change, resource by resource; changes nothing.

    Example: ./fleet preview --fleet fleets/sample/staging.yaml --json
    """
    from gpufleet.flows import provision
    from gpufleet.tasks import console

    here = workspace()
    with console.ProgressView() as view:
        report = provision.preview(here, here.find_fleet(fleet or None), view)
    if json:
        print_json(report.model_dump())
    else:
        console.show_preview(report)


@command(_HELP)
def status(_: Context, fleet: str = "", json: bool = False) -> None:
    """Pools, processes, and drift between fleet file, stack state and cluster; exit 5 if not good.

    Example: ./fleet status --json
    """
    from gpufleet.flows.status import status as observe
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import console

    here = workspace()
    report = observe(here, here.find_fleet(fleet or None))
    if json:
        print_json(report.model_dump(by_alias=True))
    else:
        console.show_status(report)
    if not report.is_good:
        raise Exit(code=EXIT_TARGET_MISSED)


@command(_HELP)
def env(_: Context, fleet: str = "", json: bool = False) -> None:
    """Variables for plain pulumi, kubectl and ansible-playbook.

    Example: eval "$(./fleet env)" && kubectl get nodes
    """
    from gpufleet.flows.environment import tools_ready, variables_of
    from gpufleet.tasks import console

    here = workspace()
    variables = variables_of(here, here.find_fleet(fleet or None))
    with console.ProgressView() as view:
        missing = tools_ready(view)
    if missing:
        sys.stderr.write(f"fleet: {missing}\n")
    if json:
        print_json(variables)
        return
    for name, value in variables.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


@command({"pool": "Name of a pool.", **_HELP})
def explain(_: Context, pool: str, fleet: str = "", json: bool = False) -> None:
    """Why every number of a pool is what it is, down to a line of the fleet file.

    Example: ./fleet explain answers --fleet fleets/article/production.yaml
    """
    from gpufleet.flows.plans import explain as explained
    from gpufleet.tasks import plan_view

    here = workspace()
    found = explained(here, here.find_fleet(fleet or None), pool)
    if json:
        print_json(found.model_dump())
    else:
        plan_view.show_explanation(found)
