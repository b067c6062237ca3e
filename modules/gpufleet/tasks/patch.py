"""Patching: the security patch cycle."""

from invoke import Context
from invoke.exceptions import Exit

from gpufleet.tasks.command import FLEET_HELP, JSON_HELP, command, opened_ground, print_json


@command(
    {
        "advisories": (
            "OSV or CSAF files, several separated by commas. Default: those that the fleet file "
            "names."
        ),
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    }
)
def cycle(_: Context, advisories: str = "", fleet: str = "", json: bool = False) -> None:
    """What is overdue for an update, and which known vulnerabilities are installed; exit 5 if so.

    Example: ./fleet patch.cycle --advisories osv.zip --fleet fleets/sample/staging.yaml
    """
    from gpufleet.flows.patch_cycle import patch_cycle
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import patch_cycle_view

    report = patch_cycle(opened_ground(fleet), advisories=advisories)
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        patch_cycle_view.show(report)
    if not report.is_good:
        raise Exit(code=EXIT_TARGET_MISSED)
