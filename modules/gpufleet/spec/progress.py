"""What long work tells while it goes on; the tasks layer shows it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineProgress:
    """A build: `index` of `total`; state is waiting, building or done."""

    engine: str
    index: int
    total: int
    state: str
    elapsed_s: float
    detail: str


@dataclass(frozen=True)
class ProcessProgress:
    """A process of the embedded platform; state is starting, ready, stopping or stopped."""

    site: str
    process: str
    state: str
    elapsed_s: float


@dataclass(frozen=True)
class StackProgress:
    """A stack: resources done of those known so far; `slowest` still waited for, longest first."""

    stack: str
    done: int
    total: int
    slowest: tuple[str, ...]
    elapsed_s: float
    state: str


@dataclass(frozen=True)
class ReplicaProgress:
    """Replicas ready of those wanted, over all pools of a site."""

    site: str
    ready: int
    wanted: int
    elapsed_s: float


Progress = EngineProgress | ProcessProgress | StackProgress | ReplicaProgress
