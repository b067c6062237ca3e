"""Whether something may change now: the one place that decides it.

Deny beats allow; what cannot be known counts as frozen. A window holds from its start up to, and
not including, its end. Moments are compared in UTC: in one zone Python compares wall clocks, which
are wrong when clocks change.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from gpufleet.spec.errors import PolicyRefused
from gpufleet.spec.windows import HORIZON, Calendar, Window


class Purpose(StrEnum):
    """Why something is to change."""

    CHANGE = "change"
    RESTORE = "restore"
    QUARANTINE = "quarantine"
    ROLLBACK = "rollback"
    SELF_HEALING = "self-healing"
    AUTOSCALING = "autoscaling"
    FIRST_PROVISIONING = "first provisioning"


EXEMPT: Final = frozenset(Purpose) - {Purpose.CHANGE}
"""What goes on in a freeze: stopping it would do more harm than the change."""


@dataclass(frozen=True)
class Decision:
    """Whether a change may begin, why not, and when it could at the earliest."""

    admitted: bool
    reason: str = ""
    window: Window | None = None
    opens: datetime | None = None
    """Empty where no opening is known within `HORIZON`."""
    exempt: bool = False


def decide(
    calendars: Sequence[Calendar],
    now: datetime,
    *,
    required: bool = True,
    needs: timedelta = timedelta(),
    purpose: Purpose = Purpose.CHANGE,
) -> Decision:
    """Decide on a change that would begin now.

    Args:
        calendars: every calendar that holds for the target.
        now: with a time zone.
        required: whether having no calendar at all counts as frozen.
        needs: time that the change takes with its rollback; it has to end before the next window.
        purpose: exempt purposes are always admitted, and marked.
    """
    refusal = _refusal(calendars, _utc(now), required=required, needs=needs)
    if refusal is None:
        return Decision(admitted=True)
    if purpose in EXEMPT:
        return Decision(admitted=True, reason=refusal.reason, window=refusal.window, exempt=True)
    return refusal


def _refusal(
    calendars: Sequence[Calendar], now: datetime, *, required: bool, needs: timedelta
) -> Decision | None:
    if required and not calendars:
        reason = "no freeze calendar holds here, and governance.calendar_required is true"
        return Decision(admitted=False, reason=reason)
    for calendar in calendars:
        if calendar.problem:
            reason = f"calendar `{calendar.name}` counts as frozen: {calendar.problem}"
            return Decision(admitted=False, reason=reason)
    blocks = merged(window for calendar in calendars for window in calendar.windows)
    for block in blocks:
        if _utc(block.start) <= now < _utc(block.end):
            reason = f"freeze `{block.name}`"
        elif now < _utc(block.start) < now + needs:
            reason = f"it would not end, with its rollback, before freeze `{block.name}`"
        else:
            continue
        opens = _first_gap(blocks, block.end, needs)
        known = opens if _utc(opens) < now + HORIZON else None
        return Decision(admitted=False, reason=reason, window=block, opens=known)
    return None


def merged(windows: Iterable[Window]) -> list[Window]:
    """Windows that touch or overlap as one, by time; its name is that of the parts, joined."""
    blocks: list[Window] = []
    for window in sorted(windows, key=lambda window: _utc(window.start)):
        if _utc(window.end) <= _utc(window.start):
            continue
        last = blocks[-1] if blocks else None
        if last is None or _utc(window.start) > _utc(last.end):
            blocks.append(window)
            continue
        names = (
            last.name if window.name in last.name.split(" + ") else f"{last.name} + {window.name}"
        )
        blocks[-1] = Window(names, last.start, max(last.end, window.end, key=_utc))
    return blocks


def _first_gap(blocks: Sequence[Window], after: datetime, needs: timedelta) -> datetime:
    """The first moment from which `needs` fits before the next window."""
    opens = after
    for block in blocks:
        if _utc(opens) <= _utc(block.start) < _utc(opens) + needs:
            opens = block.end
    return opens


def refusal(site: str, decision: Decision) -> PolicyRefused:
    """The error for a change of a site that was not admitted."""
    if decision.opens is not None:
        mend = f"the next opening is {_shown(decision.opens)}"
    elif decision.window is not None:
        mend = f"no opening is known within {HORIZON.days} days; ask whoever keeps the calendar"
    else:
        mend = "mend or declare the calendar (freeze_calendars in the fleet file), then try again"
    window = decision.window
    span = f" ({_shown(window.start)} to {_shown(window.end)})" if window else ""
    return PolicyRefused(f"frozen: {decision.reason}{span}", where=f"site {site}", mend=mend)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _shown(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M %Z")
