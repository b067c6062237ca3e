"""Resources that components declare, recorded."""

from collections.abc import Iterator

import pytest
from pulumi.runtime import mocks, settings
from tests.recorded import Monitor, Recorder


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    before = settings.SETTINGS
    found = Recorder()
    mocks.set_mocks(found, project="test", stack="test", preview=False, monitor=Monitor(found))
    yield found
    settings.configure(before)
