"""What long work tells while it goes on; the tasks layer shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

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


Progress = (
    EngineProgress | ProcessProgress | StackProgress | ReplicaProgress | StepProgress | HostProgress
)
_KINDS: Final[Mapping[str, TypeAdapter[Progress]]] = {
    kind.__name__: TypeAdapter(kind)
    for kind in (
        EngineProgress,
        ProcessProgress,
        StackProgress,
        ReplicaProgress,
        StepProgress,
        HostProgress,
    )
}


def progress_from(kind: str, values: Mapping[str, Any]) -> Progress:
    """An event that was kept as plain values."""
    return _KINDS[kind].validate_python(values)


def subject(event: Progress) -> str:
    """The thing that an event is about: a later event on it replaces the earlier one."""
    match event:
        case EngineProgress():
            return "engines"
        case ProcessProgress(site=site):
            return f"processes {site}"
        case StackProgress(stack=stack):
            return f"stack {stack}"
        case ReplicaProgress(site=site):
            return f"replicas {site}"
        case StepProgress(step=step):
            return f"step {step}"
        case HostProgress(host=host):
            return f"host {host}"


def turn(event: Progress) -> str:
    """The part of an event whose change is news."""
    match event:
        case EngineProgress(engine=engine, state=state):
            return f"{engine} {state}"
        case ProcessProgress(process=process, state=state):
            return f"{process} {state}"
        case StackProgress(state=state):
            return state
        case ReplicaProgress(ready=ready, wanted=wanted):
            return "ready" if ready >= wanted else "waiting"
        case StepProgress(state=state, detail=detail):
            return f"{state} {detail}"
        case HostProgress(state=state):
            return state
