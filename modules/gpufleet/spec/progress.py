"""What long work tells while it goes on; the tasks layer shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, get_args

from pydantic import TypeAdapter


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


@dataclass(frozen=True)
class StepProgress:
    """A step of a flow; state is running, waiting, done, refused or failed."""

    flow: str
    step: str
    state: str
    elapsed_s: float
    detail: str


@dataclass(frozen=True)
class HostProgress:
    """A host that is patched; state is that of its outcome, `running` until then."""

    host: str
    wave: int
    state: str
    task: str
    elapsed_s: float


@dataclass(frozen=True)
class SnapshotProgress:
    """Bytes to or from a snapshot store; state is storing, restoring, verifying or done."""

    what: str
    """The revision that is taken, or the snapshot that is restored or verified."""
    state: str
    bytes_done: int
    bytes_total: int
    bytes_moved: int
    """Sent to the store, or fetched from it: what was there already is not."""
    rate_bytes_s: float
    """Of bytes done, since the begin."""
    remaining_s: float | None
    """At this rate; None before there is one."""
    elapsed_s: float

    @property
    def dedup_ratio(self) -> float | None:
        """Bytes done for each byte moved; None before any was."""
        return self.bytes_done / self.bytes_moved if self.bytes_moved else None


Progress = (
    EngineProgress
    | ProcessProgress
    | StackProgress
    | ReplicaProgress
    | StepProgress
    | HostProgress
    | SnapshotProgress
)
_KINDS: Final = {kind.__name__: kind for kind in get_args(Progress)}


@cache
def _adapter(kind: str) -> TypeAdapter[Progress]:
    """Made when it is needed: most processes read no events."""
    return TypeAdapter(_KINDS[kind])


def progress_from(kind: str, values: Mapping[str, Any]) -> Progress:
    """An event that was kept as plain values."""
    return _adapter(kind).validate_python(values)


def subject(event: Progress) -> str:
    """The thing that an event is about: a later event on it replaces the earlier one."""
    match event:
        case EngineProgress():
            about = "engines"
        case ProcessProgress(site=site):
            about = f"processes {site}"
        case StackProgress(stack=stack):
            about = f"stack {stack}"
        case ReplicaProgress(site=site):
            about = f"replicas {site}"
        case StepProgress(step=step):
            about = f"step {step}"
        case HostProgress(host=host):
            about = f"host {host}"
        case SnapshotProgress(what=what):
            about = f"snapshot {what}"
    return about


def turn(event: Progress) -> str:
    """The part of an event whose change is news."""
    match event:
        case EngineProgress(engine=engine, state=state):
            news = f"{engine} {state}"
        case ProcessProgress(process=process, state=state):
            news = f"{process} {state}"
        case StackProgress(state=state):
            news = state
        case ReplicaProgress(ready=ready, wanted=wanted):
            news = "ready" if ready >= wanted else "waiting"
        case StepProgress(state=state, detail=detail):
            news = f"{state} {detail}"
        case HostProgress(state=state):
            news = state
        case SnapshotProgress(state=state):
            news = state
    return news
