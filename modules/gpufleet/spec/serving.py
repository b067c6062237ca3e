"""Model revisions, use cases and pools: what is served, for whom, with which targets."""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from gpufleet.spec import forms
from gpufleet.spec.quantities import (
    Bytes,
    Count,
    Digest,
    Fraction,
    ImageReference,
    Integer,
    Money,
    Name,
    Names,
    Number,
    Positive,
    Rate,
    RelativePath,
    RevisionName,
    Seconds,
    Spec,
    Text,
    TokenCount,
    Whole,
)
from gpufleet.spec.shapes import ModelShape


class Precision(StrEnum):
    """Number format of a revision's weights."""

    BF16 = "bf16"
    FP8 = "fp8"
    FP4 = "fp4"
    INT4 = "int4"

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes that one parameter takes; fp4 and int4 carry a scale for each 16 or 32 values."""
        return {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625, "int4": 0.53}[self.value]


Argument = Text | bool | int | Annotated[float, Field(allow_inf_nan=False)]
"""The value of a vLLM flag; true gives the bare flag, false leaves it out."""

POOL_ARGUMENTS: Final = frozenset(
    {
        "served-model-name",
        "host",
        "port",
        "tensor-parallel-size",
        "pipeline-parallel-size",
        "max-num-seqs",
        "max-model-len",
        "gpu-memory-utilization",
    }
)
"""Flags that follow from a pool, so that a revision cannot say something else."""


class Engine(Spec):
    """The server that runs a revision: an image by digest and its arguments."""

    image: ImageReference
    """Image of the server."""
    arguments: dict[Annotated[str, Field(pattern=forms.FLAG, max_length=60)], Argument] = Field(
        default_factory=dict
    )
    """Further vLLM flags by name without dashes; parallelism and limits come from the pool."""


class ModelRevision(Spec):
    """An immutable model artifact with the engine that serves it, all by digest."""

    model: Text
    """The public name of the architecture, as in the model's configuration file."""
    digest: Digest
    """Of the artifact, as `snapshot.take` and `snapshot.show` tell it."""
    source: Annotated[str, Field(pattern=forms.ARTIFACT, max_length=300)] | None = None
    """Snapshots that it is restored from, `s3://BUCKET/REVISION` in the site's object store; those
    of its own name in the environment's bucket where it is not given."""
    parameters: Annotated[Integer, Field(ge=1_000_000, le=10**14)]
    """Number of parameters, experts included."""
    precision: Precision
    """Number format of the weights."""
    weights_bytes: Bytes | None = None
    """Size of the weights; computed from parameters and precision where it is not given."""
    kv_bytes_per_token: Bytes
    """KV cache for one token over all layers, bytes."""
    max_context_tokens: TokenCount
    """Longest context that the model accepts, prompt and answer together."""
    load_time_s: Seconds
    """Measured time from the container's start to the first token, weights on local storage."""
    license: Text
    """Licence of the weights."""
    shape: ModelShape | None = None
    """Dimensions of the model, where the built-in table lacks `model`."""
    engine: Engine

    @property
    def size_bytes(self) -> int:
        """Size of the weights in memory, bytes."""
        return self.weights_bytes or round(self.parameters * self.precision.bytes_per_parameter)


class ServingClass(StrEnum):
    """Interactive work has a person waiting; batch work has a deadline. Never in one pool."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class DataClass(StrEnum):
    """How far data may travel: restricted never leaves the declared residency."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"
    RESTRICTED = "restricted"


class Tokens(Spec):
    """Lengths of a use case's requests, tokens."""

    prompt_mean: Positive
    """Mean length of prompts."""
    prompt_p95: Positive
    """95th percentile of the length of prompts."""
    output_mean: Positive
    """Mean length of answers."""
    output_p95: Positive
    """95th percentile of the length of answers."""
    output_max: TokenCount
    """The longest generation that is allowed; drains wait for it."""


class Peak(Spec):
    """A time when traffic is a multiple of the usual, such as quarter end."""

    name: Text
    """What it is called in forecasts."""
    multiplier: Annotated[Number, Field(ge=1, le=1000)]
    """Traffic as a multiple of the usual."""
    recurrence: Annotated[str, Field(pattern=forms.RECURRENCE, max_length=200)]
    """An iCalendar recurrence rule, in the traffic's time zone."""
    duration_s: Seconds
    """How long each occurrence lasts."""


class Traffic(Spec):
    """How many requests arrive, and how unevenly."""

    rate_rps: Annotated[Number, Field(gt=0, le=1e6)]
    """Requests for each second in the busiest hour of a usual day."""
    time_zone: Text = "UTC"
    """IANA name of the zone of `hourly`, `weekly` and `peaks`."""
    hourly: Annotated[list[Rate], Field(min_length=24, max_length=24)] | None = None
    """Share of `rate_rps` for each hour of the day, local time; flat where it is not given."""
    weekly: Annotated[list[Rate], Field(min_length=7, max_length=7)] | None = None
    """Factor for each weekday, Monday first; 1 where it is not given."""
    peaks: list[Peak] = Field(default_factory=list)
    """Declared peaks; capacity is sized for them."""
    index_of_dispersion: Annotated[Number, Field(ge=1, le=1000)] = 4.0
    """Variance over mean of the counts in 10 s windows: 1 is Poisson, a chat service near 4."""
    trace: RelativePath | None = None
    """Recorded arrivals (CSV: arrival_s, prompt_tokens, output_tokens) that capacity is sized on
    instead of `index_of_dispersion` and `tokens`; their times are scaled to `rate_rps`."""


class Slo(Spec):
    """What the use case's users are promised."""

    p95_s: Seconds
    """95th percentile of the time from request to last token."""
    ttft_p95_s: Seconds
    """95th percentile of the time to the first token."""
    error_rate: Fraction
    """Largest share of requests that may fail."""
    availability: Annotated[Number, Field(gt=0, lt=1)]
    """Share of time in which the use case is served."""


class HostedAlternative(Spec):
    """The hosted API that could serve the use case, if its data may leave."""

    provider: Text
    """The API's provider."""
    model: Text
    """The provider's name of the model."""
    monthly_cap: Money
    """Most that may be spent in a month, in the fleet's currency."""
    url: Annotated[str, Field(pattern=forms.BASE_URL, max_length=200)] | None = None
    """Base address of the API where it is not the provider's own."""


class UseCase(Spec):
    """A team's traffic with its targets."""

    team: Name
    """The team that owns it."""
    class_: Annotated[ServingClass, Field(alias="class")]
    """Whether a person waits."""
    model: RevisionName
    """The revision that answers."""
    fallback: RevisionName | None = None
    """A smaller revision that answers when the first choice is overloaded."""
    traffic: Traffic
    tokens: Tokens
    slo: Slo
    rto_s: Seconds
    """Recovery time objective: from a declared failure to a verified answer."""
    rpo_s: Seconds
    """Recovery point objective: how much recorded work may be lost."""
    data_class: DataClass
    """How far its data may travel."""
    residency: Annotated[Names, Field(min_length=1)]
    """Regions in which the data may be processed."""
    success_rate: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Share of requests that end in a successful task; cost per successful task divides by it."""
    hosted: HostedAlternative | None = None
    summary_tokens: TokenCount | None = None
    """Longest answer in summary mode; no summary mode where it is not given."""
    cache_s: Seconds | None = None
    """How long an answer may be given again to the same key for the same request; never where it
    is not given."""


class Placement(Spec):
    """A pool's replicas on one node group."""

    replicas: Annotated[Integer, Field(ge=0, le=10_000)]
    """Replicas that always run."""
    max_replicas: Whole | None = None
    """Most that autoscaling may run; the same as `replicas` where it is not given."""
    nodes_per_replica: Annotated[Integer, Field(ge=1, le=64)] = 1
    """Nodes that one replica spans (pipeline parallel)."""
    gpus_per_node: Annotated[Integer, Field(ge=1, le=16)]
    """GPUs that a replica takes on each of its nodes (tensor parallel)."""

    @property
    def ceiling(self) -> int:
        """Most replicas that may run."""
        return self.replicas if self.max_replicas is None else self.max_replicas

    @property
    def gpus_per_replica(self) -> int:
        """GPUs of one replica over all its nodes."""
        return self.nodes_per_replica * self.gpus_per_node


class Prewarm(Spec):
    """Replicas that have to run before a declared peak begins."""

    name: Text
    """Of the peak."""
    recurrence: Annotated[str, Field(pattern=forms.RECURRENCE, max_length=200)]
    """The peak's iCalendar rule, in `time_zone`."""
    time_zone: Text = "UTC"
    """IANA name of the rule's zone."""
    lead_s: Seconds
    """How long before the peak the replicas are started: load time, with a margin."""
    duration_s: Seconds
    """How long the peak lasts."""
    replicas: Annotated[dict[Name, Whole], Field(min_length=1)]
    """Replicas that have to be ready by node group."""


class UseCaseLimits(Spec):
    """What the gateway accepts of one use case."""

    concurrency_limit: Count
    """Requests in flight over all replicas."""
    queue_time_limit_s: Seconds
    """Predicted time in queue at which requests overflow."""


class Pool(Spec):
    """A set of replicas that serves one model revision for one class."""

    class_: Annotated[ServingClass, Field(alias="class")]
    """One class, the same as that of its use cases."""
    model: RevisionName
    """A model revision."""
    use_cases: Names = Field(default_factory=list)
    """Use cases that are routed here first."""
    placements: Annotated[dict[Name, Placement], Field(min_length=1)]
    """Replicas by node group; a node group belongs to one pool."""
    concurrency_limit: Count = 64
    """Requests in flight at one replica."""
    memory_utilization: Annotated[Number, Field(gt=0.1, le=0.98)] = 0.9
    """Share of GPU memory that the engine may take."""
    max_model_length_tokens: TokenCount | None = None
    """Longest context that the pool accepts; the model's own where it is not given."""
    min_available: Annotated[Number, Field(gt=0, le=1)] = 0.8
    """Share of replicas that voluntary disruptions leave running."""
    queue_time_target_s: Seconds = 1.0
    """Time in queue at which the autoscaler adds replicas."""
    queue_limit: Whole | None = None
    """Requests that wait at one replica, more are refused at once; no limit where not given."""
    prewarm: list[Prewarm] = Field(default_factory=list)
    """Replicas that have to run before a declared peak begins, as `plan.apply` finds them."""
    limits: dict[Name, UseCaseLimits] = Field(default_factory=dict)
    """What the gateway accepts, by use case, as `plan.apply` finds it."""
