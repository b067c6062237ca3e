"""A load on an OpenAI endpoint: what is sent, what became of it, and the report of it all."""

from dataclasses import dataclass
from typing import Literal

from gpufleet.spec.quantities import Spec

Mode = Literal["open", "closed"]


@dataclass(frozen=True, slots=True)
class Sending:
    """One request that is to be sent."""

    at_s: float
    """Since the load's begin."""
    prompt_tokens: int
    output_tokens: int
    streamed: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request; times are seconds since the load's begin."""

    scheduled_s: float
    """When it was to be sent: latencies are counted from here, so that a request that a busy
    generator sends late does not look fast (coordinated omission; G. Tene, 2013)."""
    sent_s: float
    first_byte_s: float | None
    """When the answer's head came; none without an answer."""
    first_token_s: float | None
    """When the first token came; none for an answer that is not streamed."""
    ended_s: float
    in_flight: int
    """Requests in flight when it was sent, itself included."""
    streamed: bool
    status: int
    """HTTP status; 0 without an answer."""
    error: str = ""
    """Kind of the error; empty for a whole answer."""
    prompt_tokens: int = 0
    """As the server counted them."""
    output_tokens: int = 0
    chunks: int = 0
    """Parts of a streamed answer that held text."""
    route: str = ""
    """`x-gpufleet-route` of the answer; empty from other servers."""

    @property
    def latency_s(self) -> float:
        """From when it was to be sent to the answer's end, s."""
        return self.ended_s - self.scheduled_s

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token, s."""
        return None if self.first_token_s is None else self.first_token_s - self.scheduled_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time for each token after the first, s; none for fewer than two tokens."""
        if self.first_token_s is None or self.output_tokens <= 1:
            return None
        return (self.ended_s - self.first_token_s) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load is."""

    elapsed_s: float
    duration_s: float
    sent: int
    done: int
    failed: int
    in_flight: int


class Distribution(Spec):
    """Of one time over requests, s."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class LevelRow(Spec):
    """Requests that were sent while so many were in flight."""

    in_flight: str
    """Such as `4-7`; one number in a closed load."""
    requests: int
    failed: int
    ttft_s: Distribution | None
    tpot_s: Distribution | None
    latency_s: Distribution | None
    requests_per_s: float | None
    """Answers a second; only where the level was held, in a closed load."""
    output_tokens_per_s: float | None
    prompt_tokens_mean: float | None
    output_tokens_mean: float | None


class LoadTime(Spec):
    """How long a replica took from its pod's start to readiness."""

    pod: str
    seconds: float


class BenchReport(Spec):
    """The outcome of `bench.serve`."""

    url: str
    model: str
    mode: Mode
    """Open: requests come by the clock. Closed: a fixed number is in flight."""
    begun: str
    """ISO 8601, UTC."""
    arrivals: str
    """The declared arrival process; empty in a closed load."""
    rate_rps: float | None
    """As declared."""
    duration_s: float
    """As declared, or as far as it came."""
    interrupted: bool
    seed: int
    requests: int
    answered: int
    failed: int
    errors: dict[str, int]
    """Failed requests by kind."""
    routes: dict[str, int]
    """Whole answers by the route that the gateway tells."""
    late: int
    """Requests that the generator sent too late."""
    late_worst_s: float
    kept_up: bool
    """Whether the generator sent what was declared, when it was declared."""
    latency_s: Distribution | None
    """Whole answers, from when they were to be sent."""
    first_byte_s: Distribution | None
    ttft_s: Distribution | None
    """Streamed answers."""
    tpot_s: Distribution | None
    """Streamed answers of two tokens or more."""
    answers_per_s: float
    output_tokens_per_s: float
    prompt_tokens_per_s: float
    goodput_per_s: float
    """Answers a second that kept the targets."""
    within_slo: float
    """Share of all requests that were answered and kept the targets."""
    slo_p95_s: float | None
    """A request keeps the targets if its latency is within this,"""
    slo_ttft_s: float | None
    """and, where it was streamed, its time to the first token within this."""
    slo_kept: bool | None
    """Whether 95 of 100 requests were answered within each target; none without any."""
    levels: list[LevelRow]
    """By the requests in flight."""
    load_times: list[LoadTime]
    server: str
    """What the server says of itself; tells a simulated engine."""
    simulated: bool
    cpu_share: float
    """Processor time of the generator over wall time."""


class SavedMeasurement(Spec):
    """Where a measurement was, or would be, written."""

    file: str
    name: str
    block: str
    """What the file holds for it."""
    written: bool
    include_missing: bool
    """Whether the fleet file has still to include the file."""
