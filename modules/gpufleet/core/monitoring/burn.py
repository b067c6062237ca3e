"""Multi-window, multi-burn-rate alerts on the error budgets of use cases.

Source: The Site Reliability Workbook, chapter 5, "Multiwindow, Multi-Burn-Rate Alerts", table 5-8:
2 % of a 30-day budget in an hour, 5 % in six hours, 10 % in a day, 10 % in three days.
"""

from dataclasses import dataclass
from typing import Final

from gpufleet.core.monitoring.objectives import (
    BUDGET,
    UNSERVED,
    Objective,
    Slo,
    failed_share,
    unserved,
    unserved_share,
)
from gpufleet.core.monitoring.rules import Alert, Group, Record, Severity, selector

BAD_SHARE: Final = "use_case:gpufleet_slo_bad:ratio_rate"
"""Recorded for each window, with labels use_case and slo: the window ends the name."""
PERIOD_S: Final = 30 * 86400
"""Of an error budget."""
_HIGHEST_SHARE: Final = 0.9
"""A share of bad requests at which any budget's fastest alert fires: more than 1 never comes."""
_BAD_REQUESTS: Final = 3
"""In the long window, so that no single one decides."""
_REQUESTS: Final = 10
"""Fewer in the long window say nothing about a share."""
_WORDS: Final = {
    Slo.LATENCY: ("LatencyBudgetBurn", "requests are too slow"),
    Slo.TTFT: ("TtftBudgetBurn", "first tokens are too late"),
    Slo.ERRORS: ("ErrorBudgetBurn", "requests fail"),
    Slo.AVAILABILITY: ("AvailabilityBudgetBurn", "the use case is not served"),
}


@dataclass(frozen=True)
class Pair:
    """A long window that makes an alert certain, and a short one that ends it soon."""

    factor: float
    """Burn rate: 1 spends the budget in exactly 30 days."""
    long: str
    short: str
    long_s: int
    severity: Severity


PAIRS: Final = (
    Pair(14.4, "1h", "5m", 3600, Severity.PAGE),
    Pair(6, "6h", "30m", 6 * 3600, Severity.PAGE),
    Pair(3, "1d", "2h", 86400, Severity.TICKET),
    Pair(1, "3d", "6h", 3 * 86400, Severity.TICKET),
)


def pairs(retention_s: int) -> tuple[Pair, ...]:
    """The pairs whose long window a Prometheus still holds.

    A window that reaches beyond what is kept would be measured on less than it says.
    """
    return tuple(pair for pair in PAIRS if pair.long_s <= retention_s)


def threshold(objective: Objective, pair: Pair) -> float:
    """The share of bad events at which a pair fires.

    A budget above 1/14.4 would ask for more than everything: it fires at nine tenths.
    """
    return min(pair.factor * objective.budget, _HIGHEST_SHARE)


def shared_group(retention_s: int) -> Group:
    """What is recorded of all use cases in the same words: failures, and time without service."""
    errors, availability = ({"slo": slo.value} for slo in (Slo.ERRORS, Slo.AVAILABILITY))
    return Group(
        "gpufleet-slo",
        (
            Record(UNSERVED, unserved()),
            *(
                record
                for window in _windows(retention_s)
                for record in (
                    Record(BAD_SHARE + window, failed_share(window), errors),
                    Record(BAD_SHARE + window, unserved_share(window), availability),
                )
            ),
        ),
    )


def burn_group(use_case: str, objectives: tuple[Objective, ...], retention_s: int) -> Group:
    """Recordings and alerts of one use case."""
    records, alerts = [], []
    for objective in objectives:
        labels = {"use_case": use_case, "slo": objective.slo.value}
        records.append(Record(BUDGET, f"vector({objective.budget:.12g})", labels))
        if objective.bound_s is not None:
            records += [
                Record(BAD_SHARE + window, objective.slow_share(window), labels)
                for window in _windows(retention_s)
            ]
        for severity in Severity:
            chosen = [pair for pair in pairs(retention_s) if pair.severity is severity]
            alerts.append(_alert(objective, severity, chosen))
    return Group(f"gpufleet-use-case-{use_case}", (*records, *alerts))


def _windows(retention_s: int) -> tuple[str, ...]:
    used = pairs(retention_s)
    return tuple(dict.fromkeys(window for pair in used for window in (pair.short, pair.long)))


def _alert(objective: Objective, severity: Severity, chosen: list[Pair]) -> Alert:
    name, what = _WORDS[objective.slo]
    speeds = ", or ".join(
        f"{threshold(objective, pair) / objective.budget:.3g} times as fast as it may be, over "
        f"{pair.long} and over {pair.short}"
        for pair in chosen
    )
    return Alert(
        name=name,
        expr=" or ".join(_condition(objective, pair) for pair in chosen),
        severity=severity,
        runbook=f"use-cases#{objective.slo.value}",
        summary=f"{objective.use_case}: {what} ({{{{ $value | humanizePercentage }}}})",
        description=(
            f"Promised: {objective.told}. The error budget of 30 days is being spent {speeds}."
        ),
        labels={
            "use_case": objective.use_case,
            "team": objective.team,
            "slo": objective.slo.value,
        },
    )


def _condition(objective: Objective, pair: Pair) -> str:
    chosen = selector(use_case=objective.use_case, slo=objective.slo.value)
    limit = f"{threshold(objective, pair):.6g}"
    long, short = (f"{BAD_SHARE}{window}{chosen} > {limit}" for window in (pair.long, pair.short))
    if objective.is_of_time:
        return f"({long} and {short})"
    enough = f"{objective.events(pair.long)} >= {_REQUESTS}"
    certain = f"{objective.bad_events(pair.long)} >= {_BAD_REQUESTS}"
    return f"({long} and {short} and on() {enough} and on() {certain})"
