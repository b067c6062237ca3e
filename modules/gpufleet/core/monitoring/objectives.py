"""What a use case is promised, as shares of bad events that a series can tell."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gpufleet.core.engine_metrics import REQUEST_BOUNDS_S, TTFT_BOUNDS_S, stricter_bound
from gpufleet.core.gateway import series
from gpufleet.core.monitoring.rules import INTERVAL_S, selector
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.serving import UseCase

SLOWER_ALLOWED: Final = 0.05
"""A 95th percentile holds as long as no more than this share of requests is slower."""
SMALLEST_BUDGET: Final = 1e-6
"""Where no request at all may fail, any failure burns faster than any limit."""
BUDGET: Final = "use_case:gpufleet_slo_budget:ratio"
"""Share of requests, or of time, that may be bad; labels use_case and slo."""
UNSERVED: Final = "use_case:gpufleet_unserved:bool"
"""1 while a use case is not served, else 0: what availability is measured by."""
UNSERVED_SHARE: Final = 0.5
"""A use case counts as not served while fewer than this share of its requests is answered."""
UNSERVED_WINDOW: Final = "2m"
UNSERVED_REQUESTS: Final = 3
"""Fewer in the window say nothing about whether a use case is served."""
GATEWAY_JOB: Final = "gateway"
_SECONDS: Final = {"m": 60, "h": 3600, "d": 86400}
_SEEN_WITHIN: Final = "1m"
"""A scrape that fails alone is no outage: the longest time between two is 15 s."""
_WORKER_SILENT_S: Final = 60
"""Workers tell every two seconds that they work; seen every 15 s at most."""
COUNTED: Final = "!~cancelled|limited"
"""Outcomes that say something about the service: not what a client cancelled, nor what its key may
not or no model could answer."""
_ASKED: Final = series.REQUESTS + selector(use_case="!", outcome=COUNTED)
"""Requests that named a use case, and count."""


class Slo(StrEnum):
    """The promises of a use case."""

    LATENCY = "latency"
    TTFT = "ttft"
    ERRORS = "errors"
    AVAILABILITY = "availability"


@dataclass(frozen=True)
class Objective:
    """One promise of one use case.

    Args:
        use_case: whose.
        team: that owns it.
        slo: which promise.
        budget: share of requests, or of time, that may be bad.
        target_s: the declared limit of a latency.
        bound_s: the bucket bound that it is measured at: the target, or the next one below.
    """

    use_case: str
    team: str
    slo: Slo
    budget: float
    target_s: float | None = None
    bound_s: float | None = None

    @property
    def is_of_time(self) -> bool:
        """Whether time is counted, not requests."""
        return self.slo is Slo.AVAILABILITY

    @property
    def told(self) -> str:
        """The promise in words, with the bound where it is not the declared target."""
        share = f"{100 * (1 - self.budget):.6g} %"
        if self.slo is Slo.ERRORS:
            return f"{share} of requests do not fail"
        if self.slo is Slo.AVAILABILITY:
            return f"served {share} of the time"
        what = "to the first token" if self.slo is Slo.TTFT else "to the last token"
        return f"{share} of requests within {self.target_s:g} s {what}{self.bound_told}"

    @property
    def bound_told(self) -> str:
        """What is said where the target lies between two bounds."""
        if self.bound_s is None or self.target_s is None or self.bound_s == self.target_s:
            return ""
        side = "below" if self.bound_s < self.target_s else "above"
        return f"; alerted at {self.bound_s:g} s, the bound {side} the declared {self.target_s:g} s"

    def slow_share(self, window: str) -> str:
        """PromQL of the share of requests slower than the bound; empty without any."""
        within = selector(use_case=self.use_case, le=le(self.bound_s or 0))
        every = selector(use_case=self.use_case)
        return (
            f"1 - sum(rate({self.stem}_bucket{within}[{window}])) "
            f"/ (sum(rate({self.stem}_count{every}[{window}])) > 0)"
        )

    def events(self, window: str) -> str:
        """PromQL of how many requests a window holds."""
        if self.bound_s is None:
            asked = selector(use_case=self.use_case, outcome=COUNTED)
            return f"sum(increase({series.REQUESTS}{asked}[{window}]))"
        every = selector(use_case=self.use_case)
        return f"sum(increase({self.stem}_count{every}[{window}]))"

    def bad_events(self, window: str) -> str:
        """PromQL of how many requests of a window failed, or were slower than the bound."""
        if self.bound_s is None:
            failed = selector(use_case=self.use_case, outcome="error")
            return f"sum(increase({series.REQUESTS}{failed}[{window}]))"
        within = selector(use_case=self.use_case, le=le(self.bound_s))
        return f"{self.events(window)} - sum(increase({self.stem}_bucket{within}[{window}]))"

    @property
    def stem(self) -> str:
        """Name of the histogram of a latency, without its suffix."""
        return series.TTFT_S if self.slo is Slo.TTFT else series.REQUEST_S


def objectives_of(fleet: Fleet) -> tuple[Objective, ...]:
    """Every promise of every use case, in the order of the fleet file."""
    return tuple(
        objective
        for name, use_case in fleet.use_cases.items()
        for objective in _objectives(name, use_case)
    )


def _objectives(name: str, use_case: UseCase) -> tuple[Objective, ...]:
    slo, team = use_case.slo, use_case.team
    return (
        Objective(
            name,
            team,
            Slo.LATENCY,
            SLOWER_ALLOWED,
            slo.p95_s,
            stricter_bound(slo.p95_s, REQUEST_BOUNDS_S),
        ),
        Objective(
            name,
            team,
            Slo.TTFT,
            SLOWER_ALLOWED,
            slo.ttft_p95_s,
            stricter_bound(slo.ttft_p95_s, TTFT_BOUNDS_S),
        ),
        Objective(name, team, Slo.ERRORS, max(slo.error_rate, SMALLEST_BUDGET)),
        Objective(name, team, Slo.AVAILABILITY, 1 - slo.availability),
    )


def failed_share(window: str) -> str:
    """PromQL of the share of failed requests by use case; empty without any request."""
    errors = series.REQUESTS + selector(use_case="!", outcome="error")
    failed = f"sum by (use_case) (rate({errors}[{window}]))"
    asked = f"sum by (use_case) (rate({_ASKED}[{window}]))"
    # Without a failure so far there is no such series: that is a share of 0.
    return f"({failed} or 0 * {asked}) / ({asked} > 0)"


def unserved() -> str:
    """PromQL of `UNSERVED`: nobody is answered, or the gateway itself does not answer.

    A refusal for overload is no service either.
    """
    window, by = UNSERVED_WINDOW, "sum by (use_case)"
    answers = series.REQUESTS + selector(use_case="!", outcome="ok")
    answered = f"{by} (rate({answers}[{window}]))"
    asked = f"{by} (rate({_ASKED}[{window}]))"
    few = f"({answered} or 0 * {asked}) / {asked} < bool {UNSERVED_SHARE}"
    enough = f"{by} (increase({_ASKED}[{window}])) >= {UNSERVED_REQUESTS}"
    declared = f"max by (use_case) ({BUDGET}{selector(slo=Slo.AVAILABILITY.value)})"
    down = f"0 * {declared} + on () group_left () ({gateway_down()})"
    # Down first: what was answered before it went down stays in the window for a while.
    return f"({down}) == 1 or ({few} and {enough}) or {down}"


def unserved_share(window: str, of: str = "") -> str:
    """PromQL of the share of a window in which use cases were not served.

    Time that nobody has seen is not counted: a gateway that starts for the first time would else
    have been down all its life.

    Args:
        window: such as `5m`, `1h`, `1d`.
        of: label matchers in braces.
    """
    seconds = int(window[:-1]) * _SECONDS[window[-1]]
    return f"sum_over_time({UNSERVED}{of}[{window}]) * {INTERVAL_S / seconds:.6g}"


def gateway_down() -> str:
    """PromQL that is 1 while no worker of the gateway works, else 0; empty where none is scraped.

    Its control process answers Prometheus, and may outlive the workers.
    """
    up = f"max(max_over_time(up{selector(job=GATEWAY_JOB)}[{_SEEN_WITHIN}]))"
    seen = f"max(max_over_time({series.WORKER_SEEN_AT}[{_SEEN_WITHIN}]))"
    works = f"time() - {seen} < bool {_WORKER_SILENT_S}"
    return f"1 - (({works}) * {up} or 0 * {up})"


def le(bound_s: float) -> str:
    """A bound as the label `le` has it: Prometheus writes whole numbers as 2.0."""
    return repr(float(bound_s))
