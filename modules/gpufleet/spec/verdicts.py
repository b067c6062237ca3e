"""Whether each use case should run locally, at a hosted API, or both; amounts for a month."""

from datetime import date
from decimal import Decimal
from enum import StrEnum

from gpufleet.spec.quantities import Spec


class Choice(StrEnum):
    """Where a use case is served."""

    LOCAL = "local"
    HOSTED = "hosted"
    HYBRID = "hybrid"
    """Locally for a usual day's busiest hour; what exceeds it at a hosted API."""


class ChoiceCost(Spec):
    """What one choice costs, or why it is none."""

    choice: Choice
    monthly: Decimal
    hosted_monthly: Decimal
    """What of it is spent at the hosted API."""
    cost_per_1k: Decimal
    """For 1,000 requests."""
    cost_per_task: Decimal
    """For one successful task."""
    impossible: str = ""
    """Why it cannot be chosen; empty where it can."""


class Reasons(Spec):
    """The three reasons that decide, each with its numbers."""

    compliance: str
    cost: str
    latency: str


class Scenario(Spec):
    """The verdict if traffic or utilization turn out otherwise."""

    traffic: float
    """Requests as a multiple of the declared ones."""
    utilization: float
    """What a GPU serves as a multiple of the planned."""
    verdict: Choice
    monthly: dict[Choice, Decimal]
    """Of each choice that is possible."""


class Lever(Spec):
    """Something that would make it cheaper."""

    lever: str
    monthly_worth: Decimal
    assumption: str


class TrafficCost(Spec):
    """What a month costs at some traffic, if the use case stood alone."""

    requests_monthly: int
    local: Decimal
    """With the smallest pool at least, and GPUs in proportion above it."""
    hosted: Decimal


class Verdict(Spec):
    """Where one use case should be served, and why."""

    use_case: str
    team: str
    pool: str
    data_class: str
    verdict: Choice
    reasons: Reasons
    requests_monthly: int
    hosted_model: str
    """The hosted model that it is compared with; empty where there is none."""
    choices: list[ChoiceCost]
    break_even_requests_monthly: int | None
    """Below it the hosted API is cheaper than the smallest pool of its own; None where one of the
    two is cheaper at any traffic."""
    break_even: str
    """The same as a sentence."""
    curve: list[TrafficCost]
    """Both sides from no traffic to twice the planned; empty where no hosted model compares."""
    scenarios: list[Scenario]
    """With 30 % less and more of traffic and of utilization."""
    robust: bool
    """Whether the verdict is the same in every scenario."""
    flips: list[str]
    """Where it turns."""
    levers: list[Lever]


class DecisionReport(Spec):
    """The verdict on every use case."""

    fleet: str
    environment: str
    currency: str
    prices: str
    """The price table."""
    priced: date
    verdicts: list[Verdict]
    monthly_local: Decimal
    """All use cases served locally."""
    monthly_decided: Decimal
    """All use cases as decided."""
    hosted_monthly: Decimal
    """Spent at hosted APIs as decided."""
    notes: list[str]
