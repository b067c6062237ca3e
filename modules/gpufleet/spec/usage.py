"""What was served: one row for each hour or day, pool and use case."""

from datetime import UTC, datetime
from typing import Annotated, Final, Self

from pydantic import AwareDatetime, Field, field_validator, model_validator

from gpufleet.spec.quantities import Integer, Name, Number, Spec

FIRST_YEAR: Final = 2000
LAST_YEAR: Final = 2999
"""Years in which usage may lie: what is outside is a slip."""

Tally = Annotated[Integer, Field(ge=0, le=10**15)]
"""How often something happened in a row's time."""


class Usage(Spec):
    """What one use case had of one pool in an hour or a day."""

    begin: AwareDatetime
    """First moment, on a whole hour of UTC; any offset may be given."""
    hours: Annotated[Integer, Field(ge=1, le=24)] = 1
    """Length: 1 for an hour, 24 for a day."""
    pool: Name
    use_case: Name
    """`shared` where engines cannot tell the pool's use cases apart."""
    requests: Tally
    """Requests that were answered."""
    successful: Tally | None = None
    """Those that ended in a successful task; None where nobody counted."""
    prompt_tokens: Tally
    output_tokens: Tally
    gpu_hours: Annotated[Number, Field(ge=0, le=1e9)]
    """GPU-hours in which replicas ran for it."""
    mean_watts: Annotated[Number, Field(ge=0, le=1e5)] | None = None
    """Measured power of one GPU with its share of the node, W; None where it was not measured."""

    @field_validator("begin")
    @classmethod
    def _in_utc(cls, begin: datetime) -> datetime:
        if not FIRST_YEAR <= begin.year <= LAST_YEAR:
            message = f"lies outside the years {FIRST_YEAR} to {LAST_YEAR}"
            raise ValueError(message)
        moment = begin.astimezone(UTC)
        if moment.minute or moment.second or moment.microsecond:
            message = f"is {moment.isoformat()}, which is not a whole hour of UTC"
            raise ValueError(message)
        return moment

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.successful is not None and self.successful > self.requests:
            message = f"has more successful tasks ({self.successful}) than requests"
            raise ValueError(message)
        return self

    @property
    def key(self) -> tuple[datetime, str, str]:
        """What a row is about: a second one with this key replaces the first."""
        return self.begin, self.pool, self.use_case


SHARED: Final = "shared"
"""The use case of rows that are about all use cases of a pool together."""
NOBODY: Final = "nobody"
"""The team of what no use case can be charged for."""
