"""Requests that arrive at a pool, and what became of them."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
SERVED, SHED, FAILED = 0, 1, 2
"""A request's end: answered; refused at once by the full queue; given up after its time-outs."""


@dataclass(frozen=True)
class Requests:
    """A stream of requests, in the order of their arrival; all arrays have one length."""

    arrival_s: Floats
    prompt_tokens: Integers
    output_tokens: Integers
    use_case: Integers
    """Index of the use case that each belongs to."""

    def __len__(self) -> int:
        return len(self.arrival_s)


@dataclass(frozen=True)
class Limits:
    """What a pool accepts."""

    queue_limit: int
    """Most requests that wait for a place at one replica; more are shed."""
    timeout_s: float
    """A request that has no first token after this long is given up, and tried again."""
    retries: int = 0
    """How often a request that was shed or given up is tried again."""
    retry_after_s: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """What became of each request; times are seconds, NaN where it was not served."""

    requests: Requests
    status: Integers
    e2e_s: Floats
    """From the first arrival to the last token."""
    ttft_s: Floats
    """From the first arrival to the first token."""
    wait_s: Floats
    """From the first arrival to the begin of the prefill."""
    busy_share: float
    """Share of the replicas' time in which they did something."""

    def of(self, use_case: int) -> Self:
        """The same for one use case's requests; `busy_share` stays the pool's."""
        mine = self.requests.use_case == use_case
        requests = Requests(
            self.requests.arrival_s[mine],
            self.requests.prompt_tokens[mine],
            self.requests.output_tokens[mine],
            self.requests.use_case[mine],
        )
        return type(self)(
            requests,
            self.status[mine],
            self.e2e_s[mine],
            self.ttft_s[mine],
            self.wait_s[mine],
            self.busy_share,
        )
