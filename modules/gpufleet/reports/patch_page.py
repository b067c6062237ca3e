"""The story of a patch as one page: for a phone, for paper, and without a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import resources
from typing import Final

import jinja2

from gpufleet.spec.patching import HostOutcome, HostState, PatchPlan, PatchReport, WaveOutcome

_TEMPLATE: Final = "patch.html.jinja"
_LEAST_SHARE: Final = 0.5
"""Percent of the timeline that a bar takes at least: one of a second is seen too."""


@dataclass(frozen=True)
class Bar:
    """A host's time in the timeline."""

    outcome: HostOutcome
    wave: int
    left_percent: float
    width_percent: float


def patch_page(report: PatchReport, plan: PatchPlan, made_at: datetime) -> str:
    """The page, complete.

    Args:
        report: of the patch, as it stands.
        plan: what it was to do.
        made_at: when, as the page says it.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"moment": moment, "span": span}
    template = environment.from_string(
        resources.files("gpufleet.reports").joinpath(_TEMPLATE).read_text("utf-8")
    )
    ended_at = report.ended_at or made_at
    return template.render(
        report=report,
        plan=plan,
        bars=timeline(report.waves, report.begun_at, ended_at),
        counts=counts(report),
        seconds=(ended_at - report.begun_at).total_seconds(),
        ended_at=ended_at,
        made_at=made_at,
    )


def counts(report: PatchReport) -> list[tuple[str, int]]:
    """How many hosts are in each state, in the order of the states; none of those without any."""
    states = [outcome.state for outcome in report.hosts.values()]
    return [(state.value, states.count(state)) for state in HostState if state in states]


def timeline(waves: Sequence[WaveOutcome], begun_at: datetime, ended_at: datetime) -> list[Bar]:
    """When each host was worked on; its bar ends with its wave where nobody knows better.

    Hosts of a wave follow each other in batches: a bar begins where the wave does, and is as long
    as the host took.
    """
    whole_s = max((ended_at - begun_at).total_seconds(), 1.0)
    bars = []
    for wave in waves:
        left_s = (wave.begun_at - begun_at).total_seconds()
        left = _percent(left_s, whole_s)
        for outcome in wave.hosts:
            width = _percent(outcome.seconds, whole_s)
            width = min(max(width, _LEAST_SHARE), 100.0 - left)
            bars.append(Bar(outcome, wave.number, round(left, 2), round(max(width, 0.0), 2)))
    return bars


def moment(at: datetime) -> str:
    """A moment as people read it."""
    return f"{at:%Y-%m-%d %H:%M:%S %Z}"


def span(seconds: float) -> str:
    """A time as people read it."""
    return str(timedelta(seconds=round(seconds)))


def _percent(part_s: float, whole_s: float) -> float:
    return min(100.0, max(0.0, 100 * part_s / whole_s))
