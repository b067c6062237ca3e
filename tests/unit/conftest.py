"""Resources that components declare, recorded."""

import asyncio
from collections.abc import Iterator

import pytest
from pulumi.runtime import mocks, settings
from tests.recorded import Monitor, Recorder


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    before = settings.SETTINGS
    found = Recorder()
    # Pulumi wants the thread's own loop, which every `asyncio.run` in it takes away.
    asyncio.set_event_loop(asyncio.new_event_loop())
    mocks.set_mocks(found, project="test", stack="test", preview=False, monitor=Monitor(found))
    yield found
    settings.configure(before)
