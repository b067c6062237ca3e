"""Overrides of freezes: asked for, granted by others, used, ended, each of it journalled."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import ValidationError

from gpufleet.core.approvals import digest_of
from gpufleet.core.freeze import Decision
from gpufleet.core.overrides import demand_valid, in_force, judged, scope_of
from gpufleet.flows import approvals
from gpufleet.flows.approvals import Question, Signer
from gpufleet.flows.ground import Ground
from gpufleet.flows.operations import new_id
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import BadInput, PolicyRefused
from gpufleet.spec.overrides import Override, OverrideEvidence, OverrideRow, OverrideState
from gpufleet.spec.records import Fact
from gpufleet.spec.windows import ChangeKind

_NO_NUMBER: Final = 10_000.0
_YEARS: Final = range(2000, 9000)
"""The last year of all has no such moment in every zone."""
"""Hours that are a slip, or no number at all."""
_LIST: Final = "./fleet freeze.overrides"
_ENDED: Final = frozenset({OverrideState.ENDED, OverrideState.REVOKED})
_GRANTED: Final = frozenset({OverrideState.GRANTED, OverrideState.ACTIVE})


@dataclass(frozen=True)
class Wish:
    """An override as somebody asks for it, before anything of it was checked."""

    sites: list[str]
    changes: list[str]
    why: str
    pools: list[str]
    node_groups: list[str]
    flow: str = ""
    begins: str = ""
    """ISO 8601; now where it is empty."""
    hours: str = "1"


def planned(ground: Ground, wish: Wish, requester: str) -> Override:
    """An override that could be asked for; changes nothing.

    Raises:
        BadInput: a scope that is empty or names nothing that is declared, no reason, or a time
            that is over, too long or too far ahead.
    """
    now = ground.clock()
    begins = _moment(wish.begins) if wish.begins else now
    _demand_words(wish)
    try:
        override = Override(
            id=new_id("override", now),
            sites=sorted({*wish.sites}),
            changes=[ChangeKind(change) for change in sorted({*wish.changes})],
            pools=sorted({*wish.pools}),
            node_groups=sorted({*wish.node_groups}),
            flow=wish.flow,
            why=wish.why,
            requester=requester,
            begins_at=begins.astimezone(UTC),
            ends_at=(begins + timedelta(hours=_hours(wish.hours))).astimezone(UTC),
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = "--" + str(first["loc"][0]).replace("_", "-")
        raise BadInput(str(first["msg"]), where=field) from None
    demand_valid(override, ground.fleet, now)
    return override


def ask(ground: Ground, signer: Signer, override: Override) -> None:
    """Ask others to sign an override; whoever asks signs the request.

    Raises:
        BadInput: the identity or the key.
        PolicyRefused: the key is not one of the identity's.
    """
    scope = scope_of(override, ground.fleet)
    summary = override.model_dump(mode="json")
    question = Question(override.id, scope, digest_of(override), summary, override.ends_at)
    approvals.ask(ground, signer, question)
    ground.overrides.keep(override)
    _note(ground, "override.asked", override, actor=signer.identity, why=override.why)


def listed(ground: Ground, *, only_open: bool = False) -> list[OverrideRow]:
    """Every override with how it stands, newest first; with `only_open` those that may yet hold."""
    identities, now = ground.fleet.identities, ground.clock()
    found = ground.overrides.all(identities)
    rows = [judged(evidence, ground.fleet, now) for evidence in found]
    return [row for row in rows if not (only_open and row.state in _ENDED)]


def revoke(ground: Ground, id: str, actor: str) -> OverrideRow:  # noqa: A002 - the field's name
    """End an override before its time; nobody has to sign that.

    Raises:
        BadInput: there is none with this id.
        PolicyRefused: it has ended.
    """
    ground.overrides.find(id, ground.fleet.identities)
    if not ground.overrides.revoke(id, actor):
        raise PolicyRefused("has ended already", where=f"override {id}", mend=_LIST)
    settle(ground, set())
    return shown(ground, id)


def shown(ground: Ground, id: str) -> OverrideRow:  # noqa: A002 - the field's name
    """One override, and how it stands.

    Raises:
        BadInput: there is none with this id.
    """
    evidence = ground.overrides.find(id, ground.fleet.identities)
    return judged(evidence, ground.fleet, ground.clock())


def overrides_in_force(ground: Ground) -> list[Override]:
    """The overrides that hold now or will.

    By the identities of the environment's own fleet file, never by those of a file sent along.

    Raises:
        Retryable: the database does not answer.
    """
    fleet, now = load_fleet(ground.fleet_file), ground.clock()
    return in_force(ground.overrides.current(fleet.identities, now), fleet, now)


def note_use(ground: Ground, decision: Decision, *, actor: str, target: str, flow: str) -> None:
    """Journal, once for each flow and target, that a decision was due to overrides.

    Args:
        ground: the environment.
        decision: what was decided; one that no override lifted is no use.
        actor: on whose behalf.
        target: what changes, such as a site or a wave.
        flow: of the change.
    """
    for id_ in decision.overrides:
        evidence = ground.overrides.find(id_, ground.fleet.identities)
        _note_grant(ground, evidence)
        ground.journal.append(
            Fact(
                id=f"{id_}:override.used:{flow}:{target}",
                event="override.used",
                actor=actor,
                flow=flow,
                target=target,
                body={"override": id_, "freeze": decision.reason},
            )
        )


def settle(ground: Ground, granted: set[str]) -> None:
    """Journal which overrides were granted and which have ended, each once.

    Args:
        ground: the environment.
        granted: those whose grant this process has journalled already; grows.
    """
    identities, now = ground.fleet.identities, ground.clock()
    for evidence in ground.overrides.unclosed(identities):
        override = evidence.override
        row = judged(evidence, ground.fleet, now)
        if row.state in _GRANTED and override.id not in granted:
            _note_grant(ground, evidence)
            granted.add(override.id)
        if row.state in _ENDED or override.ends_at <= now:
            approved = ", ".join(row.approved_by) or "nobody"
            actor = evidence.revoked_by or "its time"
            _note(ground, "override.ended", override, actor=actor, approved_by=approved)
            ground.overrides.close(override.id)


def _note_grant(ground: Ground, evidence: OverrideEvidence) -> None:
    row = judged(evidence, ground.fleet, ground.clock())
    actor = ", ".join(row.approved_by)
    until = evidence.override.ends_at.isoformat()
    _note(ground, "override.granted", evidence.override, actor=actor, until=until)


def _note(ground: Ground, event: str, override: Override, *, actor: str, **body: str) -> None:
    """A fact of an override's life; each happens once."""
    scope = [*override.sites, *override.pools, *override.node_groups]
    ground.journal.append(
        Fact(
            id=f"{override.id}:{event}",
            event=event,
            actor=actor,
            flow=override.flow,
            target=override.id,
            body={
                "scope": ", ".join(scope),
                "changes": ", ".join(override.changes),
                "plan": digest_of(override),
                **body,
            },
        )
    )


def _demand_words(wish: Wish) -> None:
    for option, given in (("--sites", wish.sites), ("--changes", wish.changes)):
        if not given:
            raise BadInput("an override is for something in particular", where=option)
    if not wish.why.strip():
        raise BadInput(
            "an override needs its reason",
            where="--why",
            mend="such as --why 'mends CVE-2026-1234'",
        )
    _demand_known_kinds(wish.changes)
    _hours(wish.hours)


def _demand_known_kinds(changes: Iterable[str]) -> None:
    for change in changes:
        if change not in list(ChangeKind):
            mend = f"one of {', '.join(ChangeKind)}"
            raise BadInput(f"there is no kind of change `{change}`", where="--changes", mend=mend)


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < _NO_NUMBER:
        raise BadInput(f"`{text[:20]}` is no number of hours above 0", where="--hours")
    return hours


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or moment.year not in _YEARS:
        raise BadInput(
            f"`{text[:40]}` is not a time with its zone",
            where="--begins",
            mend="such as 2026-03-01T22:00+01:00",
        )
    return moment
