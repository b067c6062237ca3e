"""What follows from how a wave went so far: go on, stop, or bring its hosts back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from gpufleet.core.patching.gates import GateVerdict
from gpufleet.spec.patching import HostOutcome, HostState, PatchOrder

_FAILED: Final = frozenset({HostState.FAILED, HostState.ROLLED_BACK, HostState.QUARANTINED})
_UNHEARD: Final = frozenset({HostState.PENDING, HostState.RUNNING})


class Action(StrEnum):
    """What the flow does next."""

    GO_ON = "go on"
    STOP = "stop"
    """Nothing new starts; what was patched stays as it is."""
    ROLL_BACK = "roll back"
    """Nothing new starts, and the wave's hosts go back to what they had."""


@dataclass(frozen=True)
class Decision:
    """What to do, why, and with which hosts, by name."""

    action: Action
    reason: str = ""
    roll_back: list[str] = field(default_factory=list)
    quarantine: list[str] = field(default_factory=list)


def decide(
    order: PatchOrder,
    outcomes: Sequence[HostOutcome],
    gates: Sequence[GateVerdict] = (),
    *,
    can_go_back: bool,
) -> Decision:
    """Decide after a batch, or during the soak after a wave.

    A host of which nothing was heard since its batch ended is quarantined: nobody knows what it
    has. Failures that the order allows do not stop a wave, unless every host of it has failed.

    Args:
        order: with the failures that it allows in one wave.
        outcomes: of the wave's hosts whose batches have ended.
        gates: what they say; none while the wave still runs.
        can_go_back: whether the component can be installed in its version of before.
    """
    lost = [outcome.host for outcome in outcomes if outcome.state in _UNHEARD]
    failed = [outcome.host for outcome in outcomes if outcome.state in _FAILED | _UNHEARD]
    reason = _reason(order, outcomes, failed, gates)
    if not reason:
        return Decision(Action.GO_ON, quarantine=lost)
    if not can_go_back:
        return Decision(Action.STOP, reason, quarantine=lost)
    patched = [outcome.host for outcome in outcomes if outcome.state is HostState.DONE]
    action = Action.ROLL_BACK if patched else Action.STOP
    return Decision(action, reason, roll_back=patched, quarantine=lost)


def _reason(
    order: PatchOrder,
    outcomes: Sequence[HostOutcome],
    failed: Sequence[str],
    gates: Sequence[GateVerdict],
) -> str:
    told = ", ".join(failed)
    if len(failed) > order.failures_allowed:
        allowed = order.failures_allowed
        return f"{len(failed)} of {len(outcomes)} hosts failed ({told}), {allowed} may"
    if failed and len(failed) == len(outcomes):
        return f"every host of the wave failed ({told})"
    return "; ".join(verdict.reason for verdict in gates if not verdict.holds)
