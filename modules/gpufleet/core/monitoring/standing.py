"""How an objective stands: what is asked of Prometheus, and what follows from the answers."""

from dataclasses import dataclass
from typing import Final

from gpufleet.core.monitoring.burn import PERIOD_S
from gpufleet.core.monitoring.objectives import (
    Objective,
    Slo,
    failed_share,
    unserved_share,
)
from gpufleet.core.monitoring.rules import selector
from gpufleet.spec.slo_reports import SloRow, SloState

_LEAST_REQUESTS: Final = 10
"""Fewer say nothing about a share."""


@dataclass(frozen=True)
class Questions:
    """PromQL about one objective; each gives one series, or one for each use case."""

    bad: str
    burn_1h: str
    burn_6h: str
    current: str
    requests: str


@dataclass(frozen=True)
class Answers:
    """Values of `Questions`; None where Prometheus has no such series."""

    bad: float | None
    burn_1h: float | None
    burn_6h: float | None
    current: float | None
    requests: float | None


def budget_window(retention_s: int) -> str:
    """What an error budget is counted over: 30 days, or as long as series are kept."""
    return f"{min(PERIOD_S, retention_s) // 86400}d"


def questions(objective: Objective, window: str) -> Questions:
    """What to ask about an objective, its budget counted over a window."""
    current = bad_share(objective, "1h")
    if objective.bound_s is not None:
        buckets = f"{objective.stem}_bucket{selector(use_case=objective.use_case)}[1h]"
        current = f"histogram_quantile(0.95, sum by (le) (rate({buckets})))"
    return Questions(
        bad=bad_share(objective, window),
        burn_1h=bad_share(objective, "1h"),
        burn_6h=bad_share(objective, "6h"),
        current=current,
        requests=objective.events(window),
    )


def bad_share(objective: Objective, window: str) -> str:
    """PromQL of the share of bad requests, or of bad time, over a window."""
    if objective.slo is Slo.AVAILABILITY:
        return unserved_share(window, selector(use_case=objective.use_case))
    if objective.slo is Slo.ERRORS:
        return failed_share(window)
    return objective.slow_share(window)


def row_of(objective: Objective, answers: Answers) -> SloRow:
    """How an objective stands."""
    budget, bad = objective.budget, answers.bad
    requests = answers.requests or 0.0
    left = None if bad is None else 1 - bad / budget
    enough = objective.is_of_time or requests >= _LEAST_REQUESTS
    state = SloState.UNKNOWN
    if left is not None and enough:
        state = SloState.SPENT if left < 0 else SloState.KEPT
    return SloRow(
        use_case=objective.use_case,
        team=objective.team,
        slo=objective.slo.value,
        objective=objective.told,
        target_s=objective.target_s,
        bound_s=objective.bound_s,
        current=answers.current,
        requests=round(requests, 1),
        budget=budget,
        bad=bad,
        left=left,
        burn_1h=_over(answers.burn_1h, budget),
        burn_6h=_over(answers.burn_6h, budget),
        state=state,
    )


def _over(share: float | None, budget: float) -> float | None:
    return None if share is None else share / budget
