"""How long a batch takes, so that it is begun only if it ends before the next freeze."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from gpufleet.spec.patching import Part

MIN_HISTORY: Final = 3
"""Fewer batches than this say less than the first estimate."""
STEPS_S: Final[Mapping[str, float]] = {
    "cordon": 60,
    "drain": 900,
    "stop clients": 120,
    "packages": 900,
    "firmware": 3600,
    "reboot": 900,
    "validate": 1200,
    "uncordon": 60,
}
"""First estimate of each step, s: when the roles give up. Of packages a quarter of that: they wait
an hour for a mirror that crawls. The hosts of a batch go side by side."""
_ALWAYS: Final = ("cordon", "drain", "stop clients", "validate", "uncordon")
_OF_PART: Final[Mapping[Part, tuple[str, ...]]] = {
    Part.DRIVER: ("packages", "reboot"),
    Part.BMC: ("firmware",),
    Part.VBIOS: ("firmware", "reboot"),
    Part.CONTAINERD: ("packages",),
    Part.TOOLKIT: ("packages",),
    Part.KERNEL: ("packages", "reboot"),
    Part.SECURITY: ("packages", "reboot"),
}
QUARANTINE_S: Final = 120.0
"""To cordon and mark the hosts of a batch that cannot go back, s."""


def batch_s(part: Part, history_s: Sequence[float]) -> float:
    """How long a batch takes at most, s: the 95th percentile of earlier ones.

    With fewer than `MIN_HISTORY`, the first estimate of its steps, or the longest so far.

    Args:
        part: what is installed.
        history_s: durations of earlier batches of the same part, s.
    """
    if len(history_s) >= MIN_HISTORY:
        return percentile_95(history_s)
    return max([first_estimate_s(part), *history_s])


def rollback_s(history_s: Sequence[float], *, can_go_back: bool, batch_s: float) -> float:
    """How long it takes to bring a batch back, s.

    The way back is the way there with another version, so that without a history of its own it
    takes as long as a batch.

    Args:
        history_s: durations of earlier rollbacks of the same part, s.
        can_go_back: whether it can be installed in its version of before; else hosts are
            quarantined.
        batch_s: as `batch_s` tells, s.
    """
    if not can_go_back:
        return QUARANTINE_S
    if len(history_s) >= MIN_HISTORY:
        return percentile_95(history_s)
    return max([batch_s, *history_s])


def first_estimate_s(part: Part) -> float:
    """What the steps of a host add up to, s."""
    return sum(STEPS_S[step] for step in (*_ALWAYS, *_OF_PART[part]))


def percentile_95(values: Sequence[float]) -> float:
    """The smallest value that at least 95 % of the values do not pass (nearest rank)."""
    ordered = sorted(values)
    return ordered[math.ceil(0.95 * len(ordered)) - 1]
