"""The journal: who did what, when, why."""

from invoke import Context
from invoke.exceptions import Exit

from gpufleet.tasks.command import FLEET_HELP, JSON_HELP, command, print_json, workspace

_HELP = {"fleet": FLEET_HELP, "json": JSON_HELP}
_FILTERS = {"event": "Only events that begin so, such as `change`.", "flow": "Only of one flow."}


@command({**_FILTERS, **_HELP}, name="list")
def list_(_: Context, event: str = "", flow: str = "", fleet: str = "", json: bool = False) -> None:
    """Facts by time.

    Example: ./fleet journal.list --event change
    """
    from gpufleet.flows.ground import Ground
    from gpufleet.flows.record_keeping import records
    from gpufleet.tasks import flow_view

    here = workspace()
    found = records(Ground.open(here, here.find_fleet(fleet or None)), event=event, flow=flow)
    if json:
        print_json([record.model_dump(mode="json") for record in found])
    else:
        flow_view.show_journal(found)


@command(_HELP)
def verify(_: Context, fleet: str = "", json: bool = False) -> None:
    """Check every record against its chain and the locked anchors; exit 5 if it was tampered with.

    Also if records were lost by a restoration whose protected set no store has any more.

    Example: ./fleet journal.verify
    """
    from gpufleet.flows.ground import Ground
    from gpufleet.flows.record_keeping import verified
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import flow_view

    here = workspace()
    report = verified(Ground.open(here, here.find_fleet(fleet or None)))
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        flow_view.show_verification(report)
    if not report.is_good:
        raise Exit(code=EXIT_TARGET_MISSED)


@command({"to": "File to write, one JSON record a line; `-` for stdout.", "fleet": FLEET_HELP})
def export(_: Context, to: str = "-", fleet: str = "") -> None:
    """Write the whole journal as JSON lines, by writer and sequence.

    Example: ./fleet journal.export --to journal.jsonl
    """
    from gpufleet.flows.ground import Ground
    from gpufleet.flows.record_keeping import export as write

    here = workspace()
    write(Ground.open(here, here.find_fleet(fleet or None)), to)
