"""Asked by both stacks first: a program that would change something in a freeze ends at once."""

import json
from datetime import datetime, timedelta

import pulumi

from gpufleet.components.site import DeclaredSite
from gpufleet.core.freeze import Decision, decide, refusal_of_update, subject_of
from gpufleet.core.overrides import Target, in_force, lifted
from gpufleet.edges.calendars import read_calendars
from gpufleet.edges.exemption_table import given_exemption
from gpufleet.edges.override_table import current_overrides
from gpufleet.edges.pulumi import FREEZE_MARK, pending_changes
from gpufleet.spec.windows import ChangeKind


def hold_in_freeze(declared: DeclaredSite) -> None:
    """Refuse an update in a freeze; a preview, a first update and one without changes pass.

    So does an exempt flow, by the token that it was handed, and one that an override lifts.

    Raises:
        pulumi.RunError: with the window's name and the next opening.
    """
    if pulumi.runtime.is_dry_run():
        return
    now = declared.now()
    decision = _decision(declared, now)
    if decision.admitted or given_exemption(declared.state, declared.name, now):
        return
    found = pending_changes(pulumi.get_stack())
    if found.is_first or not found.changes:
        return
    error = refusal_of_update(declared.name, decision)
    raise pulumi.RunError(f"{error}\n{FREEZE_MARK}{json.dumps(error.as_json())}")


def _decision(declared: DeclaredSite, now: datetime) -> Decision:
    fleet, site = declared.fleet, declared.name
    calendars = read_calendars(fleet, declared.path, site, now)

    def judge(at: datetime, takes: timedelta) -> Decision:
        required = fleet.governance.calendar_required
        return decide(
            calendars, at, required=required, needs=takes, subject=subject_of(fleet, site)
        )

    decision = judge(now, timedelta())
    if decision.admitted:
        return decision
    kept = current_overrides(declared.state, fleet.identities, now)
    target = Target(site, ChangeKind.STACKS)
    return lifted(judge, in_force(kept, fleet, now), target, now)
