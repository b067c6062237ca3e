"""What a cluster is told of freezes: one answer for each kind of change, and pool that has its own.

CEL has no clock and no calendars, but it has maps: the answers are worked out here, so that its
policy looks one up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.freeze import Decision, refusal
from gpufleet.spec.overrides import Override
from gpufleet.spec.windows import Calendar, ChangeKind

Object = dict[str, Any]
KNOWN_FOR: Final = timedelta(seconds=90)
"""How long a state holds that nobody renews: six rounds of the worker."""
OPEN: Final = "open"
ALL: Final = "all"
"""Key of the answer for what every pool stands on: it is open where every answer is."""
NO_POOL: Final = "-"
"""In place of a pool, for what belongs to none: no pool can have this name."""
SEEN: Final = (ChangeKind.STACKS, ChangeKind.RELEASE)
"""The kinds of change that an API server can tell apart; the others are about hosts."""


@dataclass(frozen=True)
class FreezeState:
    """What one cluster is told."""

    answers: Mapping[str, str]
    """`OPEN`, or what a person is told who is refused, by `key_of` kind of change and pool."""
    known_until: datetime
    """When this ends to hold unless it is renewed; by the clock of the one who writes it."""

    @property
    def frozen(self) -> bool:
        """Whether what belongs to no pool is frozen: the site as a whole."""
        return self.answers[key_of(ChangeKind.STACKS)] != OPEN

    @property
    def message(self) -> str:
        """What holds, for a person."""
        if self.frozen:
            return self.answers[key_of(ChangeKind.STACKS)]
        held = sorted(key for key, told in self.answers.items() if told != OPEN and key != ALL)
        return f"open, but not for {', '.join(held)}" if held else OPEN


def key_of(change: ChangeKind, pool: str = "") -> str:
    """The key of the ConfigMap with the answer for a kind of change, of a pool or of none.

    A pool without a key of its own has the answer of what belongs to none.
    """
    return f"{change}.{pool}" if pool else change.value


def pools_named(calendars: Iterable[Calendar], overrides: Iterable[Override]) -> list[str]:
    """The pools that may have an answer of their own: those that a scope names."""
    scopes = [
        scope
        for calendar in calendars
        for scope in (
            calendar.scope,
            *calendar.maintained,
            *(window.scope for window in calendar.windows),
        )
    ]
    return sorted(
        {pool for scope in scopes for pool in scope.pools}
        | {pool for override in overrides for pool in override.pools}
    )


def state_of(
    site: str, decided: Mapping[str, tuple[Decision, datetime]], now: datetime
) -> FreezeState:
    """What a site's cluster is told.

    Args:
        site: its name.
        decided: the decision on a change that would begin now and take no time, and until when it
            stays open if it is, by `key_of`.
        now: by the environment's clock.
    """
    answers: dict[str, str] = {}
    known_until = now + KNOWN_FOR
    for key, (decision, open_until) in decided.items():
        answers[key] = _told(site, decision)
        if decision.admitted:
            # An answer of "open" ends to be known when the opening does, whoever lives then.
            known_until = min(known_until, open_until)
    shut = [told for told in answers.values() if told != OPEN]
    return FreezeState({**answers, ALL: shut[0] if shut else OPEN}, known_until)


def _told(site: str, decision: Decision) -> str:
    if decision.admitted:
        return OPEN
    error = refusal(site, decision)
    return f"{error.what}; {error.mend}"


def config_map(state: FreezeState, synced_at: datetime) -> Object:
    """The ConfigMap that carries a state."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": names.FREEZE_STATE, "namespace": names.SYSTEM_NAMESPACE},
        "data": {
            **state.answers,
            # For people, and for policies of before there were scopes.
            "frozen": str(state.frozen).lower(),
            "message": state.message,
            "synced-at": synced_at.isoformat(timespec="seconds"),
        },
    }


def first_state() -> Object:
    """The ConfigMap before anybody has written it: a first provisioning passes a freeze."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": names.FREEZE_STATE, "namespace": names.SYSTEM_NAMESPACE},
        "data": {
            **dict.fromkeys((*(key_of(change) for change in SEEN), ALL), OPEN),
            "frozen": "false",
            "message": "nobody has told the state of freezes yet",
        },
    }
