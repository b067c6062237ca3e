"""Disaster recovery: what must come back is protected."""

from invoke import Context
from invoke.exceptions import Exit

from gpufleet.tasks.command import (
    APPLY_HELP,
    FLEET_HELP,
    JSON_HELP,
    command,
    opened_ground,
    print_json,
)


@command(
    {
        "despite_loss": "Also take a set that has less than the newest one.",
        "apply": APPLY_HELP,
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    }
)
def protect(
    _: Context,
    despite_loss: bool = False,
    apply: bool = False,
    fleet: str = "",
    json: bool = False,
) -> None:
    """Keep what must come back besides models in every site's store; exit 5 if a part is missing.

    That is the database, the stacks' states, fleet files, pointers, and the heads of all chains.
    Where records of the journal or a state are gone since the newest set, none is taken.

    Example: ./fleet dr.protect --apply
    """
    from gpufleet.flows import protection
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import protection_view

    ground = opened_ground(fleet)
    if not apply:
        planned = protection.plan(ground)
        if json:
            print_json(planned.model_dump(mode="json"))
        else:
            protection_view.show_plan(planned)
        return
    report = protection_view.do_protect(ground, despite_loss=despite_loss)
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        protection_view.show_report(report)
    if report.missing or report.unreached:
        raise Exit(code=EXIT_TARGET_MISSED)
