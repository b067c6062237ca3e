"""What was measured of a model's speed, and what money of other currencies is worth."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from gpufleet.spec.quantities import (
    Count,
    Date,
    Integer,
    Name,
    Number,
    Positive,
    RevisionName,
    Seconds,
    Spec,
    Text,
    TokenCount,
)


class MeasuredPoint(Spec):
    """One row of a benchmark: averages at a fixed number of requests in flight."""

    prompt_tokens: TokenCount
    """Length of every prompt."""
    output_tokens: TokenCount
    """Length of every answer."""
    concurrency: Count
    """Requests in flight at one replica."""
    ttft_s: Seconds
    """Mean time to the first token."""
    tpot_s: Seconds
    """Mean time for each token after the first."""


class Measurement(Spec):
    """What was measured of one revision on one GPU type: a rate, or points of a benchmark."""

    model: RevisionName
    """A model revision."""
    gpu_type: Name
    """A GPU type."""
    gpus_per_node: Annotated[Integer, Field(ge=1, le=16)] = 1
    """GPUs that the measured replica took on each of its nodes (tensor parallel)."""
    nodes_per_replica: Annotated[Integer, Field(ge=1, le=64)] = 1
    """Nodes that it spanned (pipeline parallel)."""
    rate_rps_per_gpu: Positive | None = None
    """Requests of the use case's own lengths that one GPU serves in a second, when it is full."""
    points: list[MeasuredPoint] = Field(default_factory=list)
    """Rows of a benchmark; a few at different concurrency are enough."""
    measured: Date
    """Day of the measurement."""
    source: Text
    """How it was measured, so that somebody else could do it again."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.rate_rps_per_gpu is None) is (not self.points):
            message = "needs either `rate_rps_per_gpu` or `points`"
            raise ValueError(message)
        return self


class ExchangeRate(Spec):
    """What one unit of another currency is worth."""

    rate: Annotated[Number, Field(gt=0, le=1e9)]
    """In the fleet's currency."""
    day: Date
    """Day of the rate."""
