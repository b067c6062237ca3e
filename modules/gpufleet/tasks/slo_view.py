"""How promises to users are shown."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from gpufleet.spec.slo_reports import SeriesValue, SloReport, SloRow, SloState
from gpufleet.tasks.console import facts, plain_table

_NONE: Final = "-"
_BAR: Final = 10
_STYLES: Final = {SloState.KEPT: "green", SloState.SPENT: "red", SloState.UNKNOWN: "yellow"}


def show(report: SloReport) -> None:
    """A line for each promise, with a bar of the error budget that is left."""
    facts.print(f"{report.fleet} {report.environment}, budgets over {report.window}, ", end="")
    facts.print(f"by {report.source}", soft_wrap=True)
    table = plain_table()
    for name in ("USE CASE", "SLO", "STATE"):
        table.add_column(name, no_wrap=True)
    for name in ("TARGET", "NOW", "LEFT"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in ("BURN 1h", "BURN 6h", "REQUESTS"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.rows:
        style = _STYLES[row.state]
        table.add_row(
            row.use_case,
            row.slo,
            f"[{style}]{row.state.value}[/]",
            _target(row),
            _current(row),
            _NONE if row.left is None else f"{100 * row.left:.0f} %",
            bar(row.left),
            _times(row.burn_1h),
            _times(row.burn_6h),
            f"{row.requests:,.0f}",
        )
    facts.print(table)
    for row in report.rows:
        if row.bound_s != row.target_s:
            facts.print(f"note: {row.use_case} {row.slo}: {row.objective}", soft_wrap=True)


def show_answers(found: Sequence[SeriesValue]) -> None:
    """A value and its labels a line, as PromQL writes them."""
    for row in found:
        labels = ", ".join(f'{name}="{value}"' for name, value in sorted(row.labels.items()))
        facts.print(f"{row.value:g}  {{{labels}}}", soft_wrap=True, markup=False, highlight=False)
    if not found:
        facts.print("no series")


def bar(left: float | None) -> str:
    """Ten characters: full with the whole budget left, empty once it is spent."""
    if left is None:
        return ""
    full = round(_BAR * min(1.0, max(0.0, left)))
    return "█" * full + "░" * (_BAR - full)


def show_rules(rules: Mapping[str, Any]) -> None:
    """YAML, as Prometheus reads it, for each site."""
    for site, content in rules.items():
        sys.stdout.write(f"# {site}\n---\n{yaml.safe_dump(content, sort_keys=False)}")


def _target(row: SloRow) -> str:
    return f"{100 * row.budget:.3g} %" if row.target_s is None else f"{row.target_s:g} s"


def _current(row: SloRow) -> str:
    if row.current is None:
        return _NONE
    return f"{100 * row.current:.3g} %" if row.target_s is None else f"{row.current:.3g} s"


def _times(burn: float | None) -> str:
    return _NONE if burn is None else f"{burn:.1f}"
