"""The story of a drill as one page: each phase against the objective, and the trend."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Final

import jinja2

from gpufleet.reports.patch_page import moment
from gpufleet.spec.drills import DrillReport, PhaseTime, Trend

_TEMPLATE: Final = "drill.html.jinja"
_LEAST_SHARE: Final = 0.5
"""Percent that a bar takes at least: a phase of a moment is seen too."""


@dataclass(frozen=True)
class Bar:
    """A phase in the timeline."""

    time: PhaseTime
    from_s: float
    left_percent: float
    width_percent: float
    rto_percent: float | None
    """Share of the objective that it takes; none where there is none."""


def drill_page(
    report: DrillReport, earlier: Sequence[DrillReport], trend: Trend | None, made_at: datetime
) -> str:
    """The page, complete.

    Args:
        report: of the drill, as it stands.
        earlier: drills of the same scenario and target, this one too; oldest first.
        trend: how they go; none before one has ended.
        made_at: when, as the page says it.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"moment": moment, "seconds": seconds, "share": share}
    template = environment.from_string(
        resources.files("gpufleet.reports").joinpath(_TEMPLATE).read_text("utf-8")
    )
    bars, ends_percent = timeline(report)
    longest_s = max((each.recovered_s or 0.0 for each in earlier), default=0.0)
    return template.render(
        report=report,
        bars=bars,
        objective_percent=ends_percent,
        expected={each.phase: each.seconds for each in report.outlook.phases},
        earlier=earlier,
        longest_s=longest_s or 1.0,
        trend=trend,
        made_at=made_at,
    )


def timeline(report: DrillReport) -> tuple[list[Bar], float | None]:
    """Each phase as a bar from the failure on, and where the objective is.

    The whole width is the time that it took, or the objective where that is not much longer: of a
    drill that took a minute nothing would be seen on an hour.

    Returns:
        The bars; and the percent at which the objective ends, none where it is far to the right.
    """
    total_s = sum(each.seconds for each in report.phases)
    rto_s = report.rto_s
    whole_s = max(total_s, 1e-9)
    if rto_s is not None and rto_s <= 3 * whole_s:
        whole_s = max(whole_s, rto_s)
    bars, from_s = [], 0.0
    for each in report.phases:
        left = 100 * from_s / whole_s
        width = min(max(100 * each.seconds / whole_s, _LEAST_SHARE), 100 - left)
        of_rto = 100 * each.seconds / rto_s if rto_s else None
        bars.append(Bar(each, from_s, round(left, 2), round(max(width, 0.0), 2), of_rto))
        from_s += each.seconds
    seen = rto_s is not None and rto_s <= whole_s
    return bars, (round(100 * rto_s / whole_s, 2) if rto_s is not None and seen else None)


def seconds(value: float | None) -> str:
    """A time as people read it."""
    if value is None:
        return "-"
    return f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"  # noqa: PLR2004 - three digits


def share(part: float | None, whole: float | None) -> float:
    """Percent of a whole, within 0 and 100; all of it where there is no part."""
    if part is None or not whole:
        return 100.0
    return round(min(100.0, max(0.0, 100 * part / whole)), 2)
