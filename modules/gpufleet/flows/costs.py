"""Costs: forecast from the fleet file, actual from observed usage, and why they differ."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from gpufleet.core.cost.actual import actual, observed_utilization
from gpufleet.core.cost.forecast import forecast, forecast_of, midnight
from gpufleet.core.cost.serving import month_of
from gpufleet.core.cost.usage import (
    POOL,
    SITE,
    USE_CASE,
    Cell,
    Collected,
    demand_declared,
    demand_no_contradiction,
    queries,
    rows_of,
)
from gpufleet.core.cost.variance import compare
from gpufleet.edges.prometheus import Prometheus
from gpufleet.edges.usage_file import read_usage
from gpufleet.flows.ground import Ground, whoami
from gpufleet.local.platform import embedded_sites
from gpufleet.reports.focus import write_focus_csv
from gpufleet.spec import Fleet
from gpufleet.spec.cost_reports import CostComparison, CostReport
from gpufleet.spec.errors import BadInput
from gpufleet.spec.usage import FIRST_YEAR, LAST_YEAR, Usage

HOUR: Final = timedelta(hours=1)
MOST_MONTHS: Final = 60
_LONGEST_SPAN: Final = timedelta(days=31 * MOST_MONTHS)
_LONGEST: Final = timedelta(days=1)
"""Of a row of usage."""
_LOOKED_BACK: Final = timedelta(days=90)
"""How far observed utilization is looked at."""


@dataclass(frozen=True)
class Span:
    """A period between whole hours, UTC."""

    begin: datetime
    end: datetime

    @classmethod
    def of(cls, now: datetime, *, month: str = "", begin: str = "", end: str = "") -> "Span":
        """A period as people name it, up to the last hour that is over.

        Args:
            now: the time.
            month: such as 2026-11; the current one where nothing is given.
            begin: first day, such as 2026-11-05, instead of a month.
            end: last day; `begin`'s own where it is left out.

        Raises:
            BadInput: it is no period, or nothing of it is over.
        """
        if (month and begin) or (end and not begin):
            given = f"--month {month}" if month else f"--end {end}"
            raise BadInput("needs either a month, or a begin with its end", where=given)
        if begin:
            first = _day(begin, "--begin")
            after = _day(end, "--end") if end else first
            span = cls(midnight(first), midnight(after + timedelta(days=1)))
        else:
            first, after = month_of(_day(f"{month}-01", "--month") if month else now.date())
            span = cls(midnight(first), midnight(after))
        over = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        if span.end <= span.begin:
            raise BadInput("ends before it begins", where=f"{begin} to {end}")
        if span.end - span.begin > _LONGEST_SPAN:
            raise BadInput(f"is longer than {MOST_MONTHS} months", where=f"{begin} to {end}")
        if span.begin >= over:
            raise BadInput("nothing of it is over yet", where=f"{span.begin:%Y-%m-%d}")
        return cls(span.begin, min(span.end, over))


@dataclass(frozen=True)
class CollectPlan:
    """What a collection would write."""

    span: Span
    source: str
    collected: Collected


def months_of(text: str) -> int:
    """A number of months as people type it.

    Raises:
        BadInput: it is none, or not from 1 to 60.
    """
    if not re.fullmatch("[0-9]{1,2}", text) or not 1 <= int(text) <= MOST_MONTHS:
        what = f"has to be a whole number from 1 to {MOST_MONTHS}"
        raise BadInput(what, where=f"--months {text}")
    return int(text)


def demand_effect(  # noqa: PLR0913 - the options of one task
    *, collect: bool, prometheus: str, usage: str, apply: bool, focus: str, period: str
) -> None:
    """Refuse options of `cost.actual` that would do nothing beside the others.

    Args:
        collect: whether Prometheus is asked.
        prometheus: its address.
        usage: a CSV file.
        apply: whether what either gives is kept.
        focus: a file for the amounts.
        period: the month or first day that is asked for; empty where none is.

    Raises:
        BadInput: naming the option.
    """
    taken = collect or bool(usage)
    for needless, option, why in (
        (usage and collect, "--usage", "is another source than `--collect`: give one of them"),
        (prometheus and not collect, "--prometheus", "does nothing without `--collect`"),
        (
            usage and period,
            "--usage",
            "has its own period: leave out `--month`, `--begin`, `--end`",
        ),
        (apply and not taken, "--apply", "does nothing without `--collect` or `--usage`"),
        (focus and taken and not apply, "--focus", "does nothing here without `--apply`"),
    ):
        if needless:
            raise BadInput(why, where=option)


def forecast_costs(ground: Ground, months: int) -> CostReport:
    """Costs of the coming months, from this one, at the utilization that was observed.

    Raises:
        BadInput: the number of months.
    """
    if not 1 <= months <= MOST_MONTHS:
        raise BadInput(f"has to be from 1 to {MOST_MONTHS}", where=f"--months {months}")
    now = ground.clock()
    rows = ground.usage.between(now - _LOOKED_BACK, now)
    observed = observed_utilization(ground.fleet, rows)
    return forecast(ground.fleet, now.date(), months, observed=observed)


def actual_costs(ground: Ground, span: Span) -> CostReport:
    """Costs of a period, from the usage that was collected."""
    rows = _rows_in(ground, span)
    return actual(ground.fleet, rows, span.begin, span.end)


def compare_costs(ground: Ground, span: Span) -> CostComparison:
    """Why a period's actual cost differs from what the fleet file alone forecasts.

    Raises:
        BadInput: it is longer than a month, or nothing was observed in it.
    """
    if span.end > midnight(month_of(span.begin.date())[1]):
        raise BadInput("spans more than one month", where=f"{span.begin:%Y-%m-%d}")
    if not _rows_in(ground, span):
        raise BadInput(
            "no usage was collected in it",
            where=f"{span.begin:%Y-%m-%d} to {span.end:%Y-%m-%d}",
            mend="./fleet cost.actual --collect --apply, or --usage FILE.csv --apply",
        )
    planned = forecast_of(ground.fleet, [(span.begin, span.end)])
    return compare(planned, actual_costs(ground, span))


def _rows_in(ground: Ground, span: Span) -> list[Usage]:
    """Rows of which an hour lies in a period."""
    rows = ground.usage.between(span.begin - _LONGEST, span.end)
    return [row for row in rows if row.begin + row.hours * HOUR > span.begin]


def plan_collection(ground: Ground, span: Span, url: str = "") -> CollectPlan:
    """What Prometheus would give for a period; writes nothing.

    Raises:
        BadInput: no server is known.
        Retryable: a server does not answer.
    """
    urls = [url] if url else _embedded_urls(ground)
    servers = [Prometheus(each) for each in urls]
    try:
        observed = observe(ground.fleet, servers, span.begin, span.end)
    finally:
        for server in servers:
            server.close()
    collected = rows_of(ground.fleet, observed, span.begin, span.end)
    return CollectPlan(span, ", ".join(urls), collected)


def plan_import(ground: Ground, file: Path) -> CollectPlan:
    """What a CSV file would give; writes nothing.

    Raises:
        BadInput: with the line.
    """
    placed = read_usage(file)
    now = ground.clock()
    for place, row in placed:
        demand_declared(ground.fleet, place, row)
        if (end := row.begin + row.hours * HOUR) > now:
            raise BadInput(f"ends at {end:%Y-%m-%d %H:%M} UTC, which is not over yet", where=place)
    rows = [row for _, row in placed]
    begin = min(row.begin for row in rows)
    end = max(row.begin + row.hours * HOUR for row in rows)
    return CollectPlan(Span(begin, end), str(file), Collected(rows, []))


def plan_of(ground: Ground, span: Span, *, usage: str = "", prometheus: str = "") -> CollectPlan:
    """What a CSV file, where one is named, or else Prometheus would give; writes nothing.

    Raises:
        BadInput: an hour would count twice.
    """
    plan = plan_import(ground, Path(usage)) if usage else plan_collection(ground, span, prometheus)
    _demand_no_contradiction(ground, plan)
    return plan


def write_focus(ground: Ground, report: CostReport, file: str) -> None:
    """Write a report's amounts as a FOCUS 1.2 CSV file.

    Raises:
        Failed: it cannot be written.
    """
    write_focus_csv(ground.fleet, report, Path(file))


def write_collection(ground: Ground, plan: CollectPlan) -> int:
    """Keep what a plan would give; returns how many rows are new or differ.

    Raises:
        BadInput: an hour would count twice.
    """
    _demand_no_contradiction(ground, plan)
    changed = ground.usage.keep(plan.collected.rows)
    if changed:
        ground.note(
            "cost.collected",
            actor=whoami(),
            target=plan.source,
            begin=plan.span.begin.isoformat(),
            end=plan.span.end.isoformat(),
            rows=changed,
        )
    return changed


def _demand_no_contradiction(ground: Ground, plan: CollectPlan) -> None:
    kept = ground.usage.between(plan.span.begin - _LONGEST, plan.span.end)
    demand_no_contradiction(kept, plan.collected.rows)


def observe(
    fleet: Fleet, servers: Sequence[Prometheus], begin: datetime, end: datetime
) -> dict[str, dict[datetime, dict[Cell, float]]]:
    """What servers know of each whole hour: by query, end of the hour, and cell.

    Raises:
        Retryable: one does not answer.
    """
    return {
        name: _observed(servers, query, begin, end) for name, query in queries(fleet.slug).items()
    }


def _observed(
    servers: Sequence[Prometheus], query: str, begin: datetime, end: datetime
) -> dict[datetime, dict[Cell, float]]:
    found: dict[datetime, dict[Cell, float]] = {}
    for server in servers:
        for series in server.at_times(query, begin + HOUR, end, HOUR):
            for at, value in series.values.items():
                found.setdefault(at, {})[_cell(series.labels)] = value
    return found


def _cell(labels: Mapping[str, str]) -> Cell:
    return labels.get(SITE, ""), labels.get(POOL, ""), labels.get(USE_CASE, "")


def _embedded_urls(ground: Ground) -> list[str]:
    sites = embedded_sites(ground.fleet)
    if len(sites) < len(ground.fleet.sites):
        raise BadInput(
            "the Prometheus of a site that is not embedded has to be named",
            where="--prometheus",
            mend="--prometheus https://prometheus.example.com, or --usage FILE.csv",
        )
    return [f"http://127.0.0.1:{ground.state.port(site, 'prometheus')}" for site in sites]


def _day(text: str, option: str) -> date:
    mend = "such as 2026-11" if option == "--month" else "such as 2026-11-05"
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise BadInput("is not a date", where=f"{option} {text}", mend=mend) from None
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        what = f"lies outside the years {FIRST_YEAR} to {LAST_YEAR}"
        raise BadInput(what, where=f"{option} {text}", mend=mend)
    return day
