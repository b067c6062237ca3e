"""What drills and tests do to the simulated replicas of an embedded site, and what they see."""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from gpufleet.spec.quantities import Name, Number, Seconds, Spec, Whole

STAYS_DOWN: Final = "stays down"
"""Said of a replica whose process has ended, and does not start again yet."""
PodName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]


class FaultKind(StrEnum):
    """What goes wrong with a replica."""

    OOM = "oom"
    """Its process is killed for want of memory."""
    HANG = "hang"
    """It accepts requests, and answers none; its metrics are still told."""
    SLOW = "slow"
    """Every step takes `factor` times as long."""
    ERRORS = "errors"
    """`share` of the requests get 500."""
    CRASH = "crash"
    """Its process ends; connections are reset."""
    POWER = "power"
    """Its machine loses power: its process ends, and nobody tells the cluster."""
    TRUNCATE = "truncate"
    """`share` of the streams end in the middle, without a word."""
    ANSWERS = "answers"
    """`share` of the answers are other ones than before."""


OF_REQUESTS = frozenset({FaultKind.ERRORS, FaultKind.TRUNCATE, FaultKind.ANSWERS})
"""Kinds whose `share` counts requests; that of all others counts replicas."""


class Fault(Spec):
    """A fault, and whom it hits: the replicas that there are now, never later ones."""

    kind: FaultKind
    pool: Name | None = None
    """Of every pool of the site where it is not given."""
    pod: PodName | None = None
    """Only this one."""
    factor: Annotated[Number, Field(gt=1, le=1000)] = 3.0
    """Of `slow`."""
    share: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Share of the requests of a replica, or of the replicas, rounded up; see `OF_REQUESTS`."""
    for_s: Seconds | None = None
    """Until it is cleared where it is not given. A process that has ended starts again at once, or
    after this time."""


class SimulatedReplica(Spec):
    """One simulated replica, as its node agent sees it."""

    site: str = ""
    pool: str
    namespace: str
    pod: str
    model: str
    address: str
    state: str
    """loading, ready, not ready, or draining."""
    restarts: Whole
    running: Whole
    waiting: Whole
    kv_usage: Number
    faults: list[str]
    """Those that it has now, in words."""
    speed: str
    """Where its speed comes from."""


class FaultReport(Spec):
    """Whom a fault hits, or has hit."""

    fault: Fault
    replicas: list[SimulatedReplica]
    applied: bool
