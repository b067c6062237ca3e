"""How use cases stand against what they were promised."""

from enum import StrEnum

from gpufleet.spec.quantities import Spec


class SloState(StrEnum):
    """How one promise stands."""

    KEPT = "kept"
    SPENT = "spent"
    """More than the error budget of the window is gone."""
    UNKNOWN = "unknown"
    """Too few requests to say."""


class SloRow(Spec):
    """One promise of one use case."""

    use_case: str
    team: str
    slo: str
    """latency, ttft, errors or availability."""
    objective: str
    """The promise in words, with the bucket bound that it is measured at."""
    target_s: float | None
    """The declared limit of a latency."""
    bound_s: float | None
    """The bucket bound that is measured and alerted at: the target, or the next one below."""
    current: float | None
    """Over the last hour: the 95th percentile in seconds, or the share that is bad."""
    requests: float
    """In the window of the budget."""
    budget: float
    """Share of requests, or of time, that may be bad."""
    bad: float | None
    """Share that was, in the window."""
    left: float | None
    """Share of the error budget that is left; below zero where it is spent."""
    burn_1h: float | None
    """How many times as fast as allowed the budget was spent in the last hour."""
    burn_6h: float | None
    """The same of six hours."""
    state: SloState


class SeriesValue(Spec):
    """One series of a Prometheus' answer."""

    labels: dict[str, str]
    value: float


class SloReport(Spec):
    """Every promise of an environment, or of one use case."""

    fleet: str
    environment: str
    source: str
    """The Prometheus that was asked."""
    window: str
    """What the budget is counted over: 30 days, or as long as that Prometheus keeps."""
    rows: list[SloRow]

    @property
    def is_good(self) -> bool:
        """Whether no budget is spent."""
        return all(row.state is not SloState.SPENT for row in self.rows)
