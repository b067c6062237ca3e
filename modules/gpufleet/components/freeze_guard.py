"""Asked by both stacks first: a program that would change something in a freeze ends at once."""

import json

import pulumi

from gpufleet.components.site import DeclaredSite
from gpufleet.core.freeze import decide, refusal, subject_of
from gpufleet.edges.calendars import read_calendars
from gpufleet.edges.exemption_table import given_exemption
from gpufleet.edges.pulumi import FREEZE_MARK, pending_changes


def hold_in_freeze(declared: DeclaredSite) -> None:
    """Refuse an update in a freeze; a preview, a first update and one without changes pass.

    So does an exempt flow, by the token that it was handed.

    Raises:
        pulumi.RunError: with the window's name and the next opening.
    """
    if pulumi.runtime.is_dry_run():
        return
    now = declared.now()
    calendars = read_calendars(declared.fleet, declared.path, declared.name, now)
    decision = decide(
        calendars,
        now,
        required=declared.fleet.governance.calendar_required,
        subject=subject_of(declared.fleet, declared.name),
    )
    if decision.admitted or given_exemption(declared.state, declared.name, now):
        return
    found = pending_changes(pulumi.get_stack())
    if found.is_first or not found.changes:
        return
    error = refusal(declared.name, decision)
    raise pulumi.RunError(f"{error}\n{FREEZE_MARK}{json.dumps(error.as_json())}")
