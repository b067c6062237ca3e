"""Which override lifts which refusal of a freeze: the one place that decides it.

An override counts if the one who asked has signed the request, another identity has signed its
digest, it is no longer than the fleet file allows, and nobody has revoked it. It lifts a change if
its scope holds all of it; a scope that the change does not tell (a pool, a node group, a flow)
holds none of it. What no override covers of the time that a change takes, the calendars decide.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from gpufleet.core.approvals import digest_of, needed_for, standing
from gpufleet.core.freeze import Decision
from gpufleet.spec.approvals import Action, Scope
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.overrides import (
    Override,
    OverrideEvidence,
    OverrideRow,
    OverrideState,
)
from gpufleet.spec.windows import ChangeKind

Judge = Callable[[datetime, timedelta], Decision]
"""What the calendars alone say of a change that begins at a moment and takes so long."""
_IN_FORCE: Final = frozenset({OverrideState.GRANTED, OverrideState.ACTIVE})
AHEAD: Final = timedelta(days=7)
"""How long before it begins an override can be asked for."""


@dataclass(frozen=True)
class Target:
    """What would change, as far as the scope of an override can tell."""

    site: str
    change: ChangeKind
    pools: tuple[str, ...] = ()
    """Every pool that it touches; empty where it is about a site as a whole."""
    node_groups: tuple[str, ...] = ()
    flow: str = ""


def lifted(
    judge: Judge,
    overrides: Sequence[Override],
    target: Target,
    now: datetime,
    needs: timedelta = timedelta(),
) -> Decision:
    """Decide on a change that would begin now, with the overrides that are in force.

    Admitted is what the calendars admit in all of the time that no override covers.

    Args:
        judge: the calendars.
        overrides: of `in_force`.
        target: what would change.
        now: with a time zone.
        needs: time that the change takes with its rollback.
    """
    decision = judge(now, needs)
    if decision.admitted:
        return decision
    fitting = [override for override in overrides if not misfit(override, target)]
    if _passes(judge, fitting, now, needs):
        used = tuple(override.id for override in fitting if _meets(override, now, needs))
        return replace(decision, admitted=True, overrides=used, opens=None)
    others = "".join(
        f"; override {override.id} does not lift it: {fault}"
        for override in overrides
        if _meets(override, now, needs)
        and (fault := misfit(override, target) or f"it ends {_shown(override.ends_at)}")
    )
    return replace(
        decision,
        reason=f"{decision.reason}{others}",
        opens=_opening(judge, fitting, decision, now, needs),
    )


def open_until(
    decision: Decision, overrides: Sequence[Override], now: datetime, until: datetime
) -> datetime:
    """Until when, at least, what is open now stays open.

    Args:
        decision: on a change from now until `until`.
        overrides: those that may have lifted something.
        now: with a time zone.
        until: no later than this.
    """
    if decision.admitted:
        return until
    ends = [override.ends_at for override in overrides]
    if decision.closes is not None:
        ends.append(decision.closes)
    later = [end for end in ends if _utc(now) < _utc(end) <= _utc(until)]
    return min(later, key=_utc, default=now)


def misfit(override: Override, target: Target) -> str:
    """Why an override does not hold for a change; empty if it does."""
    scopes = (
        ("sites", [target.site], override.sites),
        ("changes", [target.change.value], [change.value for change in override.changes]),
        ("pools", list(target.pools), override.pools),
        ("node groups", list(target.node_groups), override.node_groups),
        ("flow", [target.flow] if target.flow else [], [override.flow] if override.flow else []),
    )
    for name, wanted, allowed in scopes:
        if allowed and not (wanted and set(wanted) <= set(allowed)):
            return f"it is for {name} {', '.join(allowed)} only"
    return ""


def in_force(evidence: Sequence[OverrideEvidence], fleet: Fleet, now: datetime) -> list[Override]:
    """The overrides that hold now or will."""
    return [
        found.override
        for found in evidence
        if judged(found, fleet, now).state in _IN_FORCE and found.override.ends_at > now
    ]


def judged(evidence: OverrideEvidence, fleet: Fleet, now: datetime) -> OverrideRow:
    """How an override stands."""
    override = evidence.override
    # Its approvals end with it: who had signed is asked of its last moment.
    last = min(_utc(now), _utc(override.ends_at) - timedelta(seconds=1))
    found = standing(
        evidence.request,
        evidence.approvals,
        fleet.identities,
        needed=needed_for(Action.OVERRIDE, fleet.governance),
        now=last,
    )

    def row(state: OverrideState, why_not: str = "") -> OverrideRow:
        return OverrideRow(
            override=override, state=state, approved_by=list(found.valid), why_not=why_not
        )

    if fault := _fault(evidence, fleet):
        return row(OverrideState.INVALID, fault)
    if evidence.revoked_at is not None:
        return row(OverrideState.REVOKED, f"revoked by {evidence.revoked_by}")
    if override.ends_at <= now:
        return row(OverrideState.ENDED, "its time is over")
    if not found.is_granted:
        missing = f"{len(found.valid)} of {found.needed} approvals"
        return row(OverrideState.ASKED, "; ".join([missing, *found.refused]))
    if override.begins_at > now:
        return row(OverrideState.GRANTED, "it has not begun")
    return row(OverrideState.ACTIVE)


def scope_of(override: Override, fleet: Fleet) -> Scope:
    """What its approvals are for."""
    return Scope(
        fleet=fleet.fleet,
        environment=fleet.environment,
        action=Action.OVERRIDE,
        targets=sorted({*override.sites, *override.pools, *override.node_groups}),
    )


def demand_valid(override: Override, fleet: Fleet, now: datetime) -> None:
    """Refuse an override that could never hold, before anybody is asked.

    Raises:
        BadInput: its scope names nothing that is declared, or its time is wrong.
    """
    sites = set(override.sites)
    pools = {pool for site in sites & set(fleet.sites) for pool in fleet.pools_at(site)}
    groups = {name for name, group in fleet.node_groups.items() if group.site in sites}
    for option, kind, given, known in (
        ("--sites", "site", override.sites, set(fleet.sites)),
        ("--pools", "pool at these sites named", override.pools, pools),
        ("--node-groups", "node group at these sites named", override.node_groups, groups),
    ):
        for name in given:
            if name not in known:
                mend = f"there are: {', '.join(sorted(known)) or 'none'}"
                raise BadInput(f"there is no {kind} `{name}`", where=option, mend=mend)
    if override.ends_at <= now or override.ends_at <= override.begins_at:
        raise BadInput("it would have ended already", where="--begins", mend="a time to come")
    if override.begins_at > now + AHEAD:
        mend = "ask for it later: approvals are not given for good"
        raise BadInput(f"begins in more than {AHEAD.days} days", where="--begins", mend=mend)
    if fault := _too_long(override, fleet):
        raise BadInput(fault, where="--hours", mend="ask for less, or for another one later")


def _fault(evidence: OverrideEvidence, fleet: Fleet) -> str:
    """Why an override can never hold; empty if it may."""
    override, request = evidence.override, evidence.request
    faults = {
        "its request is for something else": (
            (request.id, request.requester) != (override.id, override.requester)
            or request.plan_digest != digest_of(override)
            or request.scope != scope_of(override, fleet)
        ),
        f"its request is not signed by a declared key of {request.requester}": (
            not evidence.is_request_signed
        ),
    }
    return next((fault for fault, holds in faults.items() if holds), _too_long(override, fleet))


def _too_long(override: Override, fleet: Fleet) -> str:
    longest = timedelta(seconds=fleet.governance.override_max_s)
    if override.ends_at - override.begins_at <= longest:
        return ""
    return f"it is longer than governance.override_max_s allows ({longest})"


def _passes(judge: Judge, overrides: Sequence[Override], start: datetime, needs: timedelta) -> bool:
    return all(judge(at, takes).admitted for at, takes in _gaps(overrides, start, needs))


def _gaps(
    overrides: Sequence[Override], start: datetime, needs: timedelta
) -> list[tuple[datetime, timedelta]]:
    """The parts of a change's time that no override covers: when each begins, how long it is."""
    at, end = _utc(start), _utc(start) + needs
    if not needs:
        held = any(_utc(found.begins_at) <= at < _utc(found.ends_at) for found in overrides)
        return [] if held else [(start, needs)]
    gaps: list[tuple[datetime, timedelta]] = []
    for override in sorted(overrides, key=lambda found: _utc(found.begins_at)):
        begins = min(_utc(override.begins_at), end)
        if at < begins:
            gaps.append((at, begins - at))
        at = max(at, _utc(override.ends_at))
    return [*gaps, (at, end - at)] if at < end else gaps


def _meets(override: Override, now: datetime, needs: timedelta) -> bool:
    """Whether an override holds at some time of a change."""
    return _utc(override.begins_at) <= _utc(now) + needs and _utc(override.ends_at) > _utc(now)


def _opening(
    judge: Judge,
    overrides: Sequence[Override],
    decision: Decision,
    now: datetime,
    needs: timedelta,
) -> datetime | None:
    """A moment from which it would be admitted, none earlier being known."""
    ends = [decision.window.end] if decision.window else []
    known = [decision.opens] if decision.opens else []
    moments = [*known, *ends, *(override.begins_at for override in overrides)]
    for moment in sorted({_utc(moment): moment for moment in moments}.items()):
        if moment[0] > _utc(now) and _passes(judge, overrides, moment[1], needs):
            return moment[1]
    return None


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _shown(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M %Z")
