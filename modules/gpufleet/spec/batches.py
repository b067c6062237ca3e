"""Batches of requests that wait for idle GPUs: what was asked, where it stands, what came out."""

from datetime import datetime
from enum import StrEnum
from typing import Final

from pydantic import Field

from gpufleet.spec.quantities import Name, Spec

BATCH_PATHS: Final = ("/v1/files", "/v1/batches")
"""What the gateway's workers hand on to `BATCH_SOCKET`, with everything below."""
BATCH_SOCKET: Final = "batches.sock"
"""In the gateway's folder; whoever may open it is believed about who asks."""
CALLER_KEY_HEADER: Final = "x-gpufleet-caller-key"
CALLER_TEAM_HEADER: Final = "x-gpufleet-caller-team"
CALLER_USE_CASES_HEADER: Final = "x-gpufleet-caller-use-cases"
"""Separated by commas."""


class Priority(StrEnum):
    """The order of batches among themselves; replicas of pools come before all of them."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class BatchState(StrEnum):
    """Where a batch stands, in the words of OpenAI's API."""

    VALIDATING = "validating"
    """It is with the worker, and has no Job yet."""
    IN_PROGRESS = "in_progress"
    """Its Job waits for idle GPUs or runs."""
    FINALIZING = "finalizing"
    """Its answers are put together."""
    COMPLETED = "completed"
    EXPIRED = "expired"
    """Its window is over; what was answered until then is kept."""
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    """What was answered until then is kept."""
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether nothing comes after it."""
        return self in {
            BatchState.COMPLETED,
            BatchState.EXPIRED,
            BatchState.CANCELLED,
            BatchState.FAILED,
        }


class StoredFile(Spec):
    """A file of requests or answers in the object store of a site."""

    id: str
    team: Name
    use_case: Name | None
    """Whose requests or answers they are; None for an input that no batch has used yet."""
    owner: str
    """Key or person that brought it."""
    filename: str
    purpose: str
    """`batch` for requests, `batch_output` for answers."""
    size_bytes: int
    site: Name
    key: str
    """In the environment's bucket."""
    created_at: datetime
    expires_at: datetime
    """It is deleted then."""


class BatchOrder(Spec):
    """What a batch's flow is asked to do."""

    id: str
    """Of the flow, of the Job, and of the batch."""
    use_case: Name
    team: Name
    owner: str
    """Key or person that asks."""
    pool: Name
    """The batch pool whose engine answers."""
    priority: Priority = Priority.NORMAL
    endpoint: str
    """Path that every request is for; empty where they differ."""
    input_file: str
    input_site: Name
    input_key: str
    requests: int
    created_at: datetime
    expires_at: datetime
    """Requests that have no answer by then get none."""
    metadata: dict[str, str] = Field(default_factory=dict)


class Batch(BatchOrder):
    """A batch as it stands."""

    state: BatchState
    site: Name | None = None
    """Where its Job is."""
    shards: int = 0
    completed: int = 0
    """Requests with an answer."""
    failed: int = 0
    """Requests with an error in its place."""
    output_file: str | None = None
    error_file: str | None = None
    started_at: datetime | None = None
    finalizing_at: datetime | None = None
    ended_at: datetime | None = None
    cancelling_at: datetime | None = None
    error: str = ""
    """Why it failed."""


class IdleGpus(Spec):
    """What a batch could use at one site."""

    site: Name
    node_group: Name
    gpus: int
    """GPUs of the batch quota that nobody uses."""
    reached: bool
    """False where its cluster does not answer."""


class BatchPlan(Spec):
    """What a submission would do."""

    use_case: Name
    pool: Name
    model: str
    requests: int
    shards: int
    gpus_per_shard: int
    sites: list[IdleGpus]
    """Where its data may be processed, in the order in which they would be chosen."""
    priority: Priority
    window_s: float
