"""What came of a host, by what its playbook told, and what has to follow.

A host counts as good only if its own validation says so. One of which nobody knows how it stands is
brought back to its version of before, and is quarantined where that cannot be: it never serves
unproven.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pydantic import JsonValue

from gpufleet.spec.patching import HostChange, HostOutcome, HostState, Part
from gpufleet.spec.quantities import Spec

FORWARD_ONLY: Final = frozenset({Part.BMC, Part.VBIOS, Part.SECURITY})
"""Parts without a way back: firmware, and updates that have no one version."""
BAD: Final = frozenset({HostState.FAILED, HostState.ROLLED_BACK, HostState.QUARANTINED})


class Told(Protocol):
    """What is asked of a host's result; `HostResult` of the playbooks is one."""

    @property
    def report(self) -> Mapping[str, JsonValue]:
        """Of the role host_report; empty where it did not come that far."""

    @property
    def failed(self) -> bool:
        """Whether its run ended badly."""

    @property
    def unreachable(self) -> bool:
        """Whether it was gone at the end."""

    @property
    def failed_task(self) -> str:
        """The first task that failed."""

    @property
    def error(self) -> str:
        """What that task said."""

    @property
    def seconds(self) -> float:
        """How long it took, s."""


class Judged(Spec):
    """A host's outcome, with what decides about what follows."""

    outcome: HostOutcome
    proven: bool
    """Whether it was validated as it stands now."""
    reachable: bool = True

    @property
    def host(self) -> str:
        """Its name."""
        return self.outcome.host

    @property
    def state(self) -> HostState:
        """How far it is."""
        return self.outcome.state

    @property
    def is_bad(self) -> bool:
        """Whether it counts as a failure."""
        return self.state in BAD


@dataclass(frozen=True)
class Recovery:
    """What has to be done with hosts that cannot stay as they are."""

    back: Mapping[str, list[str]]
    """Hosts by the version that they go back to."""
    quarantine: list[str]

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.back or self.quarantine)


def judged(change: HostChange, told: Told) -> Judged:
    """What came of a host that was to be patched."""
    report = told.report
    state, proven = _standing(told)
    if _is_true(report.get("unfit")):
        state, proven = HostState.UNFIT, True
    good = state in {HostState.DONE, HostState.UNCHANGED}
    outcome = HostOutcome(
        host=change.host,
        state=state,
        before=str(report.get("before") or change.before),
        after=str(report.get("after") or ""),
        seconds=round(told.seconds, 1),
        failed_task="" if good else told.failed_task,
        error="" if good else _why(told),
    )
    return Judged(outcome=outcome, proven=proven, reachable=not told.unreachable)


def gone_back(before: Judged, told: Told) -> Judged:
    """What came of a host that was to be brought back.

    One that was validated, and that nothing has touched since, stays in service as it is: to
    quarantine it would take from the pools what serves well.
    """
    if before.state is HostState.DONE and before.proven and _is_left_alone(told):
        why = f"could not go back, still validated: {_why(told)}"
        kept = {
            "error": _joined(before.outcome.error, why),
            "seconds": round(before.outcome.seconds + told.seconds, 1),
            "failed_task": told.failed_task,
        }
        return before.model_copy(update={"outcome": before.outcome.model_copy(update=kept)})
    state, _ = _standing(told)
    good = state in {HostState.DONE, HostState.UNCHANGED}
    # Whatever its version is: a node that carries the taint does not serve.
    bad = HostState.QUARANTINED if state is HostState.QUARANTINED else HostState.FAILED
    first = before.outcome.error
    outcome = before.outcome.model_copy(
        update={
            "state": HostState.ROLLED_BACK if good else bad,
            "after": str(told.report.get("after") or ""),
            "seconds": round(before.outcome.seconds + told.seconds, 1),
            "error": first if good else _joined(first, f"it could not go back: {_why(told)}"),
            "failed_task": before.outcome.failed_task or ("" if good else told.failed_task),
        }
    )
    return Judged(outcome=outcome, proven=good, reachable=not told.unreachable)


def _standing(told: Told) -> tuple[HostState, bool]:
    """The state of a host after a run, and whether it is proven.

    What a playbook does after its report, such as counting the host as failed, changes nothing of
    it; a host that is gone since then stands as nobody has seen it.
    """
    report = told.report
    before, after = report.get("before"), report.get("after")
    validated = _is_true(report.get("validated"))
    same = bool(before) and before == after
    if _is_true(report.get("quarantined")):
        return HostState.QUARANTINED, False
    if not report or told.unreachable:
        return HostState.FAILED, False
    if report.get("reason") and _is_false(report.get("touched")):
        # Proven before, if nothing of an earlier run is left on the host or its node.
        whole = _is_false(report.get("record_open")) and _is_false(report.get("held"))
        return HostState.FAILED, whole
    if report.get("reason"):
        # Brought back by its own playbook; or perhaps never touched, which nobody has proven.
        back = validated and same
        return (HostState.ROLLED_BACK if back else HostState.FAILED), validated
    left = _is_true(report.get("record_open")) or _is_true(report.get("held"))
    if same and not told.failed:
        return (HostState.FAILED, False) if left else (HostState.UNCHANGED, True)
    return (HostState.DONE if validated else HostState.FAILED), validated


def _is_left_alone(told: Told) -> bool:
    """Whether a run did nothing to a host, nor to its node.

    Its record is not read where another change holds the host's lock.
    """
    report = told.report
    return (
        not told.unreachable
        and bool(report.get("reason"))
        and _is_false(report.get("touched"))
        and _is_false(report.get("held"))
        and not _is_true(report.get("record_open"))
        and not _is_true(report.get("quarantined"))
    )


def _why(told: Told) -> str:
    """Why a host is not as it was to be."""
    if told.unreachable and told.error:
        return told.error
    return str(told.report.get("reason") or told.error or "it was not validated")


def _is_true(value: JsonValue) -> bool:
    """A truth as Ansible tells it: templates may make text of it."""
    return value is True or str(value).lower() == "true"


def _is_false(value: JsonValue) -> bool:
    """Whether it was told, and is not so."""
    return value is False or str(value).lower() == "false"


def quarantined(before: Judged, told: Told) -> Judged:
    """What came of a host that was to be quarantined."""
    if not told.failed:
        outcome = before.outcome.model_copy(update={"state": HostState.QUARANTINED})
    else:
        why = f"it could not be quarantined: {told.error or 'nobody knows why'}"
        error = _joined(before.outcome.error, why)
        outcome = before.outcome.model_copy(update={"state": HostState.FAILED, "error": error})
    return before.model_copy(update={"outcome": outcome, "proven": False})


def recovery(found: Iterable[Judged], *, can_go_back: bool, stopped: bool) -> Recovery:
    """What has to be done with the hosts of a batch, or of a wave that was stopped.

    Validated hosts of a wave that was stopped go back with the others; where they cannot they stay
    in service: quarantine would take more from the pools than the patch did.

    Args:
        found: the hosts.
        can_go_back: whether the part can be installed in its version of before.
        stopped: whether nothing of the wave is to stay.
    """
    back: dict[str, list[str]] = {}
    quarantine = []
    for each in found:
        before = each.outcome.before
        returns = can_go_back and each.reachable and bool(before)
        wants_back = stopped and each.state is HostState.DONE
        if returns and (wants_back or _is_open(each)):
            back.setdefault(before, []).append(each.host)
        elif each.state is HostState.FAILED and not each.proven:
            quarantine.append(each.host)
    return Recovery(back, quarantine)


def after_recovery(found: Iterable[Judged]) -> list[str]:
    """Hosts that did not come back, and have to be quarantined."""
    return [each.host for each in found if each.state is HostState.FAILED and not each.proven]


def merged(old: Sequence[Judged], new: Iterable[Judged]) -> list[Judged]:
    """Outcomes with later ones in their place."""
    by_host = {each.host: each for each in new}
    return [by_host.get(each.host, each) for each in old]


def _is_open(each: Judged) -> bool:
    """Whether a host was touched and does not serve: it may still be brought back."""
    if each.state is HostState.QUARANTINED:
        return True
    return each.state is HostState.FAILED and not each.proven


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))
