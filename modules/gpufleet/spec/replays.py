"""What a recorded trace would have seen at a pool of a given size."""

from gpufleet.spec.quantities import Spec


class Percentiles(Spec):
    """Of the requests that were served, s; none where nothing was."""

    p50: float | None
    p95: float | None
    p99: float | None


class ReplayReport(Spec):
    """The outcome of `plan.replay`."""

    fleet: str
    environment: str
    use_case: str
    pool: str
    model: str
    gpu_type: str
    gpus: int
    replicas: int
    tp: int
    """GPUs of a replica on each of its nodes."""
    pp: int
    """Nodes of a replica."""
    concurrency_limit: int
    """Requests in flight at one replica."""
    queue_limit: int | None
    """Most requests that wait at one replica; none where all may wait."""
    planned: str
    """Where GPU type, parallelism and concurrency limit come from."""
    evidence: str
    """What the speed is known from."""
    evidence_source: str
    requests: int
    rate_rps: float
    """Mean rate of the trace, as it was recorded."""
    index_of_dispersion: float | None
    """Variance over mean of its counts in windows of 10 s; none below one window."""
    served: int
    shed: int
    """Refused at once by a full queue."""
    failed: int
    """Given up, or longer than the KV cache."""
    e2e_s: Percentiles
    ttft_s: Percentiles
    wait_s: Percentiles
    utilization: float
    """Share of the replicas' time in which they do something."""
    p95_limit_s: float
    ttft_p95_limit_s: float
    error_rate_limit: float
    holds: bool
    """Whether every promise of the use case would have been kept."""
