"""Pulumi resources that are recorded, not made."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi.runtime import mocks, settings


@dataclass
class Recorder(mocks.Mocks):
    """Takes every registration."""

    made: list[mocks.MockResourceArgs] = field(default_factory=list)
    requests: dict[str, Any] = field(default_factory=dict)
    """The registration of each resource as the engine gets it, by name."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        self.made.append(args)
        return f"{args.name}-id", dict(args.inputs)

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], None]:
        return dict(args.args), None

    def of(self, kind: str) -> list[mocks.MockResourceArgs]:
        """Those of a type, by the end of its name."""
        return [made for made in self.made if made.typ.endswith(f":{kind}")]


class Monitor(mocks.MockMonitor):
    """Also keeps what the mocks do not tell: aliases, protection, what stays behind."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._recorder = recorder

    def RegisterResource(self, request: Any) -> Any:  # noqa: ANN401, N802 - the protocol's
        self._recorder.requests[request.name] = request
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]


@contextmanager
def recording() -> Iterator[Recorder]:
    """What programs declare is recorded from here on."""
    before = settings.SETTINGS
    found = Recorder()
    # Pulumi wants the thread's own loop, which every `asyncio.run` in it takes away.
    asyncio.set_event_loop(asyncio.new_event_loop())
    mocks.set_mocks(found, project="test", stack="test", preview=False, monitor=Monitor(found))
    try:
        yield found
    finally:
        settings.configure(before)


def declare(program: Callable[[], object]) -> None:
    """Run a program, and wait for everything it registers."""

    @pulumi.runtime.test  # type: ignore[untyped-decorator]
    def run() -> None:
        program()

    run()
